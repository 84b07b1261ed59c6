"""Image sets: a real sample that comes with jaxnas, and readers of the usual archives."""

from collections.abc import Callable

from jaxnas import check
from jaxnas.datasets.cifar import bundled_cifar10, load_cifar10, load_cifar100
from jaxnas.datasets.dataset import Dataset, create, digest, validate
from jaxnas.datasets.imagenet16 import load_imagenet16
from jaxnas.datasets.other import load_digits, load_npz, load_tfds
from jaxnas.datasets.sampling import batch, normalize, resize

__all__ = [
    "FORMS",
    "Dataset",
    "batch",
    "bundled_cifar10",
    "create",
    "digest",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_imagenet16",
    "load_npz",
    "load_tfds",
    "normalize",
    "resize",
    "validate",
]

_WITHOUT_PLACE: dict[str, Callable[[], Dataset]] = {
    "cifar10-sample": bundled_cifar10,
    "digits": load_digits,
}
_WITH_PLACE: dict[str, tuple[str, Callable[[str], Dataset]]] = {
    "cifar10": ("FOLDER", load_cifar10),
    "cifar100": ("FOLDER", load_cifar100),
    "imagenet16-120": ("FOLDER", load_imagenet16),
    "tfds": ("NAME", load_tfds),
    "npz": ("FILE", load_npz),
}

FORMS = (*_WITHOUT_PLACE, *(f"{kind}:{place}" for kind, (place, _) in _WITH_PLACE.items()))
"""What `load` accepts; the help text of a flag."""


def load(spec: str = "cifar10-sample") -> Dataset:
    """Return the data set that a flag names.

    Args:
        spec: one of `FORMS`: "cifar10-sample", "digits", "cifar10:FOLDER", "cifar100:FOLDER",
            "imagenet16-120:FOLDER", "tfds:NAME" or "npz:FILE".

    Raises:
        ValueError: if `spec` has none of these forms, or the data are not valid.
        FileNotFoundError: if a file of the data set is missing.
        ImportError: if the data set needs a library that is not installed.

    Examples:
        >>> from jaxnas import datasets
        >>> data = datasets.load("cifar10-sample")
        >>> data.x_train.shape, data.num_classes
        ((1000, 32, 32, 3), 10)
    """
    kind, _, place = check.instance("spec", spec, str, "a string").partition(":")
    if spec in _WITHOUT_PLACE:
        return _WITHOUT_PLACE[spec]()
    if kind in _WITH_PLACE and place:
        return _WITH_PLACE[kind][1](place)
    raise ValueError(f'The data set must be one of {", ".join(FORMS)}: got "{spec}".')
