r"""What `panel` costs in a family of anybody's networks: CPU seconds, candidate by candidate.

    python benchmarks/family.py

324 linen ResNets of three stages, 1 to 3 blocks each, 16 to 64 channels wide, kernels of 3 or 5
pixels, ReLU or GELU; 16 images of 16 pixels. The first candidates compile the layers, which later
ones share. Process CPU seconds, all threads, initial values and compilation included.

On two cores: a median of 1.36 CPU seconds for candidates 20 to 60, 245 CPU seconds for all 61.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

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
        for stage, depth in enumerate((self.first, self.second, self.third)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                x = Block(self.width * 2**stage, self.kernel, self.act, stride)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def main() -> None:
    """Score random candidates one by one, and print what each has cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--by", default="panel")
    parser.add_argument("--candidates", type=int, default=61)
    args = parser.parse_args()
    depth = (1, 2, 3)
    space = spaces.family(
        ResNet,
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
