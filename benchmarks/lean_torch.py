"""The scores of jaxnas in lean eager PyTorch, and zero-cost-nas called as its authors call it.

These are two sides of `benchmarks/pytorch.py`. In the lean program all architectures share one set
of weights, and only the chosen operations of live edges run, channels last. It takes gradients with
`torch.autograd.grad` and copies nothing that need not be. It imports nothing of jaxnas.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_NONE, _SKIP_CONNECT, _CONV_1X1, _CONV_3X3, _POOL = range(5)


class Problem(NamedTuple):
    """What is scored.

    Attributes:
        images: `[B, colors, H, W]`, channels last in memory.
        labels: `int64[B]`.
        weights: of all operations, by path; kernels `[outputs, inputs, rows, columns]`, channels
            last in memory, and `[classes, features]`.
        blocks: of the network, in order; the beginnings of the paths.
    """

    images: Tensor
    labels: Tensor
    weights: dict[str, Tensor]
    blocks: list[str]


def load(path: str) -> Problem:
    """Return the problem that `benchmarks/pytorch.py` wrote."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "options"}
    images, labels = arrays.pop("images"), arrays.pop("labels")
    weights = {name: _torch_layout(array).requires_grad_() for name, array in arrays.items()}
    blocks = sorted({name.split("/")[0] for name in weights})
    return Problem(images.permute(0, 3, 1, 2), labels.long(), weights, blocks)


def _torch_layout(weight: Tensor) -> Tensor:
    """Return a tensor in the order of PyTorch, given that of JAX (outputs last)."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return weight.T.contiguous() if weight.ndim == 2 else weight


def live_edges(arch: list[int]) -> list[int]:
    """Return the edges that have a say in the output.

    A convolution on an edge that carries nothing has one too: the bias of its normalization.
    """
    fed, useful, carrying, live = {0}, {3}, [], []
    for edge, (operation, (source, target)) in enumerate(zip(arch, _EDGES, strict=True)):
        if operation in (_CONV_1X1, _CONV_3X3) or (operation != _NONE and source in fed):
            fed.add(target)
            carrying.append(edge)
    for edge in reversed(carrying):
        source, target = _EDGES[edge]
        if target in useful:
            useful.add(source)
            live.append(edge)
    return live[::-1]


class Network:
    """One architecture; `used` holds the names of the weights that it has run."""

    def __init__(self, problem: Problem, arch: list[int]):
        self.problem = problem
        self.edges = [(*_EDGES[edge], edge, arch[edge]) for edge in live_edges(arch)]
        self.used: list[str] = []

    def __call__(self) -> Tensor:
        """Return the logits `[B, K]`."""
        x = self.problem.images
        for name in self.problem.blocks:
            x = getattr(self, name[2:])(name, x)  # 00_stem, 01_cell, ...
        return x

    def _stem(self, name: str, x: Tensor) -> Tensor:
        return self._normalize(name, self._convolve(name, x))

    def _cell(self, name: str, x: Tensor) -> Tensor:
        nodes: dict[int, Tensor] = {0: x}
        activated = functools.cache(lambda source: F.relu(nodes[source]))  # once a node
        for source, target, edge, operation in self.edges:
            if operation in (_CONV_1X1, _CONV_3X3):
                path = f"{name}/edge_{edge}/{_OPERATIONS[operation]}"
                if source in nodes:
                    y = self._normalize(path, self._convolve(path, activated(source)))
                else:
                    y = self._constant(path, x)
            elif operation == _POOL:
                y = F.avg_pool2d(nodes[source], 3, 1, 1, count_include_pad=False)
            else:
                y = nodes[source]
            nodes[target] = nodes[target] + y if target in nodes else y
        return nodes[3]

    def _reduction(self, name: str, x: Tensor) -> Tensor:
        y = self._normalize(f"{name}/conv_a", self._convolve(f"{name}/conv_a", F.relu(x), 2))
        y = self._normalize(f"{name}/conv_b", self._convolve(f"{name}/conv_b", F.relu(y)))
        return y + self._convolve(f"{name}/shortcut", F.avg_pool2d(x, 2))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self._normalize(name, x)).mean((2, 3))

    def _classifier(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._use(f"{name}/kernel"), self._use(f"{name}/bias"))

    def _convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = self._use(f"{name}/kernel")
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def _normalize(self, name: str, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, None, None, self._use(f"{name}/scale"), self._use(f"{name}/bias"), training=True
        )

    def _constant(self, name: str, like: Tensor) -> Tensor:
        """Return what a normalization makes of zeros: its bias."""
        return self._use(f"{name}/bias")[None, :, None, None].expand_as(like)

    def _use(self, path: str) -> Tensor:
        self.used.append(path)
        return self.problem.weights[path]


class WatchedNetwork(Network):
    """A network that takes the Gram matrix of each tensor's per-example gradients on the way back.

    An example's gradient is its part of the gradient of the batch: layer by layer, its input times
    its back-propagated error. The weights themselves are constants, so that no gradient of the
    batch is computed. Hooks hold no tensor that holds them: such a circle would keep the memory.
    """

    def __init__(self, problem: Problem, arch: list[int]):
        super().__init__(problem, arch)
        self.grams: list[Tensor] = []
        self.roots: list[Tensor] = []

    def _convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        z = super()._convolve(name, x, stride)
        if not self.roots:  # the stem: from here on the gradient is followed
            self.roots.append(z.requires_grad_())
        size = self.problem.weights[f"{name}/kernel"].shape[-1]
        z.register_hook(functools.partial(_watch_kernel, self.grams, x.detach(), size, stride))
        return z

    def _normalize(self, name: str, x: Tensor) -> Tensor:
        y = super()._normalize(name, x)
        scale, bias = self._use(f"{name}/scale"), self._use(f"{name}/bias")
        y.register_hook(functools.partial(_watch_norm, self.grams, y.detach(), scale, bias))
        return y

    def _constant(self, name: str, like: Tensor) -> Tensor:
        bias = self._use(f"{name}/bias").repeat(len(like), 1).requires_grad_()
        bias.register_hook(functools.partial(_add_gram, self.grams))
        self.roots.append(bias)
        return bias[:, :, None, None].expand_as(like)

    def _classifier(self, name: str, x: Tensor) -> Tensor:
        logits = super()._classifier(name, x)
        logits.register_hook(functools.partial(_watch_linear, self.grams, x.detach()))
        return logits

    def _use(self, path: str) -> Tensor:
        return super()._use(path).detach()


def _watch_kernel(grams: list[Tensor], x: Tensor, size: int, stride: int, error: Tensor) -> None:
    windows = F.pad(x, (size // 2,) * 4).unfold(2, size, stride).unfold(3, size, stride)
    pairs = zip(error.flatten(2), windows.permute(0, 2, 3, 4, 5, 1), strict=True)
    # Example by example: the windows of one, copied into a matrix, stay in the cache.
    _add_gram(grams, torch.stack([e @ w.reshape(e.shape[1], -1) for e, w in pairs]))


def _watch_norm(grams: list[Tensor], y: Tensor, scale: Tensor, bias: Tensor, error: Tensor) -> None:
    sums = error.sum((2, 3))
    _add_gram(grams, sums)
    _add_gram(grams, ((error * y).sum((2, 3)) - bias * sums) / scale)


def _watch_linear(grams: list[Tensor], x: Tensor, error: Tensor) -> None:
    _add_gram(grams, error)
    _add_gram(grams, error[:, :, None] * x[:, None, :])


def _add_gram(grams: list[Tensor], per_example: Tensor) -> None:
    rows = per_example.flatten(1)
    grams.append(rows @ rows.T)


def _gradients(problem: Problem, arch: list[int]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Return the weights that run, and their gradients of the mean cross-entropy."""
    network = Network(problem, arch)
    loss = F.cross_entropy(network(), problem.labels)
    weights = [problem.weights[name] for name in network.used]
    return weights, torch.autograd.grad(loss, weights)


