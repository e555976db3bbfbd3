"""Order statistics: what devices send against slow loops, what the server makes of it against the full algebra."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.item_pairs import flat_place, together, transitions, triangle
from fedrec.algorithms.transition_counts import TransitionCounts
from fedrec.algorithms.transition_estimation import (
    FactorPrior,
    PairSums,
    choose_cells,
    count_features,
    fit_prior_mean,
    posterior_mean,
    shrink_counts,
)
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays, ModelUpdate, total
from fedrec.models import transitions as order
from fedrec.models.item_kernels import public_kernels
from fedrec.models.transitions import ItemTransitionModel, TransitionPrior, Window, sizes
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.mechanisms.user_adaptive import UserAdaptive
from fedrec.privacy.mechanisms.user_local import UserLocal
from fedrec.privacy.release import total_of
from tests.support.tiny import catalogue

ITEMS = 12
PUBLIC = catalogue(ITEMS)
HISTORIES = hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(0, ITEMS - 1))
UPPER = np.triu_indices(ITEMS, 1)


def device(history: np.ndarray) -> DeviceData:
    empty = np.empty(0, np.int32)
    return DeviceData(
        0, history.astype(np.int32), np.ones(len(history), np.float32), empty, empty, np.empty(0, np.float32)
    )


def dense(place: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    flat = np.zeros(triangle(size))
    flat[place] = value
    return flat


def ready(**fields: float | bool) -> TransitionCounts:
    return TransitionCounts(head=ITEMS, **fields).with_catalogue(PUBLIC)  # type: ignore[arg-type]


def fitted(algorithm: TransitionCounts, histories: list[np.ndarray], noise: float = 0.0) -> Arrays:
    """Run the algorithm's rounds over these histories, with seeded noise."""
    rng = np.random.default_rng(0)
    public = algorithm.catalogue or PUBLIC
    model = ItemTransitionModel(public, head=algorithm.head, encoder=algorithm.encoder)
    state = algorithm.init(model, public)
    for _ in range(algorithm.rounds(1)):
        context = RoundContext(1, 0, UserLevel(noise_multiplier=1.0))
        many = [device(history) for history in histories]
        sent = algorithm.contribute_many(model, algorithm.broadcast(state), many, [{} for _ in many], context)
        like = {name: np.zeros(shape, np.float32) for name, shape in algorithm.shapes(state).items()}
        summed = {
            n: (a + rng.normal(0, noise, a.shape)).astype(np.float32)
            for n, a in total((one.update for one in sent), like).arrays.items()
        }
        state = algorithm.step(state, Aggregate(summed, 1.0, noise_std=noise))
    return state


def test_flat_places_are_those_of_the_upper_triangle() -> None:
    for size in (2, 5, 12):
        one, other = np.triu_indices(size, 1)
        assert flat_place(one, other, size).tolist() == list(range(triangle(size)))
        assert flat_place(other, one, size).tolist() == list(range(triangle(size)))


@settings(max_examples=100, deadline=None)
@given(HISTORIES, st.integers(1, 12), st.sets(st.integers(0, ITEMS - 1), min_size=1))
def test_transitions_are_those_of_a_slow_loop(history: np.ndarray, window: int, head: set[int]) -> None:
    """Repeats included; an item outside the head takes up its step."""
    kept = sorted(head)
    place = np.array([kept.index(i) if i in head else -1 for i in range(ITEMS)])
    both, ascending = np.zeros((len(kept), len(kept))), np.zeros((len(kept), len(kept)))
    for n, first in enumerate(history):
        for lag, then in enumerate(history[n + 1 : n + 1 + window], start=1):
            a, b = place[first], place[then]
            if a >= 0 and b >= 0 and a != b:
                both[min(a, b), max(a, b)] += 0.8 ** (lag - 1)
                ascending[min(a, b), max(a, b)] += 0.8 ** (lag - 1) * (1 if a < b else -1)
    found = transitions(place[history], len(kept), window, 0.8)
    upper = np.triu_indices(len(kept), 1)
    np.testing.assert_allclose(dense(found.place, found.both, len(kept)), both[upper], atol=1e-12)
    np.testing.assert_allclose(dense(found.place, found.ascending, len(kept)), ascending[upper], atol=1e-12)
    assert len(np.unique(found.place)) == len(found.place)


