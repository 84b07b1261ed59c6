r"""What `panel` costs in a family of anybody's networks: CPU seconds, candidate by candidate.

    python benchmarks/family.py --library=linen

324 ResNets of three stages, 1 to 3 blocks each, 16 to 64 channels wide, kernels of 3 or 5 pixels,
ReLU or GELU, in linen, nnx or Equinox; 16 images of 16 pixels. The first candidates compile the
layers, which later ones share. Process CPU seconds, all threads, initial values and compilation
included.

In linen, on two cores: a median of 1.36 CPU seconds for candidates 20 to 60, 245 for all 61. With
--candidates=46, later and on the same machine, nnx took 1.38 (186 for all) and Equinox 1.93 (229).
Later, on a processor that needs 1.8 times the CPU seconds for the tests, linen took 2.37 (325).
"""

import argparse
import statistics
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxnas
from jaxnas import encoding, spaces


class Block(nn.Module):
    """Two convolutions beside a skip connection."""

    width: int
    kernel: int
    act: str
    stride: int

    @nn.compact
    def __call__(self, x):
        """Return the features of the block for those before it, `[B, H, W, C]` both."""
        act, kernel = getattr(nn, self.act), (self.kernel,) * 2
        y = nn.Conv(self.width, kernel, (self.stride,) * 2, use_bias=False)(x)
        y = act(nn.BatchNorm(use_running_average=False)(y))
        y = nn.Conv(self.width, kernel, use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=False)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.width, (1, 1), (self.stride,) * 2, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=False)(x)
        return act(x + y)


class ResNet(nn.Module):
    """Three stages of blocks, each half the size and twice the width of the one before."""

    first: int
    second: int
    third: int
    width: int
    kernel: int
    act: str

    @nn.compact
    def __call__(self, x):
        """Return the logits `[B, 10]` of images `[B, H, W, C]`."""
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        x = getattr(nn, self.act)(nn.BatchNorm(use_running_average=False)(x))
        for width, stride in blocks((self.first, self.second, self.third), self.width):
            x = Block(width, self.kernel, self.act, stride)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def blocks(depths, width):
    """Return the width and the stride of each block, first to last."""
    return [
        (width * 2**stage, 2 if stage and not block else 1)
        for stage, depth in enumerate(depths)
        for block in range(depth)
    ]


