"""One model over epsilons and seeds, on the validation or the test items: what privacy costs, without baselines.

`fedrec study frontier` fits to train and ranks validation items with --part validation, or fits to train + validation
and ranks test items. Every trial is charged to the ledger of its users. It prints HR@10 and NDCG@10 of both rankings,
each the mean over users and seeds with a 95 % interval over users (per-user results are averaged over seeds first),
and the spread over seeds.

`fedrec study deltas` says what the same run costs at another delta: epsilon at the configured delta, and at
users^-1.1. Nothing is trained and nobody is charged: the noise is calibrated as for a run, and the events that its
rounds would be charged with are accounted at both.

What stands beside every epsilon that these commands print: its terms, the other relation, and an attacker's gain.

One setting over several seeds: what is above popularity, and what privacy costs, with intervals over users.

`fedrec study seeds`: every trial is charged to the ledger of its users, as any run is. Per-user results are averaged
over seeds before they are compared, so that no user counts twice.
"""

import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.errors import FedrecError
from fedrec.evaluation.per_user import PerUserResults, mean_over_seeds
from fedrec.evaluation.summary import intervals, paired_interval
from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import Settings
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import load_released_state, open_run_context
from fedrec.privacy.accounting.composition import compute_epsilon
from fedrec.privacy.card import format_promise
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.people import sketch
from fedrec.privacy.ledger.projection import projected
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.simulation import Simulation, new_run
from fedrec.storage.run_folder import RunFolder, load_table


@dataclass(frozen=True, slots=True)
class Costs:
    """One run's epsilon at its own delta and at users^-1.1, and the terms of both."""

    unit: str
    neighbouring: str
    trust: str
    delta: float
    epsilon: float
    delta_by_users: float
    epsilon_by_users: float


def costs(mechanism: Mechanism, plan: TrainingPlan) -> Costs:
    """Return what all rounds of a plan cost one user at either delta, by a calibrated mechanism at user level."""
    if mechanism.terms.unit != Unit.USER:
        raise FedrecError(f"users^-1.1 is for units that are users, not '{mechanism.terms.unit}': take privacy=user")
    total = projected(mechanism, plan, plan.rounds)
    delta, other = mechanism.delta_for(plan), plan.population**-1.1
    terms = mechanism.terms
    return Costs(
        terms.unit,
        terms.relation,
        terms.trust,
        delta,
        compute_epsilon(total, delta),
        other,
        compute_epsilon(total, other),
    )


def costs_of(settings: Settings) -> Costs:
    """Return the costs of what these settings would train."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    return costs(experiment.mechanism, experiment.plan(dataset))


def list_deltas(overrides: Sequence[str], epsilons: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield what a run costs at either delta, for each epsilon."""
    for epsilon in epsilons:
        yield asdict(costs_of(load_chosen([*overrides, f"privacy.epsilon={epsilon:g}"])))


def promise(settings: Settings) -> str:
    """Return what a whole run of these settings promises, as one sentence; nothing is written or charged."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    return format_promise(experiment.mechanism, experiment.plan(dataset))


COLUMNS = ("sampled_hr@10", "sampled_ndcg@10", "full_hr@10", "full_ndcg@10")


def trial(settings: Settings, part: str) -> PerUserResults:
    """Fit one model in a folder that is thrown away, and return the per-user rows of its evaluation."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    plan = experiment.plan(dataset)
    population = settings.find_population(dataset)
    limit = settings.document["privacy"].get("population_epsilon")
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path) / "run")
        folder.create(settings.yaml())
        name = f"frontier-{secrets.token_hex(8)}"
        ledger = Ledger.open(population, name, experiment.mechanism, plan, plan.population, limit)
        ledger.remember(sketch(dataset))
        fitted_on = "refit" if part == "test" and experiment.algorithm.refit else "train"
        context = open_run_context(experiment, dataset, LocalTransport(1), folder, ledger, fitted_on)
        for report in run(context):
            if not report.released:
                raise RuntimeError(f"round {report.round} was not released")
        number, state = load_released_state(context)
        return context.evaluate(state, part, number)


