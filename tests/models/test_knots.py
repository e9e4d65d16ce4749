import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.knots import interpolated


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True), st.floats(-0.5, 1.5))
def test_interpolation_is_numpys(points: list[float], x: float) -> None:
    xs = sorted(points)
    ys = [point**2 for point in xs]
    assert interpolated(x, xs, ys) == pytest.approx(float(np.interp(x, xs, ys)), abs=1e-9)
