"""What decides among the candidates that a score has kept: training them for a while."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas import datasets, spaces
from jaxnas.runs import track
from jaxnas.scoring import validate_batch
from jaxnas.tasks import Loss, Targets, loss_name
from jaxnas.training import TrainingOptions, accuracy, train
from jaxnas.types import Array, Batch, Outputs, Params, SearchSpace

SpaceFn = Callable[[str], SearchSpace]
"""`of_norm(norm)`: a search space whose normalization layers do that."""

_VALIDATION_SHARE = 5


class Trainer:
    """Trains candidates for real, each once, and remembers how they did.

    A fifth of the examples is held out, of a data set a fifth of each class. Their accuracy
    decides, or for a task with a loss of its own the negative of their mean loss. The test images
    of a data set are for reporting. A trainer is a score of searches: call it with `archs`,
    `int32[A, D]`, for what decides, `[A]`. Each training resumes from its checkpoint.

    Attributes:
        decides: what the numbers are, "validation %" or "-validation loss".
        test_accuracy: percent, of what has been trained on a data set, by the string of the
            architecture.
    """

    def __init__(
        self,
        space: SearchSpace | SpaceFn,
        data: datasets.Dataset | Batch | tuple[Any, Any],
        options: TrainingOptions | None = None,
        folder: str | Path | None = None,
        *,
        image_size: int | None = None,
        loss: str | Loss | None = None,
    ) -> None:
        """Make a trainer.

        Args:
            space: the search space, in any mode of normalization; or `of_norm(norm)`, for a space
                of which `spaces.BY_NAME` has no factory. A space without such a mode is trained as
                it is: a BatchNorm of a family that is in training mode stays so when it is judged.
            data: a data set, or all examples as one batch `(inputs, labels)`, normalized.
            options: of the training; 12 epochs if None. Mirrored and shifted images keep their
                class; set `flip=False` and `crop_padding=0` where labels would not stay true.
            folder: of the checkpoints of all that is trained; a temporary one if None.
            image_size: side of the images of a data set in pixels; None keeps it.
            loss: of another task than one class an example; see `score`.

        Raises:
            ValueError: a space that is not made by its name and options, examples that are several
                arrays, a data set with a loss, or a folder and a loss without a name.
        """
        of_norm = _of_norm(space) if isinstance(space, SearchSpace) else space
        self._learning, self._judging = of_norm("batch"), of_norm("eval")
        self._options = TrainingOptions(epochs=12) if options is None else options
        if isinstance(data, datasets.Dataset):
            if loss is not None:
                raise ValueError(
                    "A data set has class numbers: got a loss besides; pass (inputs, labels)."
                )
            size = image_size or data.x_train.shape[1]
            inputs, test_images = (
                datasets.resize(datasets.normalize(data, part), size)
                for part in (data.x_train, data.x_test)
            )
            labels, test = data.y_train, (test_images, data.y_test)
            what: list[Any] = [datasets.digest(data), size]
        else:
            batch = validate_batch(data, loss)
            if not isinstance(batch.inputs, Array):
                raise ValueError(
                    "A trainer reads examples that are one array [N, ...]: got several; train the "
                    "network by jaxnas.training.train."
                )
            inputs, labels, test = batch.inputs, batch.labels, None
            what = [datasets.digest(batch), loss_name(labels, stored=folder is not None)]
        self._test = test
        self.decides = "-validation loss" if isinstance(labels, Targets) else "validation %"

        # What is held out, and what is left to learn from.
        held_out = _held_out(labels, len(inputs), self._options.seed)

        def part(chosen: np.ndarray) -> tuple[Any, Any]:
            return inputs[chosen], jax.tree.map(lambda leaf: leaf[chosen], labels)

        self._train, self._valid = part(~held_out), part(held_out)

        # A folder for each setting, so that no training is taken for one of another.
        sizes = {key: option for key, option in self._learning.options.items() if key != "norm"}
        setting = json.dumps([self._learning.name, sizes, *what, self._options])
        root = Path(tempfile.mkdtemp() if folder is None else folder)
        self._folder = root / hashlib.sha256(setting.encode()).hexdigest()[:12]
        self.test_accuracy: dict[str, float] = {}
        self._found: dict[str, float] = {}

    def __call__(self, archs: np.ndarray) -> np.ndarray:
        """Return what `decides`, `[A]`, after training each of `archs`; larger is better.

        It is `-inf` where a training diverged.
        """
        return np.array(
            [self._of(arch) for arch in track(archs, len(archs), "training")], np.float64
        )

    def _of(self, arch: np.ndarray) -> float:
        name = self._learning.to_string(arch)
        if name not in self._found:
            self._found[name] = self._fit(arch, name)
        return self._found[name]

    def _fit(self, arch: np.ndarray, name: str) -> float:
        key = jax.random.key(self._options.seed)
        everything = self._learning.init(key, self._train[0][:1])
        network, params = self._learning.bind(arch, everything)
        judged = self._judging.bind(arch, everything)[0]

        def judge(params: Params, statistics: Params, inputs: Array) -> Outputs:
            return judged(params, inputs, statistics) if statistics else judged(params, inputs)

        result = train(
            network,
            judge,
            params,
            *self._train,
            *self._valid,
            self._options,
            checkpoint_dir=self._folder / "-".join(map(str, arch)),
        )
        if self._test is not None:
            self.test_accuracy[name] = accuracy(
                judge, result.params, result.statistics, *self._test, self._options.batch_size
            )
        if result.diverged:
            return -np.inf
        last = result.history[-1]
        return last.valid_accuracy if self.decides == "validation %" else -last.valid_loss


def _held_out(labels: Any, count: int, seed: int) -> np.ndarray:
    """Return which examples are held out, `bool[N]`: a random fifth of each class, one at least.

    Of labels that are no class numbers, a random fifth.
    """
    rng = np.random.default_rng(seed)
    groups = np.zeros(count, int) if isinstance(labels, Targets) else np.asarray(labels)
    held_out = np.zeros(count, bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        held_out[members[: max(1, len(members) // _VALIDATION_SHARE)]] = True
    return held_out


def _of_norm(space: SearchSpace) -> SpaceFn:
    """Return the space in any mode of normalization, made by its name and options.

    One that has no such mode, as a family, is what it is.
    """
    arguments = spaces.arguments(space)
    if "norm" not in space.options or (arguments is not None and "norm" not in arguments):
        return lambda norm: space
    if arguments is None:
        raise ValueError(
            f"A trainer needs the space in two modes: got {space.name}, which is not made by "
            "its name and options; pass a function of the mode of normalization."
        )
    return lambda norm: spaces.BY_NAME[space.name](**{**arguments, "norm": norm})
