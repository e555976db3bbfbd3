"""Mechanisms side by side on one model: NDCG@10 at each epsilon, the clip of each chosen with the same effort.

    python -m fedrec.study.mechanisms dataset=ml-1m dataset.path=FILE model=content cohort.size=302 rounds=80 \
        --mechanisms user banded --clips 0.03 0.1 0.3 --epsilons 1 2 4 8 --seeds 0 1 2

For each mechanism and epsilon every clip is tried once, with the first seed, and the best on validation items is then
trained anew with each seed, on fresh noise, and ranks the test items once. Every trial, the tried ones included, is
charged to the ledger of its users. Intervals are 95 % over users, whose results are averaged over seeds before.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import Interval, intervals, paired_interval
from fedrec.experiment.settings import load
from fedrec.study.frontier import promise, trial

COLUMN = "full_ndcg@10"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: the overrides of all trials, what each mechanism is tried with, and over which seeds."""

    overrides: tuple[str, ...]
    mechanisms: tuple[str, ...]
    clips: tuple[float, ...]
    epsilons: tuple[float, ...]
    seeds: tuple[int, ...]


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
    made = trial(load([*plan.overrides, *own]), part)
    print(f"{' '.join(own)}: {part} {made[COLUMN].mean():.4f}", file=sys.stderr, flush=True)
    return made


def overrides(mechanism: str, epsilon: float, clip: float, seed: int) -> list[str]:
    """Return what a trial has of its own."""
    return [f"privacy={mechanism}", f"privacy.epsilon={epsilon:g}", f"privacy.clip={clip:g}", f"seed={seed}"]


def promised(plan: Plan, found: Cell) -> str:
    """Return what the chosen trial of a cell promises its users."""
    return promise(load([*plan.overrides, *overrides(found.mechanism, found.epsilon, found.clip, plan.seeds[0])]))


def free(plan: Plan) -> list[PerUserResults]:
    """Return the test of the same model without privacy, for each seed."""
    return [trial(load([*plan.overrides, "privacy=none", f"seed={seed}"]), "test") for seed in plan.seeds]


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


def parsed(arguments: Sequence[str] | None) -> Plan:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mechanisms", nargs="+", default=["user", "banded"])
    parser.add_argument("--clips", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*")
    got = parser.parse_args(arguments)
    own = tuple(tuple(getattr(got, name)) for name in ("mechanisms", "clips", "epsilons", "seeds"))
    return Plan(("evaluation.every=1000000", *got.overrides), *own)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, what each row promises, and one JSON object a row on the lines that begin with a brace."""
    plan = parsed(arguments)
    twin = intervals(mean_over_seeds(free(plan), COLUMN)[:, None])[0]
    print(f"NDCG@10, full ranking, test items, {len(plan.seeds)} seeds; no privacy: {shown(twin)}")
    head = f"minus {plan.mechanisms[0]} (paired)"
    print(f"{'mechanism':14}{'epsilon':>8}{'clip':>8}{'95 % over users':>29}{'seeds':>24}{head:>32}", flush=True)
    for epsilon in plan.epsilons:
        cells = list[Cell]()
        for mechanism in plan.mechanisms:
            cells.append(cell(plan, mechanism, epsilon))
            made = cells[-1]
            print(f"{line(made, cells[0])}\n  {promised(plan, made)}\n{json.dumps(record(made))}", flush=True)


if __name__ == "__main__":
    main()