def measure_frontier(
    overrides: Sequence[str], epsilons: Sequence[float], seeds: Sequence[int], part: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is promised and what was found at each epsilon, for a reader and for programs."""
    private = "privacy=none" not in overrides
    for epsilon in epsilons if private else [float("inf")]:
        more = [f"privacy.epsilon={epsilon:g}"] if private else []
        settings = [load_chosen([*overrides, *more, f"seed={seed}"]) for seed in seeds]
        text, record = line(epsilon, [trial(one, part) for one in settings])
        yield f"{promise(settings[0])}\n{text}", record


def line(epsilon: float, tables: list[PerUserResults]) -> tuple[str, dict[str, Any]]:
    """Return what was found at one epsilon, for a reader and for programs."""
    values = np.stack([mean_over_seeds(tables, column) for column in COLUMNS], axis=1)
    found = intervals(values)
    spread = [float(np.std([table[column].mean() for table in tables])) for column in COLUMNS]
    parts = [
        f"{column} {one.mean:.4f} ({one.low:.4f} to {one.high:.4f}; seeds +-{width:.4f})"
        for column, one, width in zip(COLUMNS, found, spread, strict=True)
    ]
    by_name = dict(zip(COLUMNS, ([one.mean, one.low, one.high] for one in found), strict=True))
    return f"epsilon {epsilon:g}: " + "; ".join(parts), {"epsilon": None if np.isinf(epsilon) else epsilon, **by_name}


def study(overrides: Sequence[str], seeds: Sequence[int], name: str) -> dict[str, list[PerUserResults]]:
    """Run every seed and return the per-user rows of each method, "" being the model itself."""
    rows: dict[str, list[PerUserResults]] = {}
    for seed in seeds:
        settings = load_chosen([*overrides, f"seed={seed}"])
        document = {**settings.document, "name": f"{name}-{seed}", "overwrite": True}
        named, folder = new_run(Settings(document))
        Simulation(named, folder).simulate()
        for path in sorted(folder.exact.glob("users*.npz")):
            rows.setdefault(path.stem.removeprefix("users").removeprefix("_"), []).append(load_table(path))
    return rows


def compared(rows: dict[str, list[PerUserResults]]) -> dict[str, dict[str, Any]]:
    """Return NDCG@10 and HR@10 of each method, and ours minus it, each with a 95 % interval over users."""
    ours = mean_over_seeds(rows[""], "full_ndcg@10")
    found = dict[str, dict[str, Any]]()
    for name, tables in rows.items():
        ndcg, hit = (mean_over_seeds(tables, f"full_{metric}@10") for metric in ("ndcg", "hr"))
        interval, gap = intervals(ndcg[:, None])[0], paired_interval(ours, ndcg)
        found[name or "ours"] = {
            "ndcg@10": [interval.mean, interval.low, interval.high],
            "hr@10": float(hit.mean()),
            "sampled_ndcg@10": float(mean_over_seeds(tables, "sampled_ndcg@10").mean()),
            "sampled_hr@10": float(mean_over_seeds(tables, "sampled_hr@10").mean()),
            "ours_minus": [gap.mean, gap.low, gap.high],
            "seeds": [float(np.mean(t["full_ndcg@10"])) for t in tables],
        }
    return found


def to_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what was compared, one line a method."""
    lines = [f"{'':22}{'HR@10':>8}{'NDCG@10 (95 % over users)':>32}{'ours minus it (paired)':>34}"]
    for name, values in found.items():
        (m, a, b), (d, low, high) = values["ndcg@10"], values["ours_minus"]
        mean, gap = f"{m:.4f} ({a:.4f} to {b:.4f})", f"{d:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(f"{name:22}{values['hr@10']:8.4f}{mean:>32}{gap:>34}")
    return lines
