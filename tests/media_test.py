import numpy as np

from experiments.media import conductivities, effective


def test_layers_conduct_as_resistors_in_a_row_or_side_by_side():
    layers = np.ones((8, 8))
    layers[::2] = 10
    np.testing.assert_allclose(effective(layers), (2 / (1 + 1 / 10), 11 / 2, 0), atol=1e-12)


def test_a_turned_or_mirrored_medium_has_the_turned_or_mirrored_tensor():
    medium = np.where(np.random.default_rng(0).random((8, 8)) > 0.5, 10.0, 1.0)
    first, second, across = effective(medium)
    assert across != 0
    np.testing.assert_allclose(effective(medium.T), (second, first, across))
    np.testing.assert_allclose(effective(medium[:, ::-1]), (first, second, -across))
    # Between layers in a row and layers side by side.
    assert 1 / (1 / medium).mean() < min(first, second)
    assert max(first, second) < medium.mean()


def test_labels_have_mean_0_and_variance_1():
    media, labels = conductivities(20, 8, np.random.default_rng(0))
    assert set(np.unique(media)) == {-1, 1}
    np.testing.assert_allclose(labels.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(labels.std(0), 1, rtol=1e-5)
