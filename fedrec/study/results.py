"""From finished trials to one row for each method and value, and what the study cost.

Intervals are over seeds and over users. Each trial was charged to the ledger of its users; all of them add up.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import LEVEL, Interval, intervals
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import Settings
from fedrec.privacy.accounting.composition import compose, compute_epsilon
from fedrec.privacy.accounting.interpretation import interpret
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.ledger.account import composition_from_json, composition_to_json
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.wording import format_guarantee
from fedrec.storage.run_folder import RunFolder, load_table
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


def measured(tables: Sequence[PerUserResults], metric: str) -> Measured:
    """Return one metric of several seeds' per-user rows; users count once, with their mean over seeds."""
    users: NDArray[np.float64] = mean_over_seeds(tables, metric)
    by_seed = tuple(float(np.mean(table[metric])) for table in tables)
    return Measured(float(users.mean()), by_seed, over_seeds(by_seed), intervals(users[:, None])[0])


def collect(study: Study, folder: Path) -> Results:
    """Read all trials under `folder` that have ended, and the references."""
    found: dict[tuple[str, float | None], list[tuple[dict[str, Any], PerUserResults]]] = {}
    for trial in study.trials():
        run = folder / "trials" / trial.name
        if (values := finished(run)) is not None:
            found.setdefault((trial.method, trial.value), []).append((values, load_table(run / "exact" / "users.npz")))
    lines = [
        Line(method, value, len(runs), runs[0][0]["privacy"], {m: measured([t for _, t in runs], m) for m in METRICS})
        for (method, value), runs in found.items()
    ]
    for name in study.references:
        path = folder / "references" / "exact" / f"users_{name}.npz"
        if path.exists():
            rows = load_table(path)
            lines.append(Line(name, None, 1, {"unit": "none"}, {m: measured([rows], m) for m in METRICS}, True))
    every = [values for runs in found.values() for values, _ in runs]
    return Results(
        study=study,
        lines=tuple(lines),
        dataset=every[0]["dataset"] if every else {},
        negatives=every[0]["test"]["sampled"]["negatives"] if every else 0,
    )


SPENT = "spent.json"


@dataclass(frozen=True, slots=True)
class Cost:
    """What some trials on the same users spent together, as one guarantee; `meaning` is its sentence."""

    unit: str
    neighbouring: str
    trust: str
    delta: float
    trials: int
    epsilon: float
    meaning: str
    population: str


def write_spent(settings: Settings, folder: RunFolder) -> None:
    """Write the composition that a finished run has spent, as its ledger has it."""
    experiment = settings.experiment
    dataset = load_dataset(experiment)
    experiment = experiment.calibrated(dataset)
    plan, mechanism = experiment.plan(dataset), experiment.mechanism
    population = settings.find_population(dataset)
    ledger = Ledger.open(population, settings.document["run"], mechanism, plan, plan.population)
    try:
        account = ledger.account
        terms = {"unit": account.unit, "neighbouring": account.neighbouring, "trust": account.trust}
        total = composition_to_json(ledger.total) if account.private and account.unit != Unit.NONE else []
        spent = {**terms, "delta": account.delta, "population": population, "total": total, "claim": account.claim}
        folder.write_json(SPENT, spent)
    finally:
        ledger.close()


def read_spent(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return what those of the runs spent that have ended under a guarantee."""
    found = [json.loads((folder / SPENT).read_text()) for folder in folders if (folder / SPENT).exists()]
    return [spent for spent in found if spent["total"]]


def costs(spent: Iterable[Mapping[str, Any]]) -> list[Cost]:
    """Return one cost for each population and each kind of guarantee, at the smallest delta of its trials."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for one in spent:
        key = (one["population"], one["unit"], one["neighbouring"], one["trust"])
        groups.setdefault(key, []).append(one)
    return [_cost(key, group) for key, group in sorted(groups.items())]


def _cost(key: tuple[str, ...], group: list[Mapping[str, Any]]) -> Cost:
    population, unit, neighbouring, trust = key
    delta = min(one["delta"] for one in group)
    total = compose((composition_from_json(one["total"]), 1) for one in group)
    epsilon = compute_epsilon(total, delta)
    guarantee = PrivacyGuarantee(Unit(unit), Relation(neighbouring), Trust(trust))
    attacker = interpret(total, guarantee.relation, delta)["attacker"]
    claim = max(one.get("claim", "") for one in group)
    return Cost(
        population=population,
        unit=unit,
        neighbouring=neighbouring,
        trust=trust,
        delta=delta,
        trials=len(group),
        epsilon=epsilon,
        meaning=format_guarantee(guarantee, epsilon, delta, attacker, claim=claim),
    )


def describe_cost(cost: Cost) -> str:
    """Return what the trials would have cost people."""
    return (
        f"On real users these {cost.trials} private trials would together have cost {cost.meaning}. All of it is "
        f"charged to the ledger of {cost.population}."
    )
