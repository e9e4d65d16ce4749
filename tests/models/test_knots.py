import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.forest import kernel, probabilities
from models.knots import interpolated


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True), st.floats(-0.5, 1.5))
def test_interpolation_is_numpys(points: list[float], x: float) -> None:
    xs = sorted(points)
    ys = [point**2 for point in xs]
    assert interpolated(x, xs, ys) == pytest.approx(float(np.interp(x, xs, ys)), abs=1e-9)


@pytest.mark.skipif(kernel() is None, reason="built without a compiler")
@given(
    st.lists(st.floats(0, 1), max_size=30, unique=True),
    st.lists(st.one_of(st.floats(-40, 40), st.sampled_from([-1e300, -701.0, -699.0, 0.0, 1e300])), max_size=12),
)
def test_the_compiled_chances_are_the_same_to_the_last_bit(points: list[float], scores: list[float]) -> None:
    xs = sorted(points)
    ys = [point**2 for point in xs]
    compiled = kernel()
    assert compiled is not None
    found = compiled.chances(scores, np.array(xs), np.array(ys))
    plain = probabilities(scores)
    assert found == ([interpolated(p, xs, ys) for p in plain] if xs else plain)
