"""How the features of a history should weigh in the score, learned from one noised sum.

Each device takes the last few items of its training history as targets, each after what came before it, against items
drawn at random. What it sends is the mean over its targets of the slope and the curvature of the log-likelihood of the
softmax, clipped to a length and then scaled to at most 1. The server takes one Newton step w0 + (H + ridge)^-1 g, H
without its negative part. Features are in their standard deviations over made-up histories, which are drawn from what
was released: nobody is asked for them.
"""

import numpy as np
from numpy.typing import NDArray

from fedrec.data.interactions import DeviceData
from fedrec.models.history_features import Floats, HistoryFeatures
from fedrec.rng import CounterRNG, random_below

TARGETS, LEAST_BEFORE, NEGATIVES = 4, 5, 200  # of a device; items before a target; items that stand for all others
CLIP, CURVATURE, RIDGE = 2.0, 0.3, 100.0  # of a device's vector; of H in it; of H in the step
SHARPER = 1.5  # how much steeper than the first score the step starts from
MADE_UP, LENGTH, WINDOW, DECAY = 150, 40, 10, 0.8  # histories by which features are scaled


def most_numbers(features: int) -> int:
    """Return how many numbers a device sends: a slope and the upper triangle of the curvature."""
    return features + features * (features + 1) // 2


def slopes(features: HistoryFeatures, device: DeviceData, start: tuple[Floats, Floats], random: CounterRNG) -> Floats:
    """Return a device's vector, at most 1 long: of its slope and curvature at `start`, (weights, scales) [K] each."""
    history, (weights, scales) = device.history.astype(np.int64), start
    backs = range(1, min(TARGETS, len(history) - LEAST_BEFORE) + 1)
    size = len(weights)
    slope, curvature, logits = np.zeros(size), np.zeros((size, size)), weights.astype(np.float64) * scales
    for back in backs:
        before, target = history[:-back], int(history[-back])
        others = draw_others(before, target, features.items, device.user, back, random)
        found = features.of(before, np.append(target, others)) / scales[:, None]
        apart = (found - found[:, :1]).astype(np.float64)
        chance = logits @ apart
        chance[1:] += np.log(features.items / len(others))
        chance = np.exp(chance - chance.max())
        chance /= chance.sum()
        mean = apart @ chance
        slope -= mean
        curvature += (apart * chance) @ apart.T - np.outer(mean, mean)
    row, column = np.triu_indices(size)
    vector = np.append(slope, curvature[row, column] * _triangle_weights(size)) / max(len(backs), 1)
    return (vector / max(float(np.linalg.norm(vector)), CLIP)).astype(np.float32)


def draw_others(
    before: NDArray[np.int64], target: int, items: int, user: int, number: int, random: CounterRNG
) -> NDArray[np.int64]:
    """Return items, uniform among those that are neither the target nor in the history before it; repeats may occur."""
    out = np.unique(np.append(before, target))
    place = np.arange(NEGATIVES)[None] + number * NEGATIVES
    free = random_below(random.keyed(np.array([user]), place)[0], max(items - len(out), 1))
    return np.minimum(free + np.searchsorted(out - np.arange(len(out)), free, side="right"), items - 1)


def improved_weights(weights: Floats, scales: Floats, total: Floats) -> Floats:
    """Return the weights after one Newton step on the sum of what devices sent."""
    size, sums = len(weights), CLIP * total.astype(np.float64)
    row, column = np.triu_indices(size)
    curvature = np.zeros((size, size))
    curvature[row, column] = curvature[column, row] = sums[size:] / _triangle_weights(size)
    values, axes = np.linalg.eigh(curvature)
    step = axes @ ((axes.T @ sums[:size]) / (np.maximum(values, 0) + RIDGE))
    return ((weights.astype(np.float64) * scales + step) / scales).astype(np.float32)


def _triangle_weights(size: int) -> NDArray[np.float64]:
    """Return the weight of each number of the triangle: sqrt 2 off the diagonal, so that its length is the matrix's."""
    row, column = np.triu_indices(size)
    return CURVATURE * np.where(row == column, 1.0, np.sqrt(2))


def feature_scales(features: HistoryFeatures, counts: Floats) -> Floats:
    """Return each feature's standard deviation over candidates of made-up histories."""
    random, found = np.random.default_rng(0), list[Floats]()
    for history in made_up_histories(features, counts, random):
        others = random.integers(0, features.items, NEGATIVES)
        found.append(features.of(history[:-1], np.append(history[-1], others)))
    return (np.concatenate(found, axis=1).std(axis=1) + 1e-3).astype(np.float32)


def made_up_histories(features: HistoryFeatures, counts: Floats, random: np.random.Generator) -> NDArray[np.int64]:
    """Return histories [150, 40 at most] that go on as the released transitions do, without repeats."""
    items, chance = features.items, counts / counts.sum(dtype=np.float64)
    made = random.choice(items, (MADE_UP, 1), p=chance / chance.sum())
    rows, used = np.arange(MADE_UP), np.zeros((MADE_UP, items), bool)
    while made.shape[1] < min(LENGTH, items):
        used[rows, made[:, -1]] = True
        past = made[:, : -WINDOW - 1 : -1]
        weights = (DECAY ** np.arange(past.shape[1])).astype(np.float32)
        after = np.stack([weights @ features.transitions(line, None) for line in past])
        after[used] = 0
        total = np.cumsum(after, axis=1, dtype=np.float64)
        place = random.random((MADE_UP, 1)) * total[:, -1:]
        following = np.minimum((total <= place).sum(axis=1), items - 1)
        made = np.column_stack([made, following])
    return made