class NnxBlock(nnx.Module):
    """The block in nnx."""

    def __init__(self, before, width, kernel, act, stride, rngs):
        sizes = {"strides": stride, "use_bias": False, "rngs": rngs}
        last = {"use_bias": False, "rngs": rngs}
        self.act = getattr(jax.nn, act)
        self.first = nnx.Conv(before, width, (kernel,) * 2, **sizes)
        self.first_norm = nnx.BatchNorm(width, rngs=rngs)
        self.second = nnx.Conv(width, width, (kernel,) * 2, **last)
        self.second_norm = nnx.BatchNorm(width, rngs=rngs)
        self.is_projected = stride > 1 or before != width
        if self.is_projected:
            self.skip = nnx.Conv(before, width, (1, 1), **sizes)
            self.skip_norm = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x):
        """Return the features of the block for those before it, `[B, H, W, C]` both."""
        y = self.act(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.is_projected:
            x = self.skip_norm(self.skip(x))
        return self.act(x + y)


class NnxResNet(nnx.Module):
    """The network in nnx."""

    def __init__(self, first, second, third, width, kernel, act, key):
        rngs = nnx.Rngs(key)
        self.act = getattr(jax.nn, act)
        self.stem = nnx.Conv(3, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        built, before = [], width
        for after, stride in blocks((first, second, third), width):
            built.append(NnxBlock(before, after, kernel, act, stride, rngs))
            before = after
        self.blocks = nnx.List(built)
        self.last = nnx.Linear(before, 10, rngs=rngs)

    def __call__(self, x):
        """Return the logits `[B, 10]` of images `[B, H, W, C]`."""
        x = self.act(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.last(x.mean((1, 2)))


class EquinoxBlock(eqx.Module):
    """The block in Equinox."""

    first: Any
    first_norm: Any
    second: Any
    second_norm: Any
    skip: Any
    skip_norm: Any
    act: Any = eqx.field(static=True)

    def __init__(self, before, width, kernel, act, stride, key):
        keys = jax.random.split(key, 3)
        self.act = getattr(jax.nn, act)
        self.first = _convolution(before, width, kernel, stride, keys[0])
        self.first_norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        self.second = _convolution(width, width, kernel, 1, keys[1])
        self.second_norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        is_projected = stride > 1 or before != width
        self.skip = _convolution(before, width, 1, stride, keys[2]) if is_projected else None
        self.skip_norm = eqx.nn.BatchNorm(width, "batch", mode="batch") if is_projected else None

    def __call__(self, x, state):
        """Return the features `[C, H, W]` of the block for those before it, and the state."""
        y, state = self.first_norm(self.first(x), state)
        y, state = self.second_norm(self.second(self.act(y)), state)
        if self.skip is not None:
            x, state = self.skip_norm(self.skip(x), state)
        return self.act(x + y), state


class EquinoxResNet(eqx.Module):
    """The network in Equinox."""

    stem: Any
    norm: Any
    blocks: list
    last: Any
    act: Any = eqx.field(static=True)

    def __init__(self, depths, width, kernel, act, key):
        sizes = blocks(depths, width)
        stem, last, *keys = jax.random.split(key, len(sizes) + 2)
        self.act = getattr(jax.nn, act)
        self.stem = _convolution(3, width, 3, 1, stem)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        before = [width, *(after for after, _ in sizes)]
        self.blocks = [
            EquinoxBlock(one, after, kernel, act, stride, key)
            for one, (after, stride), key in zip(before[:-1], sizes, keys, strict=True)
        ]
        self.last = eqx.nn.Linear(before[-1], 10, key=last)

    def __call__(self, x, state):
        """Return the logits `[10]` of an image `[H, W, C]`, and the state."""
        x, state = self.norm(self.stem(x.transpose(2, 0, 1)), state)
        x = self.act(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.last(x.mean((1, 2))), state


def equinox_resnet(first, second, third, width, kernel, act, key):
    """Return the network in Equinox, and its state."""
    depths = first, second, third
    return eqx.nn.make_with_state(EquinoxResNet)(depths, width, kernel, act, key)


def _convolution(before, width, kernel, stride, key):
    return eqx.nn.Conv2d(before, width, kernel, stride, kernel // 2, use_bias=False, key=key)


BUILDS = {"linen": ResNet, "nnx": NnxResNet, "equinox": equinox_resnet}


def main() -> None:
    """Score random candidates one by one, and print what each has cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--by", default="panel")
    parser.add_argument("--library", choices=BUILDS, default="linen")
    parser.add_argument("--candidates", type=int, default=61)
    args = parser.parse_args()
    depth = (1, 2, 3)
    space = spaces.family(
        BUILDS[args.library],
        **{"first": depth, "second": depth, "third": depth},
        **{"width": (16, 32, 64), "kernel": (3, 5), "act": ("relu", "gelu")},
    )
    images = jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    scorer = jaxnas.Scorer(space, (images, jnp.arange(16) % 10), by=args.by, progress=False)
    archs = np.random.default_rng(0).permutation(encoding.enumerate_archs(space.num_choices))
    seconds = []
    for number, arch in enumerate(archs[: args.candidates]):
        start = time.process_time()
        scores = scorer(arch[None])
        seconds.append(time.process_time() - start)
        assert not scores.unscored(args.by)
        print(f"{number}: {space.to_string(arch)} {seconds[-1]:.2f}", flush=True)
    later = seconds[20:] or seconds
    print(f"median of candidates 20 to {len(seconds) - 1}: {statistics.median(later):.2f} CPU s")
    print(f"all: {sum(seconds):.0f} CPU s")


if __name__ == "__main__":
    main()
