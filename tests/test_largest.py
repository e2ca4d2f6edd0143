"""The largest absolute value keeps NaN, whatever the size of the array."""

import jax
import numpy as np
import pytest

from implicitdiff._largest import largest


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_nan_is_kept(dtype):
    values = np.random.default_rng(0).standard_normal((4_000, 5)).astype(dtype)
    values[::7, 2], values[::11, 3], values[5, 4] = np.nan, -np.inf, np.nan
    for axis in (None, 0, 1, (0, 1)):
        found = jax.jit(largest, static_argnums=1)(values, axis)
        np.testing.assert_array_equal(found, np.max(np.abs(values), axis=axis))


def test_no_numbers():
    np.testing.assert_array_equal(largest(np.zeros((3, 0)), 1), np.zeros(3))
    assert largest(np.zeros(0)) == 0
