import numpy as np
import pytest

from jaxnas.connectivity import inputs


def test_rows_are_centered_and_of_unit_length():
    images = np.random.default_rng(0).normal(2, 1, size=(4, 2, 3))
    rows = inputs.unit_rows(images)
    flat = images.reshape(4, 6) - images.reshape(4, 6).mean(0)
    np.testing.assert_allclose(rows, flat / np.linalg.norm(flat, axis=1, keepdims=True))
    around = inputs.unit_rows(images, np.full((2, 3), 2.0))
    assert np.abs(around - rows).max() > 1e-3
    gram = inputs.input_gram(rows)
    np.testing.assert_allclose(gram, rows @ rows.T, atol=1e-15)
    assert gram.dtype == np.float64
    assert inputs.largest_cosine(gram) == np.max(gram[np.triu_indices(4, 1)])


def test_opposite_inputs_are_told_apart():
    assert inputs.input_gram([[1.0, 0], [-1, 0]])[0, 1] == -1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: inputs.unit_rows(np.ones((1, 3))), r"two examples or more: got shape \[1, 3\]"),
        (lambda: inputs.unit_rows(np.ones(3)), r"got shape \[3\]"),
        (lambda: inputs.unit_rows(np.ones((3, 2))), "norms from 0 to 0"),
        (lambda: inputs.unit_rows([[0.0, 1], [np.nan, 1]]), "finite"),
        (lambda: inputs.input_gram([[1.0, 0]]), r"got shape \[1, 2\]"),
        (lambda: inputs.input_gram([[1.0, 0], [0, 2]]), "lengths from 1 to 2; use unit_rows"),
        (lambda: inputs.input_gram([[1.0, 0], [0, 1], [1, 0]]), "Inputs 0 and 2 have the same"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
