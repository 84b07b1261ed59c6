"""The parameters of a supernet by their role: what is trained, and what stays as it was drawn.

Both are flat dictionaries by path, such as `03_layer/k5_e6/project/scale`. A loss that is
differentiated by the first alone never builds a gradient of the second.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxnas import isometry
from jaxnas.isometry.initializers import BlockShape
from jaxnas.spaces.mobilenetv2_space import SearchedNetwork, layers
from jaxnas.supernet.indicators import LAST, layer_names
from jaxnas.types import Array, Params

Trained = Literal["last", "norms", "all"]
"""What is trained: the last normalization of each block and those beside the layers, as BN-NAS and
arXiv 2307.02263 have it; every normalization; or everything."""

Flat = dict[str, Array]


class Split(NamedTuple):
    """The parameters of a supernet.

    Attributes:
        trained: by path.
        frozen: by path.
    """

    trained: Flat
    frozen: Flat


def split(
    module: SearchedNetwork, params: Params, trained: Trained, *, classifier: bool = True
) -> Split:
    """Return the parameters of a supernet by whether they are trained.

    Args:
        module: the supernet.
        params: its parameters.
        trained: what is trained of everything but the classifier.
        classifier: whether it is trained too; published with frozen ones, from which little is
            learned in a few epochs.

    Raises:
        ValueError: an unknown choice, or a supernet without the normalization that it asks for.
    """
    if trained not in get_args(Trained):
        raise ValueError(f"trained must be one of {', '.join(get_args(Trained))}: got {trained!r}.")
    if module.norm != "batch":
        raise ValueError(
            f"A supernet normalizes with its batch: got norm={module.norm!r}; running statistics "
            "mean nothing where the path changes."
        )
    flat = flatten(params)
    chosen = {
        path: classifier if _is_classifier(path) else _is_trained(path, trained) for path in flat
    }
    return Split(
        {path: leaf for path, leaf in flat.items() if chosen[path]},
        {path: leaf for path, leaf in flat.items() if not chosen[path]},
    )


def merge(split: Split) -> Params:
    """Return the parameters as the network reads them, nested dictionaries."""
    return nest(split.trained | split.frozen)


def flatten(params: Params) -> Flat:
    """Return nested dictionaries as one, by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def nest(flat: Mapping[str, Any]) -> Params:
    """Return a dictionary by path as nested dictionaries."""
    params: Params = {}
    for path, leaf in flat.items():
        *names, last = path.split("/")
        at = params
        for name in names:
            at = at.setdefault(name, {})
        at[last] = leaf
    return params


def draw(module: SearchedNetwork, key: Array, initialization: str) -> Params:
    """Return the parameters of a supernet; scales are 1 and biases 0.

    Args:
        module: the supernet.
        key: a key from `jax.random.key`.
        initialization: of the kernels, a name in `isometry.BY_NAME`; or `default`, the uniform one
            of the spaces. The classifier has the default always.

    Raises:
        ValueError: an unknown name, or one that cannot draw these blocks.
    """
    names = ("default", *isometry.BY_NAME)
    if initialization not in names:
        raise ValueError(
            f"initialization must be one of {', '.join(names)}: got {initialization!r}."
        )
    size = module.layout.image_size
    images = jax.ShapeDtypeStruct((1, size, size, module.colors), jnp.float32)
    params = module.init(key, images, method="declare")["params"]
    if initialization == "default":
        return params
    recipe = isometry.BY_NAME[initialization]
    drawn = flatten(params)
    blocks = set()
    for name, layer in zip(layer_names(params), layers(module.layout), strict=True):
        for candidate in layer.candidates:
            prefix = f"{name}/{candidate.name}"
            if f"{prefix}/depthwise/kernel" in drawn:
                blocks.add(prefix)
                shape = _block_shape(drawn, prefix, layer.inputs)
                kernels = recipe.block(_key(key, prefix), shape, jnp.float32)
                drawn |= {
                    f"{prefix}/{step}/kernel": kernel
                    for step, kernel in kernels._asdict().items()
                    if kernel is not None
                }
    for path, leaf in drawn.items():
        alone = path.endswith("/kernel") and "/".join(path.split("/")[:2]) not in blocks
        if alone and not _is_classifier(path):
            drawn[path] = recipe.tensor(_key(key, path), leaf.shape, jnp.float32)
    return nest(drawn)


def _is_classifier(path: str) -> bool:
    return path.split("/")[0].endswith("_classifier")


def _is_trained(path: str, trained: Trained) -> bool:
    *names, last = path.split("/")
    if trained == "all":
        return True
    if last not in ("scale", "bias"):
        return False
    return trained == "norms" or (names[0].endswith("_layer") and names[-1] in (LAST, "bypass"))


def _block_shape(drawn: Flat, prefix: str, inputs: int) -> BlockShape:
    size, _, _, hidden = drawn[f"{prefix}/depthwise/kernel"].shape
    return BlockShape(inputs, hidden, drawn[f"{prefix}/project/kernel"].shape[-1], size)


def _key(key: Array, path: str) -> Array:
    """Return the key of a path: that of a tensor must not depend on what else is drawn."""
    for byte in path.encode():
        key = jax.random.fold_in(key, byte)
    return key