def test_what_is_used_together_has_no_order() -> None:
    found = together(np.array([3, 0, -1, 3, 1]), 5)
    assert dense(found.place, found.both, 5).sum() == 3 and not found.ascending.any()
    assert set(found.place) == set(flat_place(np.array([0, 0, 1]), np.array([1, 3, 3]), 5).tolist())


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.booleans(), st.booleans())
def test_a_device_weighs_one_whatever_it_repeats(history: np.ndarray, one_round: bool, order: bool) -> None:
    """Exactly one where it has pairs: nothing of the budget is left unused."""
    algorithm = ready(one_round=one_round, order=order)
    state = algorithm.init(ItemTransitionModel(PUBLIC, head=ITEMS), PUBLIC)
    several = len(np.unique(history[:10])) > 1
    for stage in (0.0, 1.0):
        state["stage/order"][:] = stage
        norm = ModelUpdate(algorithm.statistic(algorithm.broadcast(state), device(history), Unit.USER), 1).norm()
        assert norm <= 1 + 1e-6 and (not several or norm > 1 - 1e-6)


def test_one_round_finds_what_two_find_where_the_head_is_everything() -> None:
    rng = np.random.default_rng(1)
    histories = [rng.integers(0, ITEMS, 15) for _ in range(40)]
    one, two = (fitted(ready(one_round=flag), histories) for flag in (True, False))
    # Features overlap, so that their coefficients may differ.
    for name in one.keys() - {"symmetric_weights", "antisymmetric_weights", "stage/order"}:
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_without_noise_the_estimates_are_the_sums() -> None:
    histories = [np.array([0, 1, 2]), np.array([1, 2]), np.array([5, 4])]
    state = fitted(ready(window=1), histories)
    both = state["symmetric"] / state["symmetric"].max()
    raw = np.sum([dense(*(p := transitions(h, ITEMS, 1, 1.0))[:2], ITEMS) / p.norm(0.4) for h in histories], axis=0)
    pairs = np.flatnonzero(raw)
    np.testing.assert_allclose(both[pairs], raw[pairs] / raw.max(), rtol=1e-4)
    assert state["antisymmetric"][flat_place(np.array([4]), np.array([5]), ITEMS)[0]] < 0


def test_shrinking_lies_between_what_is_seen_and_what_is_expected() -> None:
    noisy, prior = np.array([-3.0, 1.0, 30.0, 400.0]), np.full(4, 20.0)
    sure, unsure = posterior_mean(noisy, 0.05, prior), posterior_mean(noisy, 1e5, prior)
    np.testing.assert_allclose(sure[2:], noisy[2:], rtol=0.2)
    np.testing.assert_allclose(unsure, prior, rtol=0.05)
    found = posterior_mean(noisy, 10.0, prior)
    assert (found > 0).all() and (np.diff(found) > 0).all()


def test_shrinking_is_nearer_to_the_truth_than_the_noisy_counts() -> None:
    rng = np.random.default_rng(2)
    features = count_features(catalogue(400))
    truth = np.exp(features @ rng.normal(0, 0.6, features.shape[1])) * rng.lognormal(0, 0.5, 400) * 10
    noisy = truth + rng.normal(0, 8, 400)
    found = shrink_counts(noisy, 8.0, features)
    assert (found > 0).all() and np.square(found - truth).mean() < 0.7 * np.square(noisy - truth).mean()


def test_regression_finds_planted_coefficients() -> None:
    rng = np.random.default_rng(3)
    expectation, every = TransitionPrior(PUBLIC, rng.uniform(1, 9, ITEMS).astype(np.float32)), np.arange(ITEMS)
    features = list(expectation.antisymmetric(every, every))[:3]
    planted = sum(w * f for w, f in zip((2.0, -1.0, 0.5), features, strict=True)) * expectation.base(every, every)
    weights = fit_prior_mean(planted, expectation.antisymmetric, expectation, every)
    _, found = expectation.expected((np.zeros(sizes(PUBLIC)[0], np.float32), weights), every, every)
    np.testing.assert_allclose(found, planted, atol=1e-2 * np.abs(planted).max())