def grad_norm(problem: Problem, arch: list[int]) -> float:
    """Return the sum over tensors of the norm of the batch gradient."""
    _, gradients = _gradients(problem, arch)
    return torch.stack([gradient.norm() for gradient in gradients]).sum().item()


def mgm(problem: Problem, arch: list[int]) -> float:
    """Return the squared norm of the batch gradient."""
    _, gradients = _gradients(problem, arch)
    return torch.stack([gradient.norm() for gradient in gradients]).square().sum().item()


def snip(problem: Problem, arch: list[int]) -> float:
    """Return the sum over kernels of |weight x gradient|."""
    pairs = zip(*_gradients(problem, arch), strict=True)
    terms = [(weight.detach() * grad).abs().sum() for weight, grad in pairs if grad.ndim > 1]
    return torch.stack(terms).sum().item()


def gradient_values(problem: Problem, arch: list[int]) -> float:
    """Return the mean squared norm of per-example gradients, from all their Gram matrices."""
    network = WatchedNetwork(problem, arch)
    loss = F.cross_entropy(network(), problem.labels, reduction="sum")
    torch.autograd.grad(loss, network.roots)
    return torch.stack(network.grams).diagonal(dim1=1, dim2=2).mean(1).sum().item()


Score = Callable[[list[int]], float]


def lean(problem: Problem) -> dict[str, Score]:
    """Return the scores of this program by name."""
    scores = (grad_norm, snip, mgm, gradient_values)
    return {score.__name__: functools.partial(score, problem) for score in scores}


def zero_cost_nas(problem: Problem, checkout: str) -> dict[str, Score]:
    """Return the scores of a checkout of zero-cost-nas (Abdelfattah et al., ICLR 2021) by name.

    As in its `nasbench2_pred.py`, each architecture is built, with weights of its own, and measured
    on one batch. Its edges hold all operations, and its measures work on a copy of the network.
    """
    sys.path.insert(0, checkout)
    models = importlib.import_module("foresight.models.nasbench2")
    predictive = importlib.import_module("foresight.pruners.predictive")
    batch = problem.images.contiguous(), problem.labels
    classes, features = next(
        weight.shape for path, weight in problem.weights.items() if "classifier/kernel" in path
    )
    torch.manual_seed(0)

    def measured(name: str, arch: list[int]) -> float:
        network = models.get_model_from_arch_str(
            _to_string(arch), classes, init_channels=features // 4
        )
        measures = predictive.find_measures(
            network,
            [batch],
            ("random", 1, classes),  # one batch of the loader, as it comes
            torch.device("cpu"),
            measure_names=[name],
        )
        return float(measures[name])

    return {name: functools.partial(measured, name) for name in ("grad_norm", "snip")}


def _to_string(arch: list[int]) -> str:
    """Return the official notation, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
    terms: list[list[str]] = [[], [], []]
    for operation, (source, target) in zip(arch, _EDGES, strict=True):
        terms[target - 1].append(f"{_OPERATIONS[operation]}~{source}")
    return "+".join(f"|{'|'.join(node)}|" for node in terms)
