"""How well the paths of a supernet do with the weights that they inherit from it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxnas import encoding
from jaxnas.spaces.mobilenetv2_space import SearchedNetwork, num_choices
from jaxnas.training.options import smoothed_cross_entropy
from jaxnas.types import Array, Params


class Inherited(NamedTuple):
    """What paths do on validation images.

    Attributes:
        accuracy: percent, `float64[A]`.
        loss: nats, `float64[A]`; finer than the accuracy of a few hundred images.
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]


def inherited(
    module: SearchedNetwork,
    params: Params,
    archs: ArrayLike,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    batch_size: int = 256,
) -> Inherited:
    """Return how well paths `int32[A, L]` classify validation images, with one program for all.

    Normalization layers use the statistics of the validation batch itself, because no running ones
    belong to a path. Differs from Guo et al., "Single Path One-Shot", ECCV 2020, arXiv 1904.00420,
    section 3.4, which recalibrates them on training images: a batch of hundreds of images gives
    what those give, without a second pass.

    Args:
        module: the supernet, of norm `batch`.
        params: its parameters.
        archs: the paths.
        images: `[N, H, W, C]`, normalized.
        labels: `int[N]`.
        batch_size: images at a time; what is left over from full batches is left out.

    Raises:
        ValueError: images and labels that do not fit, or paths that are none.
    """
    choices = num_choices(module.layout)
    paths = jnp.asarray(encoding.validate_archs(archs, choices))
    inputs, targets = jnp.asarray(images), jnp.asarray(labels)
    if inputs.ndim != 4 or targets.shape != inputs.shape[:1] or not len(targets):
        raise ValueError(
            "Validation needs images [N, H, W, C] and labels [N], N > 0: got shapes "
            f"{list(inputs.shape)} and {list(targets.shape)}."
        )
    size = min(batch_size, len(targets))
    count = len(targets) // size
    inputs, targets = (
        each[: count * size].reshape(count, size, *each.shape[1:]) for each in (inputs, targets)
    )
    found = []
    for path in paths.reshape(-1, len(choices)):
        found.append(
            [_judge(module, params, path, *batch) for batch in zip(inputs, targets, strict=True)]
        )
    table = np.asarray(jax.device_get(found), np.float64).mean(1)
    shape = paths.shape[:-1]
    return Inherited(100 * table[:, 0].reshape(shape), table[:, 1].reshape(shape))


@functools.partial(jax.jit, static_argnums=0)
def _judge(
    module: SearchedNetwork, params: Params, path: Array, images: Array, labels: Array
) -> tuple[Array, Array]:
    logits = module.bound(path)(params, images).logits
    correct = (logits.argmax(-1) == labels).mean()
    return correct, smoothed_cross_entropy(logits, labels, 0.0)
