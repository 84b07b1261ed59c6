"""What decides among the candidates that a score has kept: training them for a while."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxnas import datasets, spaces
from jaxnas.runs import track
from jaxnas.training import TrainingOptions, accuracy, train
from jaxnas.types import Array, Outputs, Params, SearchSpace

SpaceFn = Callable[[str], SearchSpace]
"""`of_norm(norm)`: a search space whose normalization layers do that."""

_VALIDATION_SHARE = 5


class Trainer:
    """Trains candidates for real, each once, and remembers how they did.

    A fifth of the training images of each class is held out: their accuracy decides. The test
    images are for reporting. A trainer is a score of searches: call it with `archs`, `int32[A, D]`,
    for accuracies `[A]`. Each training resumes from its checkpoint.

    Attributes:
        test_accuracy: percent, of what has been trained, by the string of the architecture.
    """

    def __init__(
        self,
        space: SearchSpace | SpaceFn,
        dataset: datasets.Dataset,
        options: TrainingOptions | None = None,
        folder: str | Path | None = None,
        *,
        image_size: int | None = None,
    ) -> None:
        """Make a trainer.

        Args:
            space: the search space, in any mode of normalization; or `of_norm(norm)`, for a space
                of which `spaces.BY_NAME` has no factory.
            dataset: the images.
            options: of the training; 12 epochs if None.
            folder: of the checkpoints of all that is trained; a temporary one if None.
            image_size: side of the images in pixels; None keeps that of the data set.

        Raises:
            ValueError: a space that is not made by its name and options.
        """
        of_norm = _of_norm(space) if isinstance(space, SearchSpace) else space
        self._learning, self._judging = of_norm("batch"), of_norm("eval")
        self._options = TrainingOptions(epochs=12) if options is None else options
        size = image_size or dataset.x_train.shape[1]
        sizes = {key: option for key, option in self._learning.options.items() if key != "norm"}
        name = self._learning.name
        what = json.dumps([name, sizes, datasets.digest(dataset), size, self._options])
        root = Path(tempfile.mkdtemp() if folder is None else folder)
        self._folder = root / hashlib.sha256(what.encode()).hexdigest()[:12]
        images, test_images = (
            datasets.resize(datasets.normalize(dataset, part), size)
            for part in (dataset.x_train, dataset.x_test)
        )
        held_out = _held_out(dataset.y_train, self._options.seed)
        self._train = images[~held_out], dataset.y_train[~held_out]
        self._valid = images[held_out], dataset.y_train[held_out]
        self._test = test_images, dataset.y_test
        self.test_accuracy: dict[str, float] = {}
        self._valid_accuracy: dict[str, float] = {}

    def __call__(self, archs: np.ndarray) -> np.ndarray:
        """Return the validation accuracy `[A]` in percent after training each of `archs`."""
        return np.array(
            [self._of(arch) for arch in track(archs, len(archs), "training")], np.float64
        )

    def _of(self, arch: np.ndarray) -> float:
        name = self._learning.to_string(arch)
        if name not in self._valid_accuracy:
            self._fit(arch, name)
        return self._valid_accuracy[name]

    def _fit(self, arch: np.ndarray, name: str) -> None:
        key = jax.random.key(self._options.seed)
        everything = self._learning.init(key, self._train[0][:1])
        network, params = self._learning.bind(arch, everything)
        judged = self._judging.bind(arch, everything)[0]

        def evaluate(params: Params, statistics: Params, inputs: Array) -> Outputs:
            return judged(params, inputs, statistics)

        result = train(
            network,
            evaluate,
            params,
            *self._train,
            *self._valid,
            self._options,
            checkpoint_dir=self._folder / "".join(map(str, arch)),
        )
        self._valid_accuracy[name] = result.history[-1].valid_accuracy
        self.test_accuracy[name] = accuracy(
            evaluate, result.params, result.statistics, *self._test, self._options.batch_size
        )


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return which examples are held out, `bool[N]`: a random fifth of each class, one at least."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(1, len(members) // _VALIDATION_SHARE)]] = True
    return held_out


def _of_norm(space: SearchSpace) -> SpaceFn:
    """Return the space in any mode of normalization, made by its name and options."""
    sizes = {name: value for name, value in space.options.items() if name != "norm"}

    def of_norm(norm: str) -> SearchSpace:
        try:
            return spaces.BY_NAME[space.name](**sizes, norm=norm)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"A trainer needs the space in two modes: got {space.name}, which is not made by "
                "its name and options; pass a function of the mode of normalization."
            ) from error

    return of_norm
