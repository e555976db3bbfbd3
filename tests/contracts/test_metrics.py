"""What every ranking metric promises, for each name in `GAINS`: one that is added is held to it too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.evaluation.metrics import (
    GAINS,
    MetricSums,
    Ranks,
    device_sums,
    expected,
    full_ranks,
    pessimistic,
    ranking_metrics,
    sampled_ranks,
)

ITEMS, SLACK = 15, 1e-12
SCORES = st.lists(st.integers(0, 4).map(float), min_size=ITEMS, max_size=ITEMS).map(np.array)
PLACES, CUTOFFS, TARGETS = st.integers(0, 12), st.integers(1, 12), st.integers(0, ITEMS - 1)
every = pytest.mark.parametrize("name", sorted(GAINS))


def ranks(above: int, tied: int = 0) -> Ranks:
    return Ranks(np.array([above]), np.array([tied]))


@every
def test_a_gain_is_one_at_the_top_and_falls_from_there(name: str) -> None:
    gains = GAINS[name](np.arange(1.0, 200.0))
    assert gains[0] == 1 and (gains > 0).all() and (np.diff(gains) <= 0).all()


@every
@given(above=PLACES, tied=st.integers(0, 6), cutoff=CUTOFFS)
def test_it_lies_between_every_tie_lost_and_every_tie_won(name: str, above: int, tied: int, cutoff: int) -> None:
    lost, won = (float(pessimistic(name, ranks(rank), cutoff)[0]) for rank in (above + tied, above))
    found = float(expected(name, ranks(above, tied), cutoff)[0])
    assert 0 <= lost <= found + SLACK and found <= won + SLACK and won <= 1
    assert float(pessimistic(name, ranks(above, tied), cutoff)[0]) == lost
    assert tied or abs(found - won) <= SLACK


@every
@given(above=PLACES, tied=st.integers(0, 6), cutoff=CUTOFFS)
def test_a_longer_list_never_counts_less_and_a_worse_rank_never_more(
    name: str, above: int, tied: int, cutoff: int
) -> None:
    found = expected(name, ranks(above, tied), cutoff)[0]
    assert expected(name, ranks(above, tied), cutoff + 1)[0] >= found - SLACK
    assert expected(name, ranks(above + 1, tied), cutoff)[0] <= found + SLACK


@every
@given(scores=SCORES, target=TARGETS, shift=st.integers(-3, 3), scale=st.sampled_from([0.5, 2.0, 8.0]))
def test_only_the_order_of_scores_counts(name: str, scores: np.ndarray, target: int, shift: int, scale: float) -> None:
    nothing = np.empty(0, np.int64)
    one, other = (full_ranks(s, np.array([target]), nothing) for s in (scores, scale * scores + shift))
    assert np.array_equal(expected(name, one, 5), expected(name, other, 5))


@every
@given(scores=SCORES, target=TARGETS, seed=st.integers(0, 99))
def test_the_rows_of_the_catalogue_may_be_numbered_anyhow(
    name: str, scores: np.ndarray, target: int, seed: int
) -> None:
    """A metric that broke ties by row would favour the items that a data set lists first."""
    order = np.random.default_rng(seed).permutation(ITEMS)
    moved = np.empty_like(scores)
    moved[order] = scores
    nothing = np.empty(0, np.int64)
    one, other = full_ranks(scores, np.array([target]), nothing), full_ranks(moved, order[[target]], nothing)
    assert np.array_equal(expected(name, one, 4), expected(name, other, 4))


@every
@given(scores=SCORES, target=TARGETS, seed=st.integers(0, 99), count=st.integers(0, ITEMS))
def test_against_fewer_rivals_no_target_stands_worse(
    name: str, scores: np.ndarray, target: int, seed: int, count: int
) -> None:
    rivals = np.delete(np.arange(ITEMS), target)
    drawn = np.random.default_rng(seed).permutation(rivals)[:count]
    whole, part = (sampled_ranks(scores, np.array([target]), one) for one in (rivals, drawn))
    assert expected(name, part, 5)[0] >= expected(name, whole, 5)[0] - SLACK
    full = full_ranks(scores, np.array([target]), np.empty(0, np.int64))
    assert (whole.above[0], whole.tied[0]) == (full.above[0], full.tied[0])


@every
@given(st.lists(st.lists(st.tuples(PLACES, st.integers(0, 3)), min_size=1, max_size=3), min_size=1, max_size=6))
def test_sums_over_devices_give_the_mean_over_devices(name: str, devices: list[list[tuple[int, int]]]) -> None:
    """A device with three targets counts once, as one with a single target does; in whatever order they are merged."""
    found = [Ranks(*(np.array(column) for column in zip(*targets, strict=True))) for targets in devices]
    forth, back = MetricSums.zero(), MetricSums.zero()
    for one, other in zip(found, reversed(found), strict=True):
        forth, back = forth.merge(device_sums(one, (10,))), device_sums(other, (10,)).merge(back)
    means = [ranking_metrics(one, (10,))[f"{name}@10"].mean() for one in found]
    assert forth.count == back.count == len(devices)
    assert forth.result()[f"{name}@10"] == pytest.approx(np.mean(means))
    assert back.result()[f"{name}@10"] == pytest.approx(np.mean(means))