@pytest.mark.parametrize("noise", ["alike", "a cell"])
def test_the_posterior_is_that_of_the_full_system(noise: str) -> None:
    """Both triangles are data: a dense solve over all ordered pairs but the diagonal."""
    rng = np.random.default_rng(4)
    expectation, head = TransitionPrior(PUBLIC, rng.uniform(1, 9, ITEMS).astype(np.float32)), np.arange(ITEMS)
    prior = FactorPrior.of(expectation, head, 0.8, 0.7)
    np.testing.assert_allclose(np.diag(prior.kernel), 1, rtol=1e-6)
    mean, residual = rng.uniform(0.5, 2, (ITEMS, ITEMS)), rng.normal(0, 2, (ITEMS, ITEMS))
    mean, residual = ((part + part.T).astype(np.float32) for part in (mean, residual))
    np.fill_diagonal(mean, 0)
    std = np.full((ITEMS, ITEMS), 1.5, np.float32) if noise == "alike" else mean + 0.5
    found = prior.change(residual, mean, 1.5 if noise == "alike" else std)
    off = np.flatnonzero(~np.eye(ITEMS, dtype=bool).ravel())
    covariance = 0.7**2 * np.outer(mean.ravel(), mean.ravel()) * np.kron(prior.kernel, prior.kernel)
    system = covariance[np.ix_(off, off)] + np.diag(std.ravel()[off] ** 2)
    expected = covariance[np.ix_(off, off)] @ np.linalg.solve(system, residual.ravel()[off])
    np.testing.assert_allclose(found.ravel()[off], expected, atol=4e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(prior.change(residual, mean, 0.0), residual)


def test_sums_that_were_released_twice_are_weighed_by_what_each_is_worth() -> None:
    """Cells come in units of their own; elsewhere nothing changes, and noise is smaller where there are two."""
    rng = np.random.default_rng(6)
    truth = rng.uniform(1, 3, triangle(5)).astype(np.float32)
    base = np.ones((5, 5), np.float32) - np.eye(5, dtype=np.float32)
    first = PairSums.of((truth, 0.1 * truth), 0.5, 0.4, base)
    unit = float(truth.mean())
    chosen = np.array([1, 4, 7])
    sent = 3 * truth[chosen] / unit
    again = first.joined(chosen, (sent, 0.1 * sent), 0.6, truth[chosen] / unit)
    upper = np.triu_indices(5, 1)
    np.testing.assert_allclose(again.both[upper], truth / unit, rtol=1e-5)
    np.testing.assert_allclose(again.ascending[upper], 0.1 * truth / unit / 0.4, rtol=1e-5)
    one, other = (0.5 / unit) ** -2, (0.6 / 3) ** -2
    inside = np.isin(np.arange(triangle(5)), chosen)
    expected = np.where(inside, (one + other) ** -0.5, one**-0.5)
    np.testing.assert_allclose(np.asarray(again.noise)[upper], expected, rtol=1e-5)
    assert first.joined(chosen, (-sent, sent), 0.6, truth[chosen]) is first  # noise alone has no scale


def test_each_row_has_its_say_in_which_cells_are_chosen() -> None:
    both, counts = np.zeros(triangle(6), np.float32), np.array([900, 1, 1, 1, 1, 1], np.float32)
    pairs = flat_place(np.array([0, 2, 4]), np.array([1, 3, 5]), 6)
    both[pairs] = (0.5, 0.4, 0.3)
    assert set(choose_cells(both, counts, 3)) == set(pairs)
    both[flat_place(np.array([0]), np.array([4]), 6)] = 0.31  # next to nothing beside how popular item 0 is
    assert set(choose_cells(both, counts, 3)) == set(pairs)
    assert (np.diff(choose_cells(both, counts, 7)) > 0).all()


def test_cells_are_scaled_after_the_restriction_and_bounded_before() -> None:
    """A device's cells are as long as all its pairs; with a shortest history it says no more of one."""
    history, algorithm = np.array([0, 1, 2, 3]), ready(cell_share=0.3, cells=1)
    state = algorithm.init(ItemTransitionModel(PUBLIC, head=ITEMS), PUBLIC)
    state["stage/order"][:] = 2
    state["stage/cells"][:] = [*flat_place(np.zeros(11, np.int64), np.arange(1, 12), ITEMS).tolist(), 60.0]
    state["stage/cell_share"][:] = 0.25
    sent = algorithm.statistic(algorithm.broadcast(state), device(history), Unit.USER)
    norm = (1 + 0.8**2 + 0.64**2) ** 0.5 * (1 + 0.4**2) ** 0.5
    expected = np.zeros(12)
    expected[:3] = np.array([1, 0.8, 0.64]) / norm
    np.testing.assert_allclose(np.asarray(sent["cell_symmetric"]), expected, rtol=1e-6)
    short = replace(algorithm, shortest_history=9)
    sent = short.statistic(algorithm.broadcast(state), device(history), Unit.USER)
    assert np.asarray(sent["cell_symmetric"]).max() < 0.7 / norm
    bounds = short.item_bounds(Unit.USER, state)
    hostile = np.full(12, bounds["cell_symmetric"].value, np.float32)
    cut = short.clip_items(state, ModelUpdate({"cell_symmetric": hostile}, 1), Unit.USER, 0.0).arrays["cell_symmetric"]
    assert cut[:11].sum() <= bounds["cell_symmetric"].row * 1.001 < hostile[:11].sum() and cut[11] == hostile[11]


def test_scores_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(5)
    histories = [rng.integers(0, ITEMS, 12) for _ in range(30)]
    state = fitted(TransitionCounts(head=7).with_catalogue(PUBLIC), histories, noise=0.3)
    model = ItemTransitionModel(PUBLIC, head=7, near=Window(2, 0.7, 0.45), far=Window(4, 0.95, 0.9, 0.5))
    model.load({name: array for name, array in state.items() if name in model.shared})
    history = torch.tensor([3, 8, 1, 9, 4])
    rows = np.stack([model.features().transitions(np.array([item]), None)[0] for item in (4, 9, 1, 8)]).astype(float)
    level = np.log(state["counts"].astype(float))
    short, long = (np.log(0.7 ** np.arange(2) @ rows[:2] + 1e-12), np.log(0.95 ** np.arange(4) @ rows + 1e-12))
    expected = short - 0.45 * level + 0.5 * (long - 0.9 * level) + 0.5 * state["freshness"]
    np.testing.assert_allclose(model.scores(history).numpy(), expected, rtol=1e-4, atol=1e-4)
    popular = model.scores(torch.empty(0, dtype=torch.long)).numpy()
    np.testing.assert_allclose(popular, level + 0.5 * state["freshness"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("order", "first"), [(True, True), (False, False)])
def test_only_order_tells_what_comes_next(order: bool, first: bool) -> None:
    """Everybody goes round the items in one direction: the next item and the one before are used together alike."""
    histories = [np.arange(start, start + 6) % ITEMS for start in range(ITEMS)] * 5
    state = fitted(replace(ready(window=2), order=order), histories, noise=0.05)
    model = ItemTransitionModel(PUBLIC, head=ITEMS, near=Window(1, 0.7, 0.45), far=Window(1, 0.95, 0.9, 0.5))
    model.load({name: array for name, array in state.items() if name in model.shared})
    scores = [model.scores(torch.tensor([item])).numpy() for item in range(ITEMS)]
    gaps = [line[(item + 1) % ITEMS] - line[item - 1] for item, line in enumerate(scores)]
    assert (min(gaps) > 0.5) == first


@pytest.mark.parametrize("mechanism", [UserLevel(), UserLocal(), UserAdaptive()])
def test_a_mechanism_states_the_noise_that_it_adds(mechanism: UserLevel | UserLocal) -> None:
    """What the estimates rest on, on what really comes out of a statistic's round."""
    plan = TrainingPlan(population=50, interactions=900, cohort_rate=1.0, rounds=2, trains=False, shares=(0.3, 0.7))
    ready, zeros = mechanism.calibrated(plan, 1.0), ModelUpdate({"m": np.zeros(20_000, np.float32)}, 1)
    sent = [ready.privatize_update(zeros, ready.random(n)) for n in range(50)]
    memory = ready.init_state({"m": (20_000,)})
    found = ready.privatize_aggregate(total_of(sent), plan, 2, ready.random(99), memory)
    assert found.noise_std > 0 and np.isclose(found.arrays["m"].std(), found.noise_std, rtol=0.03)


def test_nonsense_and_what_is_too_large_is_refused() -> None:
    for fields in ({"window": 0}, {"decay": 0.0}, {"count_share": 0.6, "weight_share": 0.4}, {"prior_scale": -1.0}):
        with pytest.raises(FedrecError, match="algorithm"):
            TransitionCounts(**fields)  # type: ignore[arg-type]
    with pytest.raises(FedrecError, match=r"5,000 items expected; 6,000 would take \d+ MiB"):
        ItemTransitionModel(PUBLIC, head=6000)
    with pytest.raises(FedrecError, match="leave model"):
        TransitionCounts(head=4).init(ItemTransitionModel(PUBLIC, head=5), PUBLIC)
    with pytest.raises(FedrecError, match="one_round=true sends all pairs"):
        TransitionCounts(head=5, one_round=True).init(ItemTransitionModel(catalogue(5001), head=5), catalogue(5001))
    with pytest.raises(FedrecError, match="with_catalogue"):
        TransitionCounts().step({}, Aggregate({}, 1.0))


def test_an_encoder_adds_its_kernel_to_what_is_smoothed_and_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same on the server and on a device; texts that are alike are near, whatever all of them have in common."""
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path))
    same = replace(PUBLIC, titles=np.array(["a heat", "a heat", *(f"a film {n}" for n in range(2, ITEMS))]))
    kernel, every = public_kernels(same, "words")["text"], np.arange(ITEMS)
    near = kernel.block(every, every)
    assert near[0, 1] > near[:2, 2:].max()
    assert np.diag(near) == pytest.approx(np.ones(ITEMS))
    rng = np.random.default_rng(1)
    histories = [rng.permutation(ITEMS)[: rng.integers(2, ITEMS)].astype(np.int32) for _ in range(40)]
    state = fitted(TransitionCounts(head=ITEMS, encoder="words").with_catalogue(same), histories, noise=0.1)
    assert sizes(same, "words")[0] == len(state["symmetric_weights"]) > sizes(same)[0]
    model = ItemTransitionModel(same, head=ITEMS, encoder="words")
    model.load({name: state[name] for name in model.shared})
    assert torch.isfinite(model.scores(torch.tensor([0, 1]))).all()


def test_an_encoder_must_be_the_same_on_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path))
    with pytest.raises(FedrecError, match=r"algorithm\.encoder"):
        TransitionCounts(head=ITEMS, encoder="words").init(ItemTransitionModel(PUBLIC, head=ITEMS), PUBLIC)


@pytest.mark.parametrize("rows", [0, 3, ITEMS])
def test_scores_do_not_depend_on_how_many_rows_are_kept(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    rng = np.random.default_rng(2)
    histories = [rng.permutation(ITEMS)[: rng.integers(2, ITEMS)].astype(np.int32) for _ in range(20)]
    state = fitted(ready(), histories, noise=0.1)
    found = list[np.ndarray]()
    for cells in (ITEMS * ITEMS, ITEMS * rows):
        monkeypatch.setattr(order, "KEPT_CELLS", cells)
        model = ItemTransitionModel(PUBLIC, head=ITEMS)
        model.load({name: state[name] for name in model.shared})
        found.append(np.stack([model.scores(torch.from_numpy(history)).numpy() for history in histories]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
