"""From finished trials to one row for each method and value, with intervals over seeds and over users."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrec.evaluation.intervals import LEVEL, Interval, intervals
from fedrec.evaluation.per_user import Table, load, mean_over_seeds
from fedrec.study.plan import METRICS, Study


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric: its mean over seeds, its value at each seed, and 95 % intervals over seeds and over users.

    The interval over seeds is Student's t; it is None for one seed.
    """

    mean: float
    by_seed: tuple[float, ...]
    seeds: Interval | None
    users: Interval


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a study's table: a method at a value of the varied setting (None: without), or a reference."""

    method: str
    value: float | None
    seeds: int
    privacy: dict[str, Any]
    measured: dict[str, Measured]
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """All lines of a study, and what is missing. `dataset` is that of metrics.json."""

    study: Study
    lines: tuple[Line, ...]
    dataset: dict[str, Any]
    negatives: int

    def of(self, method: str, reference: bool = False) -> list[Line]:
        """Return a method's lines in the order of values, the one without first."""
        found = [line for line in self.lines if line.method == method and line.reference == reference]
        return sorted(found, key=lambda line: -math.inf if line.value is None else line.value)


def finished(run: Path) -> dict[str, Any] | None:
    """Return metrics.json of a run that has played all of its rounds, else None."""
    path = run / "metrics.json"
    values: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return values if values is not None and values["ended_early"] is None else None


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Return the mean and Student's 95 % interval, None where there are fewer than two values."""
    if len(values) < 2:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def measured(tables: Sequence[Table], metric: str) -> Measured:
    """Return one metric of several seeds' per-user rows; users count once, with their mean over seeds."""
    users: NDArray[np.float64] = mean_over_seeds(tables, metric)
    by_seed = tuple(float(np.mean(table[metric])) for table in tables)
    return Measured(float(users.mean()), by_seed, over_seeds(by_seed), intervals(users[:, None])[0])


def collect(study: Study, folder: Path) -> Results:
    """Read all trials under `folder` that have ended, and the references."""
    found: dict[tuple[str, float | None], list[tuple[dict[str, Any], Table]]] = {}
    for trial in study.trials():
        run = folder / "trials" / trial.name
        if (values := finished(run)) is not None:
            found.setdefault((trial.method, trial.value), []).append((values, load(run / "exact" / "users.npz")))
    lines = [
        Line(method, value, len(runs), runs[0][0]["privacy"], {m: measured([t for _, t in runs], m) for m in METRICS})
        for (method, value), runs in found.items()
    ]
    for name in study.references:
        path = folder / "references" / "exact" / f"users_{name}.npz"
        if path.exists():
            rows = load(path)
            lines.append(Line(name, None, 1, {"unit": "none"}, {m: measured([rows], m) for m in METRICS}, True))
    every = [values for runs in found.values() for values, _ in runs]
    return Results(
        study=study,
        lines=tuple(lines),
        dataset=every[0]["dataset"] if every else {},
        negatives=every[0]["test"]["sampled"]["negatives"] if every else 0,
    )
