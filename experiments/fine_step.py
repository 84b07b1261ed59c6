"""The fine step of a two-step search: what decides among the candidates that were kept."""

from pathlib import Path

import jax
import numpy as np

from experiments.common import Setting
from jaxnas import datasets, spaces
from jaxnas.benchmarks import TabularBenchmark
from jaxnas.runs import track
from jaxnas.training import TrainingOptions, accuracy, train
from jaxnas.types import Array, Outputs, Params, ScoreFn

_VALIDATION_SHARE = 5


def from_table(benchmark: TabularBenchmark) -> ScoreFn:
    """Return the look-up of CIFAR-10 validation accuracy after 12 epochs, in percent."""
    return lambda archs: benchmark.accuracy(archs, "cifar10", "valid_12ep")


class Trainer:
    """Trains candidates for real, each once, and remembers how they did.

    Every fifth training image is held out: its accuracy decides. The test images are for reporting.
    """

    def __init__(self, own: Setting, options: TrainingOptions, folder: Path) -> None:
        sizes = {name: own.space.options[name] for name in ("channels", "cells", "classes")}
        self._learning = spaces.nasbench201(**sizes, norm="batch")
        self._judging = spaces.nasbench201(**sizes, norm="eval")
        self._options, self._folder = options, folder
        images = np.asarray(datasets.normalize(own.dataset, own.dataset.x_train))
        held_out = np.arange(len(images)) % _VALIDATION_SHARE == 0
        labels = own.dataset.y_train
        self._train = images[~held_out], labels[~held_out]
        self._valid = images[held_out], labels[held_out]
        self._test = datasets.normalize(own.dataset, own.dataset.x_test), own.dataset.y_test
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
            checkpoint_dir=self._folder / name.replace("|", "_").replace("~", ""),
        )
        self._valid_accuracy[name] = result.history[-1].valid_accuracy
        self.test_accuracy[name] = accuracy(
            evaluate, result.params, result.statistics, *self._test, self._options.batch_size
        )
