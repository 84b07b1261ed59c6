"""Anybody's networks as a search space: a function that builds a network from choices."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from jaxnas import check, encoding
from jaxnas.network.models import eager_network
from jaxnas.types import Array, Params, SearchSpace


def family(build: Callable[..., Any], **choices: Sequence[Any]) -> SearchSpace:
    """Return the search space of the networks that `build(**choices)` gives.

    An architecture is written `depth=2,width=32`. Each candidate is a network of shapes of its own,
    so a family is run eagerly; small programs are shared by all candidates that have them.

        >>> import jax, jaxnas
        >>> from flax import linen as nn
        >>> def build(depth, width):
        ...     hidden = [layer for _ in range(depth) for layer in (nn.Dense(width), nn.relu)]
        ...     return nn.Sequential([lambda x: x.reshape(len(x), -1), *hidden, nn.Dense(10)])
        >>> space = jaxnas.spaces.family(build, depth=(1, 2), width=(8, 16))
        >>> space.to_string([1, 0])
        'depth=2,width=8'
        >>> batch = jax.numpy.ones((4, 8, 8, 3)), jax.numpy.arange(4)
        >>> scorer = jaxnas.Scorer(space, batch, by="grad_norm", progress=False)
        >>> scorer([[0, 0]]).to_frame()["#params"].tolist()
        [1634]

    Args:
        build: gives what `jaxnas.as_network` takes. A linen module or a Haiku pair is given initial
            values; a pair `(model, variables)` has them, and so has what `as_network` gave. A
            `build` with a parameter `key` is given a random key, the same for all candidates of a
            seed. A store knows a family by the name of `build`: give one that has changed another.
        **choices: what each argument of `build` may be, `D` decisions in order.

    Raises:
        ValueError: no choices, choices that are no list, or two of one argument that are written
            alike. What `build` raises for a candidate is the reason why it has no scores.
    """
    if not callable(build) or isinstance(build, nn.Module):
        raise ValueError(
            f"A family needs a function that builds networks: got {type(build).__name__}; "
            "rank ready models with jaxnas.rank."
        )
    if not choices:
        raise ValueError("A family needs choices: got none; pass family(build, depth=(1, 2)).")
    written = {
        name: [_label(value) for value in check.items(f"The choices of {name}", values)]
        for name, values in choices.items()
    }
    for name, labels in written.items():
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"The choices of {name} must be one or more, each written differently: "
                f"got {labels}; name them."
            )
    sizes = tuple(len(labels) for labels in written.values())
    # The signature of an nnx class would be that of its metaclass.
    called = vars(build).get("__init__", build) if isinstance(build, type) else build
    needs_key = "key" in inspect.signature(called).parameters

    def model(arch: Sequence[int], key: Array) -> Any:
        chosen = zip(choices.items(), arch, strict=True)
        named = {name: values[position] for (name, values), position in chosen}
        return build(**named, key=key) if needs_key else build(**named)

    def bind(arch: Any, params: Params) -> tuple[Any, Params]:
        if isinstance(arch, jax.core.Tracer):
            raise ValueError(
                "The networks of a family have different shapes: got a traced architecture; "
                "score concrete ones, by jaxnas.Scorer."
            )
        key, inputs = params
        return eager_network(model(encoding.one(arch, sizes), key), key, inputs)

    def to_string(arch: ArrayLike) -> str:
        chosen = zip(written.items(), encoding.one(arch, sizes), strict=True)
        return ",".join(f"{name}={labels[position]}" for (name, labels), position in chosen)

    def from_string(string: str) -> np.ndarray:
        groups = [f"{name}=({'|'.join(map(re.escape, each))})" for name, each in written.items()]
        match = re.fullmatch(",".join(groups), string)
        if match is None:
            offered = ",".join(f"{name}={'|'.join(each)}" for name, each in written.items())
            raise ValueError(f"An architecture is written {offered}: got {string!r}.")
        chosen = zip(written.values(), match.groups(), strict=True)
        return np.array([each.index(label) for each, label in chosen], np.int32)

    def representative(arch: ArrayLike) -> np.ndarray:
        """Return the first choices, decision by decision, that leave a linen module as it is."""
        stands = encoding.one(arch, sizes)
        try:
            module = None if needs_key else model(stands, jax.random.key(0))
            for place in range(len(stands)) if isinstance(module, nn.Module) else ():
                others = [
                    (*stands[:place], each, *stands[place + 1 :]) for each in range(sizes[place])
                ]
                stands = next(
                    other for other in others if model(other, jax.random.key(0)) == module
                )
        except Exception:  # what is wrong is said when the candidate is scored
            return np.array(encoding.one(arch, sizes), np.int32)
        return np.array(stands, np.int32)

    def num_params_for(inputs: Any) -> Callable[[ArrayLike], int]:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)

        @functools.cache
        def count(arch: tuple[int, ...]) -> int:
            def params(key: Array, inputs: Any) -> Params:
                return eager_network(model(arch, key), key, inputs)[1]

            tensors = jax.eval_shape(params, jax.random.key(0), shapes)
            return sum(tensor.size for tensor in jax.tree.leaves(tensors))

        return lambda arch: count(encoding.one(arch, sizes))

    name = getattr(build, "__name__", type(build).__name__)
    return SearchSpace(
        name=name,
        num_choices=sizes,
        init=lambda key, inputs: (key, inputs),
        bind=bind,
        to_string=to_string,
        from_string=from_string,
        is_connected=lambda arch: True,
        representative=representative,
        num_params=_no_inputs,
        options={"build": f"{getattr(build, '__module__', '')}.{name}", "choices": written},
        is_traceable=False,
        num_params_for=num_params_for,
        module=lambda arch: model(encoding.one(arch, sizes), jax.random.key(0)),
    )


def _no_inputs(arch: ArrayLike) -> int:
    raise ValueError(
        "The parameters of a family depend on what its networks read: got no inputs; take "
        "space.num_params_for(inputs)."
    )


def _label(value: Any) -> str:
    return str(getattr(value, "__name__", value))
