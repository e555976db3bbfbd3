"""The evaluation of many devices at once; equal to `evaluate_device` on each of them.

Shapes: B devices, V items, n pairs of a device (its place in the batch) and an item.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.data.interactions import DeviceTable
from fedrec.errors import FedrecError
from fedrec.evaluation.candidates import CandidateBook, Part
from fedrec.evaluation.config import HEADLINE, EvaluationConfig
from fedrec.evaluation.metrics import Ranks, Scores, check_scores, top_items
from fedrec.evaluation.per_device import generator_of, history_of
from fedrec.evaluation.per_user import PerUserResults, columns, join, table

Users = NDArray[np.int64]
USERS = 4096  # whose items are counted together
SCORES = 1 << 20  # held at once: few enough for a processor's cache, many enough for a product of matrices


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a device's place in the batch and an item, [n] each, ordered by place."""

    row: NDArray[np.int64]
    item: NDArray[np.integer]

    @classmethod
    def of(cls, devices: DeviceTable, first: Users, end: Users) -> "Pairs":
        """Return the items that devices own from `first[b]` up to `end[b]` of the flat table."""
        counts = end - first
        row = np.repeat(np.arange(len(first)), counts)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(row, devices.item[first[row] + offset])

    def counts(self, rows: int) -> Users:
        """Return how many pairs each of `rows` devices has."""
        return np.bincount(self.row, minlength=rows)

    def key(self, items: int) -> NDArray[np.int64]:
        """Return one number a pair, the same for the same pair."""
        return self.row * items + self.item


def with_targets(devices: DeviceTable, users: Users, part: Part) -> Users:
    """Return those of the users for whom something is held out."""
    first, end = _held_out(devices, users, part)
    return users[end > first]


