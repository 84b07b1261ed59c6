"""The encoders of NAS-Bench-BERT as they were trained: ELECTRA-small with 2 or 4 layers.

Embeddings of 128, projected where the network is wider; layers that are normalized after each
part, with 2 or 4 heads of ordinary attention and one or three hidden layers in the feed-forward
part; a head on the first token. `benchmarks.nasbench_bert` says what the benchmark declares
instead. Sources: Serianni and Kalita, ACL 2023, arXiv 2306.00288; Clark et al., "ELECTRA", ICLR
2020, arXiv 2003.10555.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxnas.benchmarks import transformers
from jaxnas.network import Net, Operation, Value
from jaxnas.spaces.transformer import layers
from jaxnas.spaces.transformer.space import Transformer, space_of, validate_tokens
from jaxnas.types import Array, SearchSpace

FIRST_HIDDEN = 1024
EMBEDDING = 128
RESIDUAL = layers.Residual(pre_norm=False, epsilon=1e-12)


class Bert(Transformer):
    """All encoders.

    Attributes:
        vocabulary: number of token numbers.
        positions: most tokens of an example.
        segments: number of segments.
    """

    classes: int = 2
    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    space, choices = "bert", transformers.BERT

    def forward(self, net: Net, x: Value, arch: Any) -> Value:
        """Write down what architecture `arch` computes."""
        options = self.chosen(arch)
        embed = layers.embed_tokens(
            features=options["hidden_size"],
            size=EMBEDDING,
            vocabulary=self.vocabulary,
            positions=self.positions,
            segments=self.segments,
            epsilon=RESIDUAL.epsilon,
        )
        present, x = net.stage("embeddings", functools.partial(_embeddings, embed), x)
        names = ("heads", "num_feed_forward", "feed_forward_dimension")
        each = list(zip(*(options[name] for name in names), strict=True))[: options["layers"]]
        for heads, count, dimension in each:
            hidden = FIRST_HIDDEN, *(dimension,) * (count - 1)
            layer = functools.partial(layers.layer, heads, hidden, residual=RESIDUAL)
            x = net.stage("layer", layer, x, present)
        x = net.stage("head", layers.first_token(), x)
        return net.stage("classifier", layers.classify(features=self.classes), x)

    def representative(self, arch: ArrayLike) -> np.ndarray:
        """Return the architecture whose decisions that nobody reads are 0."""
        found = transformers.without_unread(self.choices, arch, self.chosen(arch)["layers"])
        single, dimension = (slice(6, 10), slice(10, 14))
        found[dimension] *= found[single] > 0
        return found

    def example(self) -> jax.ShapeDtypeStruct:
        """Return the shape of a batch of one text."""
        return jax.ShapeDtypeStruct((1, 2, 1), np.int32)

    def validate(self, inputs: Array) -> None:
        """Raise `ValueError` unless the networks can read the tokens `int32[B, 2, T]`."""
        validate_tokens(inputs, self.positions)


def _embeddings(embed: Operation, net: Net, tokens: Value) -> tuple[Value, Value]:
    """Write down which tokens are there, and their embeddings."""
    return net(layers.present(), tokens), net(embed, tokens)


def bert(*, classes: int = 2) -> SearchSpace:
    """Return the search space of the encoders; an architecture is `int32[14]`.

    They read tokens `int32[B, 2, T]`, see `datasets.tokens`. No score reads the gradients of the
    embeddings, which are alike in all networks.

    Args:
        classes: number of classes, K.

    Raises:
        ValueError: fewer than two classes.
    """
    return space_of(Bert(classes=classes))
