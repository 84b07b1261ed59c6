import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.encoding import decode, encode, enumerate_archs, validate_archs

CHOICES = (2, 3, 4)

spaces = st.lists(st.integers(1, 6), min_size=1, max_size=6).map(tuple)


@st.composite
def stacks(draw):
    """A space and architectures of it, `int64[..., D]`."""
    num_choices = draw(spaces)
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    count = int(np.prod(shape))
    arch = st.tuples(*(st.integers(0, choices - 1) for choices in num_choices))
    archs = draw(st.lists(arch, min_size=count, max_size=count))
    return num_choices, np.array(archs, np.int64).reshape(*shape, len(num_choices))


def test_ranks_by_hand():
    # (1, 2, 3) in base (2, 3, 4): 1 * 12 + 2 * 4 + 3 = 23, the last of 24.
    assert encode([1, 2, 3], CHOICES) == 23
    np.testing.assert_array_equal(encode([[0, 0, 1], [0, 1, 0], [1, 0, 0]], CHOICES), [1, 4, 12])
    np.testing.assert_array_equal(decode([1, 4, 12], CHOICES), [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(decode(23, CHOICES), [1, 2, 3])


def test_dtypes():
    assert validate_archs(np.zeros((2, 3), np.uint8), CHOICES).dtype == np.int32
    assert encode(jnp.zeros((2, 3), jnp.int32), CHOICES).dtype == np.int64
    assert decode(jnp.array([5]), CHOICES).dtype == np.int32
    assert enumerate_archs(CHOICES).dtype == np.int32


@settings(deadline=None)
@given(stacks())
def test_an_architecture_survives_its_code(stack):
    num_choices, archs = stack
    codes = encode(archs, num_choices)
    assert codes.shape == archs.shape[:-1]
    np.testing.assert_array_equal(decode(codes, num_choices), archs)
    np.testing.assert_array_equal(validate_archs(archs, num_choices), archs)


@settings(deadline=None)
@given(spaces, st.data())
def test_a_code_survives_its_architecture(num_choices, data):
    code = data.draw(st.integers(0, int(np.prod(num_choices)) - 1))
    arch = decode(code, num_choices)
    assert arch.shape == (len(num_choices),)
    assert encode(arch, num_choices) == code


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_enumeration_is_lexicographic_and_complete(num_choices):
    archs = enumerate_archs(num_choices)
    expected = list(itertools.product(*map(range, num_choices)))
    np.testing.assert_array_equal(archs, expected)
    np.testing.assert_array_equal(encode(archs, num_choices), np.arange(len(expected)))


def test_codes_of_the_largest_space():
    num_choices = (2,) * 62  # 2**63 has no int64
    assert encode([1] * 62, num_choices) == 2**62 - 1
    np.testing.assert_array_equal(decode(2**62 - 1, num_choices), [1] * 62)


@pytest.mark.parametrize("function", [validate_archs, encode])
@pytest.mark.parametrize(
    ("archs", "words"),
    [
        ([0.0, 1.0, 2.0], ("integers", "float64", "from_string")),
        ([True, False, True], ("integers", "bool")),
        (["a", "b", "c"], ("integers", "from_string")),
        (1, ("3 decisions", "shape ()")),
        ([0, 1], ("3 decisions", "shape (2,)")),
        ([[0, 1, 2, 0]], ("3 decisions", "shape (1, 4)")),
        ([2, 0, 0], ("Decision 0", "[0, 2)", "got 2")),
        ([0, 0, -1], ("Decision 2", "[0, 4)", "got -1")),
        ([[0, 0, 0], [0, 3, 9]], ("Decision 1", "[0, 3)", "got 3")),
    ],
)
def test_bad_architectures(function, archs, words):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        function(archs, CHOICES)


@pytest.mark.parametrize("codes", [-1, 24, [0, 24], [-1, 3], 1.0, [True], "0"])
def test_bad_codes(codes):
    with pytest.raises(ValueError, match=r"integers in \[0, 24\)"):
        decode(codes, CHOICES)


@pytest.mark.parametrize(
    "call", [lambda c: encode([0] * 63, c), lambda c: decode(0, c), lambda c: enumerate_archs(c)]
)
def test_a_space_without_codes(call):
    with pytest.raises(ValueError, match="no 64-bit codes: sample it"):
        call((2,) * 63)
