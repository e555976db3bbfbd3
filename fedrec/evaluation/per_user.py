"""Per-user results as named arrays: what simulations send, keep under `exact/` and compare."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.evaluation.config import HEADLINE
from fedrec.evaluation.metrics import Ranks, pessimistic, ranking_metrics
from fedrec.evaluation.per_device import Row

PerUserResults = dict[str, NDArray[Any]]


def table(rows: Sequence[Row], cutoffs: tuple[int, ...]) -> PerUserResults:
    """Return one array per column, an entry per device ordered by user: the mean over its targets.

    Columns: user, candidates, squared_error (NaN where there is none), top [rows, 10] (padded with -1), and under
    "full_" and "sampled_": every metric, "hr@10_pessimistic", "ndcg@10_pessimistic" and "tied" (share of targets).
    """
    rows = sorted(rows, key=lambda row: row.user)
    top = np.full((len(rows), HEADLINE), -1, np.int32)
    for line, row in zip(top, rows, strict=True):
        line[: len(row.top)] = row.top
    return {
        "user": np.array([row.user for row in rows], np.int64),
        "candidates": np.array([row.candidates for row in rows], np.int64),
        "squared_error": np.array([np.nan if row.squared_error is None else row.squared_error for row in rows]),
        "top": top,
        **_ranking("full", [row.full for row in rows], cutoffs),
        **_ranking("sampled", [row.sampled for row in rows], cutoffs),
    }


def join(tables: Sequence[PerUserResults]) -> PerUserResults:
    """Return the rows of several groups of devices as one table ordered by user; a user that is in two is an error."""
    joined: PerUserResults = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    order = np.argsort(joined["user"], kind="stable")
    if len(np.unique(joined["user"])) != len(order):
        raise FedrecError("a user is in two of the tables to be joined; each device must be evaluated once")
    return {name: column[order] for name, column in joined.items()}


def mean_over_seeds(tables: Sequence[PerUserResults], column: str) -> NDArray[np.float64]:
    """Return a column averaged over runs, per user, so that a bootstrap over users does not count a user twice.

    The runs must have evaluated the same users.
    """
    if any(not np.array_equal(one["user"], tables[0]["user"]) for one in tables):
        raise FedrecError("runs that evaluated different users can't be averaged; evaluate the same devices in each")
    return np.stack([one[column] for one in tables]).mean(axis=0, dtype=np.float64)


def columns(kind: str, ranks: Ranks, targets: NDArray[np.int64], cutoffs: tuple[int, ...]) -> PerUserResults:
    """Return the columns "full_..." or "sampled_..." [B] of devices that have `targets[B]` targets each, in order."""
    found = ranking_metrics(ranks, cutoffs)
    for name in ("hr", "ndcg"):
        found[f"{name}@{HEADLINE}_pessimistic"] = pessimistic(name, ranks, HEADLINE)
    found["tied"] = (ranks.tied > 0).astype(np.float64)
    row = np.repeat(np.arange(len(targets)), targets)
    return {f"{kind}_{name}": np.bincount(row, value, len(targets)) / targets for name, value in found.items()}


def _ranking(kind: str, ranks: Sequence[Ranks], cutoffs: tuple[int, ...]) -> PerUserResults:
    joined = Ranks(
        np.concatenate([np.empty(0, np.int64), *(one.above for one in ranks)]),
        np.concatenate([np.empty(0, np.int64), *(one.tied for one in ranks)]),
    )
    return columns(kind, joined, np.array([len(one.above) for one in ranks], np.int64), cutoffs)
