"""What was found in a network, in a few lines."""

import collections
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import gradients, programs
from jaxnas.types import Array, Params


class Summarized:
    """A network that can say what was found in it."""

    def summary(self, params: Params, inputs: Any) -> str:
        """Return a few lines on the network: layers, activations, classes, coupled examples.

        Args:
            params: its parameters.
            inputs: two examples or more, `[B, ...]`.

        Raises:
            ValueError: an activation is within control flow; see `programs.read`.
        """
        program = programs.read(_bare(self), params, inputs, normalized=True)
        leaves = jax.tree.leaves(params)
        kinds = [each.kind for each in program.found]
        names = collections.Counter(each.name for each in program.found if each.name)
        activations = ", ".join(f"{number} {name}" for name, number in names.items())
        logits = jax.eval_shape(_bare(self), params, inputs)
        return (
            f"{program.layers} layers in {len(program.pieces)} blocks, {len(leaves)} tensors of "
            f"{sum(leaf.size for leaf in leaves):,} parameters\n"
            f"normalizations: {kinds.count('variance')} by statistics of activations\n"
            f"activations: {activations or 'none'}\n"
            f"classes: {logits.shape[-1]}\n"
            f"examples: {self._examples(params, inputs)}"
        )

    def _examples(self, params: Params, inputs: Any) -> str:
        if len(jax.tree.leaves(inputs)[0]) < 2:
            return "not compared, there is only one"
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), inputs)
        first, other = (gradients.logits_of_batch(self, params, x)[:1] for x in (inputs, same))
        if gradients.are_close(first, other):
            return "each alone"
        try:
            none = gradients.Statistic(_nothing)
            gradients.per_example_vjp(self, params, inputs, (none,))  # type: ignore[arg-type]
        except ValueError:
            return "coupled, in a way that has no scores of single examples"
        return "coupled by batch statistics, scored by what each contributes to the batch"


def _bare(network: Any) -> Any:
    def logits(params: Params, inputs: Any) -> Array:
        return gradients.outputs(network, params, inputs).logits

    return logits


def _nothing(tensor: Array, per_example: Array) -> Array:
    return jnp.zeros(())
