"""What is told and kept of a round: its lines, public and exact, and the best state so far."""

import shutil
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedrec.federated.state import RunContext, init_algorithm_state
from fedrec.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedrec.storage.run_folder import RunFolder
from fedrec.update import Arrays


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round as it is reported. `loss` and `validation` are exact, `cohort` is who was drawn: simulations only."""

    round: int
    cohort: int
    answered: int
    rejected: dict[int, str]
    released: bool
    loss: float | None
    validation: float | None
    epsilon: float | None
    seconds: float
    bytes_down: int
    bytes_up: int


def epsilon_spent(context: RunContext) -> float | None:
    """Return what the ledger says was spent so far, None where that is infinite."""
    epsilon = context.ledger.epsilon()
    return epsilon if np.isfinite(epsilon) else None


def record_round(context: RunContext, state: Arrays, report: RoundReport) -> RoundReport:
    """Validate where it is due, keep the best state where asked, and write the round's line."""
    options, last = context.experiment.evaluation, report.round == context.experiment.rounds
    if context.validates and (last or report.round % options.every == 0):
        rows = context.evaluate(state, "validation", report.round)
        report = replace(report, validation=float(rows["full_ndcg@10"].mean()) if len(rows["user"]) else None)
        if options.select == "best":
            save_best(context.folder, state, report)
    exact = {field: getattr(report, field) for field in RoundReport.__dataclass_fields__}
    context.folder.append_round(redact_report(exact, context), exact)
    return report


def redact_report(exact: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """Return a round's line without what no epsilon covers: the drawn cohort, who answered, loss and validation."""
    if not context.experiment.mechanism.private:
        return exact
    # Sizes and times are those of the plan: the guarantee may rest on nobody knowing who was drawn, nor how many.
    hidden = {
        "answered": None,
        "rejected": None,
        "loss": None,
        "validation": None,
        "bytes_down": None,
        "bytes_up": None,
    }
    return {**exact, **hidden, "cohort": round(context.plan.expected_cohort), "seconds": round(exact["seconds"])}


def save_best(folder: RunFolder, state: Arrays, report: RoundReport) -> None:
    """Keep the state with the best validation so far, and the private arrays that go with it, under exact/."""
    best = load_checkpoint(folder.exact / "best")
    if report.validation is not None and (best is None or report.validation > best.notes["validation"]):
        shutil.copytree(folder.private, folder.best_private(report.round), dirs_exist_ok=True)
        save_checkpoint(folder.exact / "best", Checkpoint(report.round, state, {"validation": report.validation}))
        for old in folder.exact.glob("private-*"):
            if old != folder.best_private(report.round):
                shutil.rmtree(old)


def load_released_state(context: RunContext) -> tuple[int, Arrays]:
    """Return (round, state) of the model that is released: the last, or with select=best the best on validation."""
    best = context.experiment.evaluation.select == "best"
    saved = load_checkpoint(context.folder.exact / "best" if best else context.folder.checkpoints)
    return (saved.round, saved.state) if saved else (0, init_algorithm_state(context))
