"""What stays the same while a run goes on, and what the server has between two of its rounds.

What is told and kept of a round: its lines, public and exact, and the best state so far.
"""

import secrets
import shutil
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.data.dataset import Dataset
from fedrec.errors import RefusedError
from fedrec.evaluation.per_user import PerUserResults
from fedrec.experiment.experiment import Experiment
from fedrec.federated.exchange import NodeDirectory, Transport, base_header, discover_nodes, evaluate
from fedrec.federated.node import explain_no_kernel, explain_sequential, kernel_compiled
from fedrec.messages import Arrays
from fedrec.privacy.ledger.population import PopulationTotal
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.storage.run_folder import Checkpoint, RunFolder, load_checkpoint, save_checkpoint
from fedrec.training.kernels.forms import NO_NUMBA


class BudgetLedger(Protocol):
    """What the loop needs of a ledger."""

    def reserve(self, round_number: int) -> None:
        """Charge a round before anything of it is sampled; raise `RefusedError` where the budget would be passed."""
        ...

    def commit(self, round_number: int, cohort: NDArray[np.int64]) -> None:
        """Say that the round's result is durable."""
        ...

    def newest(self) -> int:
        """Return the newest round that was ever charged, 0 before the first."""
        ...

    def exhausted(self) -> NDArray[np.bool_]:
        """Return which devices must not be drawn any more."""
        ...

    def epsilon(self) -> float:
        """Return what has been spent so far."""
        ...

    def interpretation(self) -> dict[str, Any]:
        """Return what stands beside the epsilon of a run with a guarantee."""
        ...

    def projection(self, rounds: int) -> float:
        """Return what that many rounds will have spent."""
        ...

    def population_projection(self) -> tuple[PopulationTotal, PopulationTotal]:
        """Return what all runs on these users have spent, and will have when this one ends."""
        ...

    @property
    def head(self) -> str:
        """The hash of the newest row."""
        ...

    @property
    def population(self) -> str:
        """Whose privacy is spent."""
        ...


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the server has after a round: the algorithm's state, and what the mechanism carries (`mechanism_state`)."""

    algorithm_state: Arrays
    mechanism_state: Arrays


@dataclass(frozen=True, slots=True)
class RunContext:
    """All that stays the same while a run goes on."""

    experiment: Experiment
    dataset: Dataset
    plan: TrainingPlan
    folder: RunFolder
    directory: NodeDirectory
    ledger: BudgetLedger
    part: str  # "train", or "refit" where models learn from train + validation

    @property
    def sequential_reason(self) -> str | None:
        """Why devices are trained one by one, or None where all of a node are trained at once."""
        return explain_sequential(self.experiment, self.experiment.build_model(self.dataset.catalogue))

    @property
    def engine(self) -> str:
        """What trains the devices."""
        if self.sequential_reason is not None:
            return "reference"
        asked, reason = self.experiment.engine == "kernel", self._no_kernel()
        return "kernel" if asked and reason is None else "cohort"

    @property
    def engine_note(self) -> str | None:
        """What is to be told of the engine: that a kernel is compiled first, or why there is none."""
        reason = self._no_kernel()
        if self.experiment.engine == "vectorized" and reason is not None and reason.startswith(NO_NUMBA):
            return f"trains without its kernel: {reason}"
        if self.experiment.engine != "kernel" or not self.experiment.algorithm.trains:
            return None
        if reason is not None:
            return f"trains without a kernel: {reason}"
        there = kernel_compiled(self.experiment, self.experiment.build_model(self.dataset.catalogue))
        return None if there else "compiles its kernel once, which takes some seconds"

    def _no_kernel(self) -> str | None:
        return explain_no_kernel(self.experiment, self.experiment.build_model(self.dataset.catalogue))

    @property
    def validates(self) -> bool:
        """Whether the model can be ranked on validation items: not once it has learned from them."""
        return self.part == "train"

    def evaluate(self, state: Arrays, part: str, round_number: int) -> PerUserResults:
        """Evaluate a state on the chosen devices."""
        devices = self.experiment.evaluation.chosen(self.plan.population)
        kept = self.folder.best_private(round_number)
        private = kept if kept.exists() else self.folder.private
        arrays = self.experiment.algorithm.broadcast(state)
        return evaluate(self.directory, devices, arrays, part, round=round_number, folder=str(private.resolve()))


def open_run_context(
    experiment: Experiment, dataset: Dataset, nodes: Transport, folder: RunFolder, ledger: BudgetLedger, part: str
) -> RunContext:
    """Greet the nodes and return the session of a (calibrated) experiment."""
    header = {**base_header(experiment, secrets.token_hex(8), str(folder.private.resolve())), "part": part}
    plan = experiment.plan(dataset)
    return RunContext(experiment, dataset, plan, folder, discover_nodes(nodes, header), ledger, part)


def init_algorithm_state(context: RunContext) -> Arrays:
    """Return the state before the first round."""
    catalogue = context.dataset.catalogue
    return context.experiment.algorithm.init(context.experiment.build_model(catalogue), catalogue)


def initial_state(context: RunContext) -> ServerState:
    """Return what the server has before the first round."""
    state = init_algorithm_state(context)
    return ServerState(state, context.experiment.mechanism.init_state(context.experiment.algorithm.shapes(state)))


def check_unchanged(context: RunContext, saved: Checkpoint) -> None:
    """Raise `RefusedError` where a checkpoint is of another experiment than the one that goes on from it."""
    if saved.notes.get("experiment") != context.experiment.hash:
        raise RefusedError(
            f"{context.folder.config} was changed since round {saved.round}, or its data were: a run goes on with the "
            "settings it began with. Put back the old file, or start a new run"
        )
    if memory := saved.mechanism_state:
        algorithm, mechanism = context.experiment.algorithm, context.experiment.mechanism
        if memory.keys() != mechanism.init_state(algorithm.shapes(saved.state)).keys():
            raise RefusedError(
                f"{context.folder.path}: what privacy={mechanism.name} keeps from round to round is that of an older "
                "fedrec, whose noise was no whole numbers. Its model of the last round can still be used; start a new "
                "run to train on"
            )


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """A finished run: its session, how long each part took, and the per-user rows of its test."""

    context: RunContext
    rounds: int  # the round whose model is released
    played: int
    evaluate_seconds: float
    rows: PerUserResults
    validation: PerUserResults | None


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
    timed = context.directory.simulated or not context.experiment.mechanism.terms.hides_who_came
    seconds = round(exact["seconds"]) if timed else None  # a late device holds a round up
    return {**exact, **hidden, "cohort": round(context.plan.expected_cohort), "seconds": seconds}


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
