"""The weights of the features: a device's slope and curvature against autograd, and what a step makes of them."""

import numpy as np
import pytest
import torch

from fedrec.algorithms.feature_weights import (
    CLIP,
    CURVATURE,
    RIDGE,
    draw_others,
    feature_scales,
    improved_weights,
    most_numbers,
    slopes,
)
from fedrec.data.interactions import DeviceData
from fedrec.models.history_features import HistoryFeatures, Past
from fedrec.rng import CounterRNG

ITEMS, K = 30, 8  # without public kernels there are the plain features


def device(history: list[int], user: int = 3) -> DeviceData:
    none = np.empty(0, np.int32)
    return DeviceData(
        user, np.array(history, np.int32), np.ones(len(history), np.float32), none, none, np.empty(0, np.float32)
    )


def features(follows: float = 1.0) -> HistoryFeatures:
    """Features over a ring of items: the next one follows `follows` times as often as any other."""
    table = np.ones((ITEMS, ITEMS), np.float32)
    table[np.arange(ITEMS), (np.arange(ITEMS) + 1) % ITEMS] = follows
    counts = np.random.default_rng(0).uniform(1, 9, ITEMS).astype(np.float32)

    def at(rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
        return table[rows] if columns is None else table[np.ix_(rows, columns)]

    return HistoryFeatures({}, counts, np.zeros(ITEMS, np.float32), at, {"near": Past(10, 0.7), "far": Past(40, 0.95)})


def start() -> tuple[np.ndarray, np.ndarray]:
    weights, scales = np.zeros(K, np.float32), np.linspace(0.5, 2, K).astype(np.float32)
    weights[:3] = (1.0, 0.5, 0.2)
    return weights, scales


def test_slope_and_curvature_are_those_of_autograd() -> None:
    found, one, random = features(4.0), device([5, 6, 7, 2, 9, 11, 12]), CounterRNG(0, 1, 6)
    weights, scales = start()
    sent = slopes(found, one, (weights, scales), random).astype(float)
    logits = torch.tensor(weights.astype(float) * scales, requires_grad=True)

    def likelihood(w: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for back in (1, 2):  # two targets have five items before them
            before, target = one.history[:-back].astype(np.int64), int(one.history[-back])
            others = draw_others(before, target, ITEMS, one.user, back, random)
            columns = torch.from_numpy((found.of(before, np.append(target, others)) / scales[:, None]).astype(float))
            score = w @ columns
            weighed = torch.cat([score[:1], score[1:] + np.log(ITEMS / len(others))])
            total = total + torch.log_softmax(weighed, 0)[0]
        return total / 2

    slope = torch.autograd.grad(likelihood(logits), logits)[0].numpy()
    curvature = -torch.autograd.functional.hessian(likelihood, logits).numpy()  # type: ignore[no-untyped-call]
    row, column = np.triu_indices(K)
    vector = np.append(slope, CURVATURE * curvature[row, column] * np.where(row == column, 1, 2**0.5))
    np.testing.assert_allclose(sent, vector / max(np.linalg.norm(vector), CLIP), atol=1e-6)
    assert len(sent) == most_numbers(K)


@pytest.mark.parametrize("history", [[], [4], [4, 5, 6, 7, 8], list(range(20)), [3, 3, 3, 3, 3, 3, 3]])
def test_no_device_says_more_than_one(history: list[int]) -> None:
    weights, scales = start()
    sent = slopes(features(100.0), device(history), (3 * weights, scales), CounterRNG(0, 1, 6))
    assert np.linalg.norm(sent) <= 1 + 1e-6 and np.isfinite(sent).all()
    assert sent.any() == (len(history) > 5)


def test_others_are_drawn_alike_from_all_that_was_not_used() -> None:
    before, random = np.array([4, 0, 29, 4]), CounterRNG(1, 1, 6)
    drawn = np.concatenate([draw_others(before, 7, ITEMS, user, 1, random) for user in range(100)])
    counts = np.bincount(drawn, minlength=ITEMS)
    assert not counts[[4, 0, 29, 7]].any()
    assert np.all(np.abs(np.delete(counts, [4, 0, 29, 7]) / (20_000 / 26) - 1) < 0.2)
    assert (draw_others(before, 7, ITEMS, 0, 1, random) != draw_others(before, 7, ITEMS, 0, 2, random)).any()
    every = np.arange(ITEMS)
    assert draw_others(every, 7, ITEMS, 0, 1, random).max() < ITEMS  # nothing is left: any item will do


def test_a_step_is_newtons_without_what_curves_the_wrong_way() -> None:
    weights, scales = start()
    row, column = np.triu_indices(K)
    curvature = np.diag(np.linspace(-50, 300, K))
    slope = np.linspace(-3, 4, K)
    sums = np.append(slope, CURVATURE * curvature[row, column] * np.where(row == column, 1, 2**0.5)) / CLIP
    found = improved_weights(weights, scales, sums.astype(np.float32))
    expected = weights + slope / (np.maximum(np.diag(curvature), 0) + RIDGE) / scales
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_devices_that_follow_the_ring_let_the_last_item_weigh_more() -> None:
    found, random = features(20.0), CounterRNG(0, 1, 6)
    weights, scales = np.zeros(K, np.float32), feature_scales(found, np.ones(ITEMS, np.float32))
    sums = sum(
        slopes(found, device([(s + n) % ITEMS for n in range(9)], s), (weights, scales), random) for s in range(600)
    )
    after = improved_weights(weights, scales, np.asarray(sums, np.float32))
    assert after[found.names.index("last")] > 0.05 and after[found.names.index("near")] > 0
    assert (scales > 0).all()
