"""metrics.json: the contract with tools outside."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedrec.evaluation.batched import chance_of_a_hit
from fedrec.evaluation.candidates import candidates_digest
from fedrec.evaluation.per_user import PerUserResults
from fedrec.evaluation.summary import SAMPLED_CAUTION, paired_interval, summarize
from fedrec.models.auto import choose_model
from fedrec.privacy.wording import NO_PRIVACY, authors_claim
from fedrec.report.caveats import find_caveats
from fedrec.storage.run_folder import EXACT_LABEL

if TYPE_CHECKING:
    from fedrec.data.dataset import Dataset
    from fedrec.data.facts import Finding
    from fedrec.federated.state import RunContext, TrainingOutcome

LIKES = ("dataset.threshold",)
CONTRACT_BASELINES = ("popularity", "private_popularity", "no_privacy")


def metrics(main: "TrainingOutcome", others: Mapping[str, PerUserResults], total_seconds: float) -> dict[str, Any]:
    """Return the content of metrics.json; figures are exact, the guarantee covers the released model alone."""
    context, experiment = main.context, main.context.experiment
    dataset, options = context.dataset, experiment.evaluation
    counts = dataset.devices.known_counts()
    lines = context.folder.exact_rounds()
    train_seconds = sum(line["seconds"] for line in lines)
    drawn = context.plan.expected_cohort * len(lines)  # who really was drawn stays in exact/
    users = options.chosen(context.plan.population)

    def shown(rows: PerUserResults) -> dict[str, Any]:
        return summarize(rows, counts, options, len(users))

    found = {name: {**shown(rows), "paired_ndcg@10": paired(main.rows, rows)} for name, rows in others.items()}
    values = {
        "dataset": {**described(dataset), "population": context.ledger.population},
        **experiment.names(),
        "engine": main.context.engine,
        "rounds": main.rounds,
        "seed": experiment.seed,
        "ended_early": ended_early(main.played, experiment.rounds),
        "refit": experiment.algorithm.refit,
        "release": EXACT_LABEL,
        "sampled_caution": SAMPLED_CAUTION,
        "validation": None if main.validation is None else shown(main.validation),
        "test": {**shown(main.rows), "chance_hr@10": chance_of_a_hit(dataset.devices, users)},
        "candidates": candidates_digest(dataset.devices, options),
        "baselines": {**{name: {} for name in CONTRACT_BASELINES}, **found},
        "privacy": privacy(context),
        "devices_per_second": drawn / max(train_seconds, 1e-9),
        "seconds": {"train": train_seconds, "evaluate": main.evaluate_seconds, "total": total_seconds},
    }
    fitting = choose_model(dataset, experiment.mechanism, context.plan).overrides[0].removeprefix("model=")
    return {**values, "caveats": find_caveats(values, fitting)}


def described(dataset: "Dataset") -> dict[str, Any]:
    """Return what the figures were found on: its sizes, its split, and what was repaired."""
    return {
        "name": dataset.name,
        "users": dataset.interactions.users,
        "items": len(dataset.catalogue),
        "interactions": len(dataset.interactions),
        "split": dataset.split,
        "population": dataset.population,
        "synthetic": dataset.synthetic,
        "catalogue": dataset.catalogue.origin,
        "repairs": dict(dataset.repairs),
        "order": dataset.facts.order if dataset.facts else None,
        "findings": [asdict(one) for one in faults(dataset)],
    }


def faults(dataset: "Dataset") -> "list[Finding]":
    """Return what was found wrong in the rows; which of a scale's ratings are likes is a choice, and no fault."""
    ratings = dataset.facts.ratings if dataset.facts else None
    chosen = LIKES if ratings is not None and ratings.low > 0 else ()
    return [one for one in dataset.findings if not one.setting.startswith(chosen)]


def ended_early(played: int, rounds: int) -> str | None:
    """Return why a run was over before its last round, and after which; None where it was not."""
    if played == rounds:
        return None
    return f"after {played} of {rounds} rounds: another would have passed the budget (lost rounds stay charged)"


def privacy(context: "RunContext") -> dict[str, Any]:
    """Return the guarantee: unit "none" and a null epsilon where there is none."""
    mechanism, terms = context.experiment.mechanism, context.experiment.mechanism.terms
    if not mechanism.private:
        return dict(NO_PRIVACY)
    return {
        "unit": terms.unit,
        "neighbouring": terms.relation,
        "trust": terms.trust,
        "epsilon": context.ledger.epsilon(),
        "delta": mechanism.delta_for(context.plan),
        "adversary": terms.adversary,
        "release_set": terms.release_set,
        **context.ledger.interpretation(),
        **({"claim": claim} if (claim := authors_claim(mechanism)) else {}),
        "selection": "excludes selection: settings were chosen on exact validation figures",
    }


def paired(ours: PerUserResults, theirs: PerUserResults) -> dict[str, float]:
    """Return the mean of our NDCG@10 minus theirs, user by user, with its 95 % interval."""
    interval = paired_interval(ours["full_ndcg@10"].astype(float), theirs["full_ndcg@10"].astype(float))
    return {"difference": interval.mean, "low": interval.low, "high": interval.high}
