import jax
import numpy as np
import pytest

import jaxnas
from jaxnas import datasets, proxies, spaces
from jaxnas.datasets import text, tokens

DATA = datasets.bundled_cifar10()
SHOWN = {
    "Dataset(cifar10-sample, 1000 training and 500 test images of 32x32x3, 10 classes)": DATA,
    "Batch(inputs=float32[4, 32, 32, 3], labels=int32[4])": datasets.batch(DATA, 4, seed=0),
    "Batch(inputs=(float32[2, 3], int32[2]), labels=(str, str))": jaxnas.Batch(
        {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int32)}, ["x", "y"]
    ),
    "SearchSpace(nasbench201, 6 decisions, 15,625 architectures)": spaces.nasbench201(),
    "SearchSpace(mobilenetv2, 20 decisions, about 10^16 architectures)": spaces.mobilenetv2(),
    "Proxy(mgm)": proxies.BY_NAME["mgm"],
}


@pytest.mark.parametrize("shown", SHOWN)
def test_what_users_print_is_one_line(shown):
    assert repr(SHOWN[shown]) == shown


def test_a_batch_prints_while_it_is_traced():
    seen = []
    jax.jit(lambda batch: seen.append(repr(batch)))(datasets.batch(DATA, 4, seed=0))
    assert seen == ["Batch(inputs=float32[4, 32, 32, 3], labels=int32[4])"]


def test_texts_print_as_one_line():
    train = text.bundled_task("sst2").train
    count = len(train.labels)
    assert repr(train) == f"Texts({count} texts)"
    paired = train._replace(second=train.first)
    assert repr(paired) == f"Texts({count} pairs of texts)"
    numbers = tokens.tokenize(tokens.HashedWords(100), train, lengths=(64,))
    assert repr(numbers) == f"Tokens({count} examples of 64 tokens)"
