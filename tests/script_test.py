import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import spaces
from jaxnas.script import training_script

CELL = np.array([3, 1, 2, 4, 3, 1], np.int32)


def test_a_module_computes_what_the_space_does(draw_batch):
    space = spaces.nasbench201(channels=2, cells=1, norm="instance")
    images = draw_batch(0).inputs
    model = space.module(CELL)
    variables = model.init(jax.random.key(0), images)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == space.num_params(space.representative(CELL))
    network, _ = space.bind(CELL, space.init(jax.random.key(0), images))
    np.testing.assert_allclose(
        model.apply(variables, images).logits, network(variables["params"], images).logits
    )


def test_a_module_of_a_family_is_what_was_built():
    space = spaces.family(lambda width: nn.Dense(width), width=(2, 3))
    assert space.module([1]) == nn.Dense(3)


def test_a_space_of_transformers_has_modules():
    space = spaces.autoformer(image_size=16, classes=3)
    arch = np.zeros(len(space.num_choices), np.int32)
    shapes = jax.eval_shape(space.module(arch).init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == space.num_params(arch)
    text = training_script(space, arch)
    assert "judge = model\n" in text
    assert "(jaxnas.datasets.resize(images, 16) for images in (train, test))" in text
    assert "jaxnas.spaces.autoformer(classes=3, colors=3, image_size=16)" in text


def test_a_space_that_has_no_name_is_refused():
    with pytest.raises(ValueError, match="makes a space by its name and options: got mine"):
        training_script(spaces.nasbench201()._replace(name="mine"), CELL)


@pytest.mark.slow
def test_a_script_trains_and_saves(tmp_path):
    labels = np.arange(64) % 2
    colors = np.where(labels, 200, 50)[:, None, None, None]
    images = np.broadcast_to(colors, (64, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "two.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    space = spaces.nasbench201(channels=2, cells=1, classes=2, norm="instance")
    text = training_script(space, CELL, f"npz:{tmp_path / 'two.npz'}")
    assert "EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 128, 0.1" in text
    path = tmp_path / "train.py"
    path.write_text(text.replace("= 12, 128, 0.1", "= 8, 16, 0.05"))
    run = subprocess.run(
        [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "checkpoint").is_dir()
    found = re.findall(r"epoch \d: loss ([\d.]+), ([\d.]+) % of the test images", run.stdout)
    assert len(found) == 8
    assert float(found[-1][1]) == 100
