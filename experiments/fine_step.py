"""The fine step of a two-step search: what decides among the candidates that were kept."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.common import Setting
from jaxnas import datasets, spaces
from jaxnas.benchmarks import TabularBenchmark
from jaxnas.runs import track
from jaxnas.training import TrainingOptions, accuracy, train
from jaxnas.types import Array, Outputs, Params, ScoreFn, SearchSpace

SpaceFn = Callable[[str], SearchSpace]
"""`of_norm(norm)`: a search space whose normalisation layers do that."""

_VALIDATION_SHARE = 5


def from_table(benchmark: TabularBenchmark) -> ScoreFn:
    """Return the look-up of CIFAR-10 validation accuracy after 12 epochs, in percent."""
    return lambda archs: benchmark.accuracy(archs, "cifar10", "valid_12ep")


def nasbench201_like(space: SearchSpace) -> SpaceFn:
    """Return NAS-Bench-201 in the sizes of a space, for any normalisation mode."""
    sizes = {name: value for name, value in space.options.items() if name != "norm"}
    return lambda norm: spaces.nasbench201(**sizes, norm=norm)


class Trainer:
    """Trains candidates for real, each once, and remembers how they did.

    A fifth of the training images of each class is held out: their accuracy decides. The test
    images are for reporting.

    Attributes:
        test_accuracy: percent, of what has been trained, by the string of the architecture.
    """

    def __init__(
        self, own: Setting, of_norm: SpaceFn, options: TrainingOptions, folder: Path
    ) -> None:
        """Make a trainer.

        Args:
            own: the images.
            of_norm: the space of a normalisation mode.
            options: of the training.
            folder: of all that is trained.
        """
        self._learning, self._judging = of_norm("batch"), of_norm("eval")
        self._options = options
        sizes = {name: own for name, own in self._learning.options.items() if name != "norm"}
        what = json.dumps([sizes, own.context["data"], own.image_size, options])
        self._folder = folder / hashlib.sha256(what.encode()).hexdigest()[:12]
        dataset = own.dataset
        images, test_images = (
            datasets.resize(datasets.normalize(dataset, part), own.image_size)
            for part in (dataset.x_train, dataset.x_test)
        )
        held_out = _held_out(dataset.y_train, options.seed)
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
