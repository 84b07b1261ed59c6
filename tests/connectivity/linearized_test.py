import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.connectivity import linearized


@pytest.fixture
def kernel():
    factor = np.random.default_rng(0).normal(size=(5, 5))
    return factor @ factor.T


@pytest.fixture
def targets():
    return linearized.centered_one_hot([0, 2, 1, 1, 0], 3)


def _descend(kernel, targets, learning_rate, steps):
    """Losses of gradient descent on the outputs, step by step."""
    outputs, losses = np.zeros_like(targets), []
    for _ in range(steps + 1):
        losses.append(((targets - outputs) ** 2).sum() / 2)
        outputs = outputs + learning_rate * kernel @ (targets - outputs)
    return np.array(losses)


def test_one_mode_by_hand():
    # Eigenvalue 2, rate 0.25: the error halves each step, the loss 9 / 2 is quartered.
    loss = linearized.linearized_loss([[2.0]], [3.0], 0.25, [0, 1, 2])
    np.testing.assert_allclose(loss, [4.5, 4.5 / 4, 4.5 / 16], rtol=1e-6)
    assert linearized.predicted_steps_to([[2.0]], [3.0], 0.25, 4.5 / 16 + 1e-6) == 2
    assert linearized.predicted_steps_to([[2.0]], [3.0], 0.25, 4.5 / 16 - 1e-6) == 3


def test_targets_by_hand():
    np.testing.assert_allclose(linearized.centered_one_hot([1], 2), [[-0.5, 0.5]])


@pytest.mark.parametrize("share", [0.3, 1.0, 1.9])
def test_it_is_gradient_descent(kernel, targets, share):
    with jax.enable_x64(True):
        rate = share / float(linearized.largest_eigenvalue(jnp.asarray(kernel)))
        losses = _descend(kernel, targets, rate, 60)
        found = linearized.linearized_loss(kernel, targets, rate, np.arange(61))
        np.testing.assert_allclose(found, losses, rtol=1e-9)
        one = linearized.linearized_loss(kernel, targets[:, 0], rate, 7)
        np.testing.assert_allclose(one, _descend(kernel, targets[:, :1], rate, 7)[-1])


def test_predicted_steps_are_the_first_in_a_loop(kernel, targets):
    with jax.enable_x64(True):
        rate = 1 / float(linearized.largest_eigenvalue(jnp.asarray(kernel)))
        losses = _descend(kernel, targets, rate, 3000)
        for goal in losses[0] * np.array([2, 0.9, 0.5, 0.2, 0.05]):
            expected = np.argmax(losses <= goal)
            assert losses[-1] < goal
            assert linearized.predicted_steps_to(kernel, targets, rate, goal) == expected


def test_far_away():
    # (1 - 1e-9)^(2 k) = 1 / 100: k = log(10) / 1e-9
    with jax.enable_x64(True):
        steps = linearized.predicted_steps_to([[1.0]], [1.0], 1e-9, 0.005)
        assert float(steps) == pytest.approx(np.log(10) * 1e9, rel=1e-6)


@pytest.mark.parametrize(
    ("kernel", "rate", "loss", "expected"),
    [
        (np.diag([1.0, 0.0]), 0.5, 0.1, np.inf),  # a mode that is never learned
        (np.diag([1.0, 0.5]), 2.1, 0.1, np.inf),  # it diverges
        (np.diag([1.0, 0.5]), 2.1, 9.0, 0),  # but is there from the start
        (np.diag([1.0, 0.0]), 0.5, 0.6, 2),  # 0.5 + 0.5 / 4^k
    ],
)
def test_where_it_stops(kernel, rate, loss, expected):
    assert linearized.predicted_steps_to(kernel, [1.0, 1.0], rate, loss) == expected


def test_leaving_one_out_is_what_it_says(kernel, targets):
    """Kernel ridge regression from the other four, five times."""
    ridge = 0.1 * np.trace(kernel) / 5
    loss = 0
    for one in range(5):
        others = np.delete(np.arange(5), one)
        inner = kernel[np.ix_(others, others)] + ridge * np.eye(4)
        predicted = kernel[one, others] @ np.linalg.solve(inner, targets[others])
        loss += ((targets[one] - predicted) ** 2).sum() / 2
    with jax.enable_x64(True):
        found = linearized.leave_one_out_loss(kernel, targets, 0.1)
        np.testing.assert_allclose(found, loss, rtol=1e-9)
        scaled = linearized.leave_one_out_loss(7 * kernel, targets, 0.1)
        np.testing.assert_allclose(scaled, loss, rtol=1e-9)


def test_divergence_is_infinite():
    assert linearized.linearized_loss([[1.0]], [1.0], 3.0, 10**6) == np.inf


def test_it_can_be_mapped(kernel, targets):
    rates = jnp.array([0.01, 0.02])
    steps = jax.jit(jax.vmap(linearized.predicted_steps_to, in_axes=(None, None, 0, None)))(
        kernel, targets, rates, 1.0
    )
    assert steps[0] > steps[1] > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linearized.linearized_loss(np.ones((2, 3)), [1.0, 2], 1, 1), r"shape \[2, 3\]"),
        (lambda: linearized.linearized_loss(np.eye(2), [1.0], 1, 1), r"\[2\] or .* shape \[1\]"),
        (lambda: linearized.linearized_loss(np.eye(2), [0, 1], 1, 1), "got int32"),
        (lambda: linearized.leave_one_out_loss(np.eye(2), [1.0, 2], 0), "got 0.0; 0.01 is usual"),
        (lambda: linearized.leave_one_out_loss(np.eye(2), [1.0]), r"\[2\] or .* shape \[1\]"),
        (lambda: linearized.centered_one_hot([0.0], 2), r"got float64\[1\]"),
        (lambda: linearized.centered_one_hot([0, 2], 2), "got 0 to 2"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
