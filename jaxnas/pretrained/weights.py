"""The weights of a pre-trained encoder: `model.safetensors`, under the names of jaxnas."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxnas.pretrained.config import EncoderConfig

# Checkpoints that were converted from TensorFlow still call them so.
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Tensor(NamedTuple):
    """One tensor of an encoder.

    Attributes:
        name: ours, a path through the parameters of `spaces.encoder`.
        stored: its name in the file, without the prefix of the family.
        shape: ours; a kernel is `[inputs, outputs]` and stored the other way round.
        required: whether the file must have it.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    required: bool = True


def tensors(config: EncoderConfig) -> Iterator[Tensor]:
    """Yield the tensors of an encoder, first to last layer."""
    width = config.width
    tables = {
        "words": ("word_embeddings", config.vocabulary),
        "places": ("position_embeddings", config.positions),
        "segments": ("token_type_embeddings", config.segments),
    }
    for ours, (stored, rows) in tables.items():
        yield Tensor(f"embeddings/{ours}", f"embeddings.{stored}.weight", (rows, width))
    yield from _norm("embeddings/norm", "embeddings.LayerNorm", width)
    for layer in range(config.layers):
        ours, stored = f"layers/layer_{layer:02}", f"encoder.layer.{layer}"
        first, second = f"{ours}/attention", f"{ours}/forward"
        for part in ("query", "key", "value"):
            yield from _dense(f"{first}/{part}", f"{stored}.attention.self.{part}", width, width)
        yield from _dense(f"{first}/mix", f"{stored}.attention.output.dense", width, width)
        yield from _norm(f"{first}/norm", f"{stored}.attention.output.LayerNorm", width)
        yield from _dense(f"{second}/widen", f"{stored}.intermediate.dense", width, config.inner)
        yield from _dense(f"{second}/narrow", f"{stored}.output.dense", config.inner, width)
        yield from _norm(f"{second}/norm", f"{stored}.output.LayerNorm", width)
    for tensor in _dense("head/pooler", "pooler.dense", width, width):
        yield tensor._replace(required=False)


def _dense(name: str, stored: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}/kernel", f"{stored}.weight", (inputs, outputs))
    yield Tensor(f"{name}/bias", f"{stored}.bias", (outputs,))


def _norm(name: str, stored: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}/scale", f"{stored}.weight", (width,))
    yield Tensor(f"{name}/bias", f"{stored}.bias", (width,))


def read_weights(folder: str | Path, config: EncoderConfig) -> dict[str, np.ndarray]:
    """Return the weights in `model.safetensors` of a folder, float32 arrays by `Tensor.name`.

    The pooler is left out where the file has none.

    Raises:
        ImportError: safetensors is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another kind, or a tensor is missing, of another shape than
            the configuration says, not floating or not finite.
    """
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            'Pre-trained weights need safetensors; run: pip install "jaxnas[text]".'
        ) from error
    path = _weights_path(Path(folder))
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _read_all(file, path, config)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors: got {str(error)!r}; the file is truncated, "
            "damaged or of another kind, copy it again."
        ) from error


def _weights_path(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if path.is_file():
        return path
    others = sorted(
        each.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.index.json")
        for each in folder.glob(pattern)
    )
    if any(name.endswith(".index.json") for name in others):
        remedy = (
            "several files are not read, save the network as one: save_pretrained(..., "
            "max_shard_size='100GB')"
        )
    elif others:
        remedy = (
            "a pickle can run any program and is never read, save the network with "
            "safe_serialization=True"
        )
    else:
        remedy = "give a folder as save_pretrained writes it"
    raise FileNotFoundError(f"{path} is missing: got {', '.join(others) or 'nothing'}; {remedy}.")


def _read_all(file: Any, path: Path, config: EncoderConfig) -> dict[str, np.ndarray]:
    names = set(file.keys())
    if len(names) < config.layers:
        raise ValueError(
            f"{path} must hold every tensor of the {config.layers} layers in config.json: got "
            f"{len(names)} in all; take both files from one checkpoint."
        )
    found: dict[str, np.ndarray] = {}
    missing = []
    for tensor in tensors(config):
        stored = _stored_name(tensor.stored, names, config.family)
        if stored is not None:
            found[tensor.name] = _read_one(file, stored, tensor, path, config)
        elif tensor.required:
            missing.append(tensor.stored)
    if missing:
        raise ValueError(
            f"{path} must hold every tensor of the network in config.json: got none for "
            f"{missing[0]} and {len(missing) - 1} others; take both files from one checkpoint."
        )
    return found


def _stored_name(stored: str, names: set[str], family: str) -> str | None:
    old = stored
    for new_ending, old_ending in _OLD_NAMES.items():
        old = old.replace(new_ending, old_ending)
    candidates = (f"{prefix}{each}" for each in (stored, old) for prefix in ("", f"{family}."))
    return next((name for name in candidates if name in names), None)


def _read_one(
    file: Any, stored: str, tensor: Tensor, path: Path, config: EncoderConfig
) -> np.ndarray:
    try:
        array = file.get_tensor(stored)
    except (AttributeError, TypeError) as error:  # a type that NumPy has not
        raise ValueError(
            f"{path}: {stored} must be floating, of 16 to 64 bits: got "
            f"{file.get_slice(stored).get_dtype()}; save the network in float32."
        ) from error
    if tensor.name.endswith("/kernel"):
        array = array.T
    if tensor.name == "embeddings/places" and array.ndim > 0:
        array = array[config.first_position :]
    if array.shape != tensor.shape:
        raise ValueError(
            f"{path}: {stored} must have the shape of config.json, {list(tensor.shape)} as "
            f"[inputs, outputs]: got {list(array.shape)}; take both files from one checkpoint."
        )
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        raise ValueError(
            f"{path}: {stored} must be floating: got {array.dtype}; save the network in float32."
        )
    # A copy of its own: the file may change or go.
    array = np.array(array, np.float32, order="C")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {stored} must be finite: got NaN or infinity; copy it again.")
    return array
