"""The wirings of a pre-trained encoder of L layers as decisions, and their notation.

An architecture is, in this order:

- for each pair of layers `l -> m` with `m > l + 1`, whether the output of `l` also enters `m`;
- for each layer, whether it is dropped: its input is then its output;
- one activation for the feed-forward parts of all layers, 0 for the pre-trained one.

Zero everywhere is the pre-trained network. The notation names what differs from it, as in
`1>3 2>6 -5 relu`: two skip connections, layer 5 dropped, another activation; `pretrained` is zero.
Layers count from 1.

Source of the pairs: a reading of Xu et al., "KNAS: Green Neural Architecture Search", ICML 2021,
arXiv 2111.13293, section on text, whose space was not published; the rest is ours.
"""

import re
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxnas import check, encoding

PRETRAINED = "pretrained"


def pairs(layers: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs `(l, m)`, `m > l + 1`, that a skip connection can join, by `m` and `l`."""
    return tuple(
        (source, target) for target in range(3, layers + 1) for source in range(1, target - 1)
    )


def num_choices(layers: int, activations: int) -> tuple[int, ...]:
    """Return the number of choices of each decision, given how many other activations there are."""
    return (2,) * (len(pairs(layers)) + layers) + (1 + activations,)


def to_string(arch: ArrayLike, layers: int, activations: Sequence[str]) -> str:
    """Return the notation of a concrete wiring.

    Raises:
        ValueError: see `encoding.validate_archs`; or several wirings.
    """
    decisions = encoding.one(arch, num_choices(layers, len(activations)))
    joined = pairs(layers)
    words = [f"{pair[0]}>{pair[1]}" for pair, on in zip(joined, decisions, strict=False) if on]
    words += [f"-{at + 1}" for at in range(layers) if decisions[len(joined) + at]]
    words += [activations[decisions[-1] - 1]] if decisions[-1] else []
    return " ".join(words) or PRETRAINED


def from_string(notation: str, layers: int, activations: Sequence[str]) -> np.ndarray:
    """Return the wiring `int32[D]` of a notation.

    Raises:
        ValueError: it names something twice, or something that this encoder does not have.
    """
    check.instance("notation", notation, str, "a string")
    joined = pairs(layers)
    places = {f"{source}>{target}": at for at, (source, target) in enumerate(joined)}
    places |= {f"-{layer}": len(joined) + layer - 1 for layer in range(1, layers + 1)}
    arch = np.zeros(len(num_choices(layers, len(activations))), np.int32)
    words = [] if notation == PRETRAINED else re.split(r"\s+", notation.strip())
    for word in words:
        known = word in places or word in activations
        at = places.get(word, len(arch) - 1)
        if not known or arch[at]:
            raise ValueError(
                f"A wiring of {layers} layers names each change once, such as 1>3 (a skip), -2 (a "
                f"dropped layer) or one of {', '.join(activations) or 'no other activation'}: got "
                f"{word!r} in {notation!r}; {PRETRAINED!r} is the network as it is."
            )
        arch[at] = 1 if word in places else 1 + list(activations).index(word)
    return arch


def sample(choices: Sequence[int], count: int, *, changes: int, seed: int) -> np.ndarray:
    """Return different wirings `int32[count, D]` with 1 to `changes` decisions other than zero.

    Drawn uniformly most wirings have half of all skip connections and drop half of the layers, and
    little is left of what was learned; near the pre-trained network there is something to choose.

    Raises:
        ValueError: `changes` is not from 1 to the number of decisions, or there are not as many.
    """
    open_decisions = [at for at, choice in enumerate(choices) if choice > 1]
    if not 1 <= changes <= len(open_decisions):
        raise ValueError(
            f"changes must be from 1 to the {len(open_decisions)} decisions: got {changes}."
        )
    rng = np.random.default_rng(seed)
    found: dict[bytes, np.ndarray] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        arch = np.zeros(len(choices), np.int32)
        for at in rng.permutation(open_decisions)[: rng.integers(1, changes + 1)]:
            arch[at] = rng.integers(1, choices[at])
        found.setdefault(arch.tobytes(), arch)
    if len(found) < count:
        raise ValueError(
            f"There are not {count} different wirings of at most {changes} changes: got "
            f"{len(found)}; raise changes or lower count."
        )
    return np.array(list(found.values()))
