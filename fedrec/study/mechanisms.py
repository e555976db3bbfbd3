"""Mechanisms side by side on one model: NDCG@10 at each epsilon, the clip of each chosen with the same effort.

`fedrec study mechanisms`: for each mechanism and epsilon every clip is tried once, with the first seed, and the best on
validation items is then trained anew with each seed, on fresh noise, and ranks the test items once. Every trial, the
tried ones included, is charged to the ledger of its users. Intervals are 95 % over users, whose results are averaged
over seeds before.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import Interval, intervals, paired_interval
from fedrec.experiment.automatic import load_chosen
from fedrec.study.frontier import promise, trial

COLUMN = "full_ndcg@10"
ONCE = ("evaluation.every=1000000",)  # validation items are ranked at the end alone


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: the overrides of all trials, what each mechanism is tried with, and over which seeds."""

    overrides: tuple[str, ...]
    mechanisms: tuple[str, ...] = ("user", "banded")
    clips: tuple[float, ...] = (0.03, 0.1, 0.3)
    epsilons: tuple[float, ...] = (1, 2, 4, 8)
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """One mechanism at one epsilon: what each clip reached on validation, the chosen one, and the test of each seed."""

    mechanism: str
    epsilon: float
    validation: dict[float, float]
    clip: float
    tables: list[PerUserResults]

    @property
    def reached(self) -> Interval:
        """NDCG@10 on test items."""
        return intervals(mean_over_seeds(self.tables, COLUMN)[:, None])[0]

    @property
    def each(self) -> list[float]:
        """NDCG@10 of each seed."""
        return [float(table[COLUMN].mean()) for table in self.tables]


def cell(plan: Plan, mechanism: str, epsilon: float) -> Cell:
    """Choose the clip of a mechanism on validation items, and test it."""
    validation = dict[float, float]()
    for clip in plan.clips:
        tried = run(plan, mechanism, epsilon, clip, plan.seeds[0], "validation")
        validation[clip] = float(tried[COLUMN].mean())
    best = max(validation, key=lambda clip: validation[clip])
    tables = [run(plan, mechanism, epsilon, best, seed, "test") for seed in plan.seeds]
    return Cell(mechanism, epsilon, validation, best, tables)


def run(plan: Plan, mechanism: str, epsilon: float, clip: float, seed: int, part: str) -> PerUserResults:
    """Train once and return the per-user rows of its evaluation."""
    own = overrides(mechanism, epsilon, clip, seed)
    made = trial(load_chosen([*ONCE, *plan.overrides, *own]), part)
    print(f"{' '.join(own)}: {part} {made[COLUMN].mean():.4f}", file=sys.stderr, flush=True)
    return made


def overrides(mechanism: str, epsilon: float, clip: float, seed: int) -> list[str]:
    """Return what a trial has of its own."""
    return [f"privacy={mechanism}", f"privacy.epsilon={epsilon:g}", f"privacy.clip={clip:g}", f"seed={seed}"]


def promised(plan: Plan, found: Cell) -> str:
    """Return what the chosen trial of a cell promises its users."""
    return promise(
        load_chosen([*ONCE, *plan.overrides, *overrides(found.mechanism, found.epsilon, found.clip, plan.seeds[0])])
    )


def free(plan: Plan) -> list[PerUserResults]:
    """Return the test of the same model without privacy, for each seed."""
    return [trial(load_chosen([*ONCE, *plan.overrides, "privacy=none", f"seed={seed}"]), "test") for seed in plan.seeds]


def line(found: Cell, first: Cell) -> str:
    """Return a row: what the mechanism reached, and how far it is from the first one at this epsilon."""
    reached = found.reached
    gap = paired_interval(mean_over_seeds(found.tables, COLUMN), mean_over_seeds(first.tables, COLUMN))
    beside = "" if found is first else f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
    return (
        f"{found.mechanism:14}{found.epsilon:>8g}{found.clip:>8g}{shown(reached):>29}"
        f"{' '.join(f'{value:.4f}' for value in found.each):>24}{beside:>32}"
    )


def record(found: Cell) -> dict[str, Any]:
    """Return a cell for programs."""
    reached = found.reached
    return {
        "mechanism": found.mechanism,
        "epsilon": found.epsilon,
        "clip": found.clip,
        "validation": {f"{clip:g}": value for clip, value in found.validation.items()},
        "ndcg@10": [reached.mean, reached.low, reached.high],
        "seeds": found.each,
    }


def shown(interval: Interval) -> str:
    """Return a mean with its interval."""
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def compare_mechanisms(plan: Plan) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the head of a table, and then for each row what it says and promises; for a reader and for programs."""
    twin = intervals(mean_over_seeds(free(plan), COLUMN)[:, None])[0]
    head = f"minus {plan.mechanisms[0]} (paired)"
    yield f"NDCG@10, full ranking, test items, {len(plan.seeds)} seeds; no privacy: {shown(twin)}", None
    yield f"{'mechanism':14}{'epsilon':>8}{'clip':>8}{'95 % over users':>29}{'seeds':>24}{head:>32}", None
    for epsilon in plan.epsilons:
        cells = list[Cell]()
        for mechanism in plan.mechanisms:
            cells.append(cell(plan, mechanism, epsilon))
            yield f"{line(cells[-1], cells[0])}\n  {promised(plan, cells[-1])}", record(cells[-1])
