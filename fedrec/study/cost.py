"""What a study costs: each trial was charged to the ledger of its users, and all of them add up."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.experiment.settings import Settings
from fedrec.node.node import load_dataset
from fedrec.privacy.accounting.composition import composed, epsilon_of
from fedrec.privacy.accounting.interpretation import beside, clause
from fedrec.privacy.ledger.account import as_lists, from_lists
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.storage.run_folder import RunFolder

SPENT = "spent.json"


@dataclass(frozen=True, slots=True)
class Cost:
    """What some trials on the same users spent together, as one guarantee."""

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
    population = settings.document["dataset"].get("population") or dataset.population
    ledger = Ledger.open(population, settings.document["run"], mechanism, plan, plan.population)
    try:
        account = ledger.account
        terms = {"unit": account.unit, "neighbouring": account.neighbouring, "trust": account.trust}
        total = as_lists(ledger.total) if account.private and account.unit != "none" else []
        spent = {**terms, "delta": account.delta, "population": population, "total": total}
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
    total = composed((from_lists(one["total"]), 1) for one in group)
    return Cost(
        population=population,
        unit=unit,
        neighbouring=neighbouring,
        trust=trust,
        delta=delta,
        trials=len(group),
        epsilon=epsilon_of(total, delta),
        meaning=clause(beside(total, neighbouring, delta), neighbouring),
    )


def said(cost: Cost) -> str:
    """Return what the trials would have cost people."""
    return (
        f"On real users these {cost.trials} private trials would together have cost epsilon {cost.epsilon:.2f} "
        f"(unit: {cost.unit}; {cost.neighbouring}; delta {cost.delta:.1e}; trust: {cost.trust}; {cost.meaning}); all "
        f"of it is charged to the ledger of {cost.population}."
    )
