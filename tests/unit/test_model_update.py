"""A sparse array is the dense one, whatever is done with it; and nodes sum it without ever holding many."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.messages import ModelUpdate, SparseArray, UpdateSum, cells, total
from fedrec.privacy.clipping import NormClipper


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A sparse array under the dense type, and the dense one."""
    places = draw(st.lists(st.integers(0, 19), unique=True))
    values = np.array(
        draw(st.lists(st.floats(-9, 9, width=32), min_size=len(places), max_size=len(places))), np.float32
    )
    index = np.array(places, np.int64)
    dense = np.zeros((4, 5), np.float32)
    dense.reshape(-1)[index] = values
    return cells(index, values, (4, 5)), dense


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_it_behaves_as_the_dense_array(pair: tuple[np.ndarray, np.ndarray]) -> None:
    mine, dense = pair
    assert isinstance(mine, SparseArray) and (mine.shape, mine.dtype, mine.size) == ((4, 5), np.float32, 20)
    assert np.array_equal(mine, dense) and np.array_equal(mine.copy(), dense)
    for same, wanted in (
        (mine + 1, dense + 1),
        (dense - mine, np.zeros_like(dense)),
        (np.square(mine, dtype=np.float64), np.square(dense, dtype=np.float64)),
        (mine * np.float64(0.3), dense * np.float64(0.3)),
        (np.isfinite(mine), np.ones((4, 5), bool)),
        (mine.astype(np.float64), dense.astype(np.float64)),
        (np.zeros_like(mine), np.zeros((4, 5), np.float32)),
    ):
        assert np.array_equal(same, wanted)
    assert np.isclose(np.sum(np.square(mine, dtype=np.float64)), np.sum(np.square(dense, dtype=np.float64)))


@settings(max_examples=50, deadline=None)
@given(pairs(), st.floats(0.1, 20))
def test_updates_clip_and_sum_alike(pair: tuple[np.ndarray, np.ndarray], clip: float) -> None:
    mine, dense = (NormClipper(clip).clipped(ModelUpdate({"m": array}, 1)) for array in pair)
    assert np.isclose(mine.norm(), dense.norm()) and mine.norm() <= clip * (1 + 1e-6)
    summed = UpdateSum()
    for one in (mine, dense, mine):
        summed.add(one)
    like = {"m": np.zeros((4, 5), np.float32)}
    expected = total([dense, dense, dense], like)
    for found in (summed.update(), total([mine, mine, mine], like)):
        assert type(found.arrays["m"]) is np.ndarray and found.count == 3
        np.testing.assert_allclose(found.arrays["m"], expected.arrays["m"], rtol=1e-6)


def test_what_is_not_finite_is_noticed() -> None:
    bad = ModelUpdate({"m": cells(np.array([3]), np.array([np.nan], np.float32), (5,))}, 1)
    assert not bad.finite() and not NormClipper(1.0).clipped(bad).arrays["m"].any()
