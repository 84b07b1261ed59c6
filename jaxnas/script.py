"""The training of a network that a search has found, as a script of JAX, Flax and Optax alone."""

from jax.typing import ArrayLike

from jaxnas import spaces
from jaxnas.types import SearchSpace

_TEMPLATE = '''\
"""Trains {arch} of {space}.

Change the data and the recipe as you like: from here on it is a Flax module as any other.
"""

from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

import jaxnas

EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 128, 0.1

data = jaxnas.datasets.load({data!r})
train, test = (jaxnas.datasets.normalize(data, images) for images in (data.x_train, data.x_test))
{resized}
space = jaxnas.spaces.{space}({options})
arch = space.from_string({arch!r})
model = space.module(arch)
judge = {judge}

variables = model.init(jax.random.key(0), train[:1])
params, statistics = variables["params"], variables.get("batch_stats", {{}})
batch_size = min(BATCH_SIZE, len(train))
steps = len(train) // batch_size
optimizer = optax.chain(
    optax.add_decayed_weights(5e-4),
    optax.sgd(optax.cosine_decay_schedule(LEARNING_RATE, EPOCHS * steps), 0.9, nesterov=True),
)
moments = optimizer.init(params)


@jax.jit
def step(params, statistics, moments, images, labels):
    def loss_fn(params):
        given = {{"params": params, "batch_stats": statistics}}
        outputs, updated = model.apply(given, images, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return losses.mean(), updated.get("batch_stats", {{}})

    (loss, new), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, moments = optimizer.update(gradients, moments, params)
    return optax.apply_updates(params, updates), new, moments, loss


@jax.jit
def predict(params, statistics, images):
    return judge.apply({{"params": params, "batch_stats": statistics}}, images).logits.argmax(-1)


rng = np.random.default_rng(0)
for epoch in range(EPOCHS):
    for rows in rng.permutation(len(train))[: steps * batch_size].reshape(steps, batch_size):
        images, labels = train[rows], data.y_train[rows]
        params, statistics, moments, loss = step(params, statistics, moments, images, labels)
    parts = [test[start : start + batch_size] for start in range(0, len(test), batch_size)]
    guesses = np.concatenate([predict(params, statistics, part) for part in parts])
    correct = 100 * (guesses == data.y_test).mean()
    print(f"epoch {{epoch + 1}}: loss {{loss:.3f}}, {{correct:.2f}} % of the test images correct")

folder = Path("checkpoint").absolute()
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {{"params": params, "batch_stats": statistics}}, force=True)
print("Parameters:", folder)
'''

_RESIZED = "train, test = (jaxnas.datasets.resize(images, {}) for images in (train, test))\n"


def training_script(space: SearchSpace, arch: ArrayLike, data: str = "cifar10-sample") -> str:
    """Return a script that trains one architecture and saves its parameters by Orbax.

    Args:
        space: one of `spaces.BY_NAME`.
        arch: a concrete architecture of it.
        data: what `datasets.load` is told.

    Raises:
        ValueError: a space that its name and options do not make.

    Examples:
        >>> import jaxnas
        >>> from jaxnas.script import training_script
        >>> text = training_script(jaxnas.spaces.nasbench201(channels=4), [3, 3, 3, 3, 3, 3])
        >>> print(next(line for line in text.splitlines() if line.startswith("space")))
        space = jaxnas.spaces.nasbench201(cells=5, channels=4, classes=10, colors=3, norm="batch")
    """
    options = spaces.arguments(space)
    if options is None or space.module is None:
        raise ValueError(
            f"A script makes a space by its name and options: got {space.name}; take the model, "
            "space.module(arch), into a training of yours."
        )
    normalizes = "norm" in options
    learning = options | {"norm": "batch"} if normalizes else options
    judged = _written(options | {"norm": "eval"})
    return _TEMPLATE.format(
        arch=space.to_string(arch),
        space=space.name,
        data=data,
        resized=_RESIZED.format(options["image_size"]) if "image_size" in options else "",
        options=_written(learning),
        judge=f"jaxnas.spaces.{space.name}({judged}).module(arch)" if normalizes else "model",
    )


def _written(options: dict[str, object]) -> str:
    return ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value!r}"
        for name, value in options.items()
    )