def count_rivals(devices: DeviceTable, users: Users) -> Users:
    """Return how many items each user's test items are ranked against [B]: as `per_device.left_out` says."""
    found = [np.empty(0, np.int64)]
    for first in range(0, len(users), USERS):
        some = users[first : first + USERS]
        out = devices.test_from[some] if devices.repeats else devices.start[some]
        used = np.unique(Pairs.of(devices, out, devices.start[some + 1]).key(devices.items))
        found.append(devices.items - np.bincount(used // devices.items, minlength=len(some)))
    return np.concatenate(found)


def chance_of_a_hit(devices: DeviceTable, users: Users) -> float | None:
    """Return what blind chance gets as HR@10 on full ranking; None where none of the users has a test item."""
    rivals = count_rivals(devices, with_targets(devices, users, "test"))
    return float(np.minimum(1.0, HEADLINE / (rivals + 1)).mean()) if len(rivals) else None


def batches(users: Users, items: int) -> Iterator[Users]:
    """Yield the users in groups whose scores over `items` fit together."""
    size = max(SCORES // max(items, 1), 1)
    return (users[first : first + size] for first in range(0, len(users), size))


def evaluate_batch(
    scores: Scores, users: Users, part: Part, book: CandidateBook, model: str = "the model"
) -> PerUserResults:
    """Return the rows of devices that all have something held out, from their scores [B, V].

    Errors name `model` and the first device whose scores are wrong. `squared_error` is NaN: `squared_errors` gives it.
    """
    devices, cutoffs = book.devices, book.options.cutoffs
    first, end = _held_out(devices, users, part)
    known, targets = Pairs.of(devices, devices.start[users], first), Pairs.of(devices, first, end)
    _check(scores, devices, users, model)
    left = np.array(scores)
    if not devices.repeats:
        left[known.row, known.item] = -np.inf
    left[targets.row, targets.item] = scores[targets.row, targets.item]
    top = _tops(left, scores, users, book.options)
    left[targets.row, targets.item] = -np.inf
    against = candidates(book, users, part)
    sampled = _sampled(scores, targets, _without(against, targets, scores.shape[1]))
    return {
        "user": users.copy(),
        "candidates": against.counts(len(users)),
        "squared_error": np.full(len(users), np.nan),
        "top": top,
        **columns("full", _full(left, scores, targets), end - first, cutoffs),
        **columns("sampled", sampled, end - first, cutoffs),
    }


def squared_errors(scores: Scores, devices: DeviceTable, users: Users) -> NDArray[np.float64]:
    """Return each device's mean squared error on its test ratings [B], from scores [B, V] that are ratings."""
    first, end = devices.test_from[users], devices.start[users + 1]
    targets = Pairs.of(devices, first, end)
    place = first[targets.row] + np.arange(len(targets.row)) - (np.cumsum(end - first) - (end - first))[targets.row]
    error = np.square(scores[targets.row, targets.item].astype(np.float64) - devices.value[place])
    return np.bincount(targets.row, error, len(users)) / (end - first)


def candidates(book: CandidateBook, users: Users, part: Part) -> Pairs:
    """Return the sampled candidates of the devices."""
    drawn = [book.of(user, part) for user in users.tolist()]
    row = np.repeat(np.arange(len(users)), [len(one) for one in drawn])
    return Pairs(row, np.concatenate([np.empty(0, np.int64), *drawn]))


def _held_out(devices: DeviceTable, users: Users, part: Part) -> tuple[Users, Users]:
    if part == "validation":
        return devices.validation_from[users], devices.test_from[users]
    return devices.test_from[users], devices.start[users + 1]


def _check(scores: Scores, devices: DeviceTable, users: Users, model: str) -> None:
    used = Pairs.of(devices, devices.start[users], devices.start[users + 1])
    if scores.shape[:1] != users.shape or scores.ndim != 2 or used.item.max() >= scores.shape[1]:
        where = f"scores of {model} on device {users[0]} and its like"
        raise FedrecError(
            f"{where}: shape {scores.shape} given, one score per device and item of the catalogue expected"
        )
    if not np.isfinite(scores).all():
        wrong = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        check_scores(scores[wrong], f"scores of {model} on device {users[wrong]}")


def _tops(left: NDArray[Any], scores: Scores, users: Users, options: EvaluationConfig) -> NDArray[np.int32]:
    """Return the best items of each device [B, 10], padded with -1, as `top_items` does for one."""
    length = min(HEADLINE, left.shape[1])
    best, items = (found.numpy() for found in torch.topk(torch.from_numpy(left), length))
    order = np.argsort(items, axis=1)
    order = np.take_along_axis(order, np.argsort(-np.take_along_axis(best, order, 1), axis=1, kind="stable"), 1)
    top = np.full((len(left), HEADLINE), -1, np.int32)
    top[:, :length] = np.take_along_axis(items, order, 1)
    # Where the last place is tied with what got none, or where items run out, a device is done by itself.
    last = best[:, -1:]
    unclear = ((left == last).sum(1) > (best == last).sum(1)) | ~np.isfinite(last[:, 0])
    for row in np.flatnonzero(unclear):
        excluded = np.flatnonzero(left[row] == -np.inf)
        found = top_items(scores[row], excluded, HEADLINE, generator_of(options, int(users[row])))
        top[row] = -1
        top[row, : len(found)] = found
    return top


def _nth(scores: Scores, targets: Pairs) -> Iterator[tuple[NDArray[np.bool_], NDArray[Any]]]:
    """Yield (which pairs are their device's n-th target [T], that target's score [B], inf where there is none)."""
    counts = targets.counts(len(scores))
    number = np.arange(len(targets.row)) - (np.cumsum(counts) - counts)[targets.row]
    for n in range(int(counts.max(initial=0))):
        mine = number == n
        tops = np.full(len(scores), np.inf, scores.dtype)
        tops[targets.row[mine]] = scores[targets.row[mine], targets.item[mine]]
        yield mine, tops


def _full(left: NDArray[Any], scores: Scores, targets: Pairs) -> Ranks:
    """Count what is left of each device's scores [B, V] above and tied with each of its targets."""
    found = Ranks(np.zeros(len(targets.row), np.int64), np.zeros(len(targets.row), np.int64))
    for mine, tops in _nth(scores, targets):
        found.above[mine] = np.count_nonzero(left > tops[:, None], axis=1)[targets.row[mine]]
        found.tied[mine] = np.count_nonzero(left == tops[:, None], axis=1)[targets.row[mine]]
    return found


def _without(candidates: Pairs, targets: Pairs, items: int) -> Pairs:
    """Return the candidates that are not targets of their device: published ones may be."""
    keep = ~np.isin(candidates.key(items), targets.key(items))
    return Pairs(candidates.row[keep], candidates.item[keep])


def _sampled(scores: Scores, targets: Pairs, candidates: Pairs) -> Ranks:
    """Count each device's candidates above and tied with each of its targets."""
    found = Ranks(np.zeros(len(targets.row), np.int64), np.zeros(len(targets.row), np.int64))
    against = scores[candidates.row, candidates.item]
    for mine, tops in _nth(scores, targets):
        above = np.bincount(candidates.row[against > tops[candidates.row]], minlength=len(scores))
        tied = np.bincount(candidates.row[against == tops[candidates.row]], minlength=len(scores))
        found.above[mine], found.tied[mine] = above[targets.row[mine]], tied[targets.row[mine]]
    return found


ScoreMany = Callable[[Sequence[NDArray[np.int32]]], Scores]
Tell = Callable[[int, int], None]


def evaluate_many(
    score_many: ScoreMany,
    devices: DeviceTable,
    part: Part,
    options: EvaluationConfig,
    model: str = "the model",
    tell: Tell | None = None,
) -> PerUserResults:
    """Return the rows of all devices that `options` chooses; `score_many(histories)` gives scores [B, V]."""

    def score(users: Users) -> Scores:
        return score_many([history_of(devices[user], part) for user in users.tolist()])

    return evaluate_users(score, options.chosen(len(devices)), part, CandidateBook(devices, options), model, tell)


def evaluate_users(
    score: Callable[[Users], Scores],
    users: Users,
    part: Part,
    book: CandidateBook,
    model: str = "the model",
    tell: Tell | None = None,
) -> PerUserResults:
    """Return the rows of those of the users who have something held out; `score(users)` gives scores [B, V].

    `tell(done, users)` hears after each batch how many are done.
    """
    users, tables, done = with_targets(book.devices, users, part), list[PerUserResults](), 0
    for batch in batches(users, book.devices.items):
        tables.append(evaluate_batch(score(batch), batch, part, book, model))
        done += len(batch)
        if tell is not None:
            tell(done, len(users))
    return join(tables) if tables else table([], book.options.cutoffs)
