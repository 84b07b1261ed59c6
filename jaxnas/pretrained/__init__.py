"""Pre-trained text encoders from the user's disk: the folder that Hugging Face's tools write.

`config.json` says what the network is, `model.safetensors` holds its weights and `tokenizer.json`
its words, for the BERT and RoBERTa families. Nothing is downloaded, unpickled or executed; the
weights come out as NumPy arrays under the names of `spaces.encoder`.
"""

from jaxnas.pretrained.config import EncoderConfig, read_config
from jaxnas.pretrained.folder import Pretrained, load
from jaxnas.pretrained.tokenizer import load_tokenizer
from jaxnas.pretrained.weights import read_weights, tensors

__all__ = [
    "EncoderConfig",
    "Pretrained",
    "load",
    "load_tokenizer",
    "read_config",
    "read_weights",
    "tensors",
]
