"""From per-user rows to what a result file says, with bootstrap intervals over users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import FedrecError
from fedrec.evaluation.config import HEADLINE, EvaluationConfig
from fedrec.evaluation.metrics import GAINS
from fedrec.evaluation.per_user import PerUserResults

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the percentile interval around it."""

    mean: float
    low: float
    high: float


def intervals(values: NDArray[np.floating], seed: int = 0) -> list[Interval]:
    """Return the 95 % percentile interval of the mean of each column of `values[users, m]`.

    1000 resamples of users, the same for every column. One user gives an interval of width 0, none NaN.
    """
    users = len(values)
    if users == 0:
        return [Interval(np.nan, np.nan, np.nan)] * values.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for line in means:
        drawn = np.bincount(generator.integers(0, users, users), minlength=users)
        line[:] = drawn @ values / users
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(values.mean(0), low, high, strict=True)]


def paired_interval(a: NDArray[np.floating], b: NDArray[np.floating], seed: int = 0) -> Interval:
    """Return the mean of `a - b` per user and its 95 % interval; both hold the same users in the same order."""
    if a.shape != b.shape or a.ndim != 1:
        raise FedrecError(f"a paired interval needs one value per user on both sides; shapes are {a.shape}, {b.shape}")
    return intervals((np.asarray(a, np.float64) - b)[:, None], seed)[0]


SAMPLED_CAUTION = (
    "Ranking against sampled candidates need not order models as full ranking does, not even in expectation "
    "(Krichene and Rendle, 2022): read the full ranking first."
)
POPULAR_SHARE = 0.1


def summarize(
    rows: PerUserResults, counts: NDArray[np.integer], options: EvaluationConfig, evaluated: int
) -> dict[str, Any]:
    """Return the result of one part as plain JSON values.

    `counts[V]` are the items' interactions in training, `evaluated` the devices asked: those without a row had nothing
    held out and are stated as "excluded". Every metric has a "<metric>_ci" of [low, high].
    """
    users, drawn = len(rows["user"]), rows["candidates"]
    values: dict[str, Any] = {
        "full": {**_metrics("full", rows, options), **_lists(rows["top"], counts)},
        "sampled": {
            "negatives": options.negatives,
            "drawn": [int(drawn.min()), int(drawn.max())] if users else None,
            **_metrics("sampled", rows, options),
        },
        "users": users,
        "excluded": evaluated - users,
        "tie_fraction": _mean(rows["full_tied"]),
        "fewer_candidates": int(np.sum(drawn < options.negatives)),
    }
    if users and np.isfinite(rows["squared_error"]).all():
        values["rmse"] = float(np.sqrt(rows["squared_error"].mean()))
    return values


def _metrics(kind: str, rows: PerUserResults, options: EvaluationConfig) -> dict[str, Any]:
    names = [f"{name}@{cutoff}" for cutoff in options.cutoffs for name in GAINS]
    columns = np.stack([rows[f"{kind}_{name}"] for name in names], axis=1)
    values: dict[str, Any] = {}
    for name, interval in zip(names, intervals(columns, options.seed), strict=True):
        values[name] = None if np.isnan(interval.mean) else interval.mean
        values[f"{name}_ci"] = None if np.isnan(interval.mean) else [interval.low, interval.high]
    for name in ("hr", "ndcg"):
        key = f"{name}@{HEADLINE}_pessimistic"
        values[key] = _mean(rows[f"{kind}_{key}"])
    return values


def _lists(top: NDArray[np.integer], counts: NDArray[np.integer]) -> dict[str, float | None]:
    """Return the share of the catalogue that is recommended to someone, and of slots that go to its popular tenth."""
    slots = top[top >= 0]
    popular = np.argsort(-counts, kind="stable")[: int(np.ceil(POPULAR_SHARE * len(counts)))]
    return {
        f"coverage@{HEADLINE}": len(np.unique(slots)) / len(counts),
        f"popularity_share@{HEADLINE}": _mean(np.isin(slots, popular)),
    }


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
