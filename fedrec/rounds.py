"""THE round loop: reserve, draw, ask, check, sum, noise, step, checkpoint, commit, evaluate."""

import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedrec.collect import Collected, Directory, base_header, collect, evaluate, greet
from fedrec.data.dataset import Dataset
from fedrec.engine import reason_for_one_by_one
from fedrec.errors import BudgetSpent, FedrecError, Refused
from fedrec.evaluation.table import Table
from fedrec.experiment import Experiment
from fedrec.folder import RunFolder
from fedrec.nodes import Nodes
from fedrec.privacy.base import Plan
from fedrec.update import Arrays, Update

COHORT_STREAM, SERVER_STREAM = 4, 5  # keep the draw of cohorts and the server's noise apart from the devices' draws


@dataclass(frozen=True, slots=True)
class Round:
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


class Spending(Protocol):
    """What the loop needs of a ledger."""

    def reserve(self, round_number: int) -> None:
        """Charge a round before anything of it is sampled; raise `Refused` where the budget would be passed."""
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

    def meaning(self) -> dict[str, Any]:
        """Return what stands beside the epsilon of a run with a guarantee."""
        ...

    def projection(self, rounds: int) -> float:
        """Return what that many rounds will have spent."""
        ...

    def population_projection(self) -> tuple[float, float]:
        """Return what all runs on these users have spent, and will have when this one ends."""
        ...

    @property
    def head(self) -> str:
        """The hash of the newest row."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """What the server has after a round: the algorithm's state, and what the mechanism carries (`memory`)."""

    state: Arrays
    memory: Arrays


@dataclass(frozen=True, slots=True)
class Session:
    """All that stays the same while a run goes on."""

    experiment: Experiment
    dataset: Dataset
    plan: Plan
    folder: RunFolder
    directory: Directory
    ledger: Spending
    part: str  # "train", or "refit" where models learn from train + validation

    @property
    def one_by_one(self) -> str | None:
        """Why devices are trained one by one, or None where all of a node are trained at once."""
        return reason_for_one_by_one(self.experiment, self.experiment.build_model(self.dataset.catalogue))

    @property
    def validates(self) -> bool:
        """Whether the model can be ranked on validation items: not once it has learned from them."""
        return self.part == "train"

    def evaluate(self, state: Arrays, part: str, round_number: int) -> Table:
        """Evaluate a state on the chosen devices."""
        devices = self.experiment.evaluation.chosen(self.plan.population)
        kept = self.folder.best_private(round_number)
        private = kept if kept.exists() else self.folder.private
        arrays = self.experiment.algorithm.broadcast(state)
        return evaluate(self.directory, devices, arrays, part, round=round_number, folder=str(private.resolve()))


def open_session(
    experiment: Experiment, dataset: Dataset, nodes: Nodes, folder: RunFolder, ledger: Spending, part: str
) -> Session:
    """Greet the nodes and return the session of a (calibrated) experiment."""
    header = {**base_header(experiment, secrets.token_hex(8), str(folder.private.resolve())), "part": part}
    plan = experiment.plan(dataset)
    return Session(experiment, dataset, plan, folder, greet(nodes, header), ledger, part)


def first_state(session: Session) -> Arrays:
    """Return the state before the first round."""
    catalogue = session.dataset.catalogue
    return session.experiment.algorithm.init(session.experiment.build_model(catalogue), catalogue)


def run(session: Session) -> Iterator[Round]:
    """Yield the rounds that are still to do, from the last checkpoint on; each is durable before it is yielded.

    A budget that runs out after some rounds (a killed run has charged rounds that it lost) ends the run early; one
    that allows no round at all raises `Refused`.
    """
    saved = load_checkpoint(session.folder.checkpoints)
    if saved is not None:
        check_unchanged(session, saved)
    done, at = (saved.round, Standing(saved.state, saved.memory)) if saved else (0, first_standing(session))
    if saved and session.folder.keep_rounds(done) < done:
        yield _report(session, at.state, replace(Round(**saved.notes["report"]), epsilon=_spent(session)))
    elif not saved:
        session.folder.keep_rounds(0)
    done, at = _past_losses(session, done, at)
    for number in range(done + 1, session.experiment.rounds + 1):
        try:
            session.ledger.reserve(number)
        except BudgetSpent:
            if number == 1:
                raise
            return
        at, report = play(session, at, number)
        yield _report(session, at.state, report)


def first_standing(session: Session) -> Standing:
    """Return what the server has before the first round."""
    state = first_state(session)
    return Standing(state, session.experiment.mechanism.first_memory(session.experiment.algorithm.shapes(state)))


def _past_losses(session: Session, done: int, at: Standing) -> tuple[int, Standing]:
    """Return the round after which to go on: one that was charged and lost is left out where the mechanism asks for it.

    Raises `Refused` where no round is left that could release anything.
    """
    mechanism, newest = session.experiment.mechanism, session.ledger.newest()
    if not mechanism.skips_lost_rounds or newest <= done:
        return done, at
    if done == 0 and newest >= session.experiment.rounds:
        raise Refused("every round was charged and lost before it released anything: start a new run")
    return newest, replace(at, memory=mechanism.after_loss(at.memory))


def check_unchanged(session: Session, saved: Checkpoint) -> None:
    """Raise `Refused` where a checkpoint is of another experiment than the one that goes on from it."""
    if saved.notes.get("experiment") != session.experiment.hash:
        raise Refused(
            f"{session.folder.config} was changed since round {saved.round}, or its data were: a run goes on with the "
            "settings it began with. Put back the old file, or start a new run"
        )


def play(session: Session, at: Standing, number: int) -> tuple[Standing, Round]:
    """Play one reserved round and make it durable; return what is then, and the report, still without validation."""
    start, experiment = time.monotonic(), session.experiment
    mechanism, seed = experiment.mechanism, experiment.seed
    drawn = mechanism.draw(session.plan, number, mechanism.random(seed, number, COHORT_STREAM))
    drawn = drawn[~session.ledger.exhausted()[drawn]]
    present = experiment.cohort.present(drawn, seed, number)
    got = _asked(session, at, present, number)
    released = got.total.count >= experiment.cohort.minimum
    at = _stepped(session, at, got.total, number) if released else replace(at, memory=mechanism.after_loss(at.memory))
    report = _round(number, len(drawn), got, released, time.monotonic() - start)
    plain = {field: getattr(report, field) for field in Round.__dataclass_fields__}
    notes = {"report": plain, "ledger": session.ledger.head, "experiment": experiment.hash}
    save_checkpoint(session.folder.checkpoints, Checkpoint(number, at.state, notes, at.memory))
    session.ledger.commit(number, drawn)
    return at, replace(report, epsilon=_spent(session), seconds=time.monotonic() - start)


def _asked(session: Session, at: Standing, present: NDArray[np.int64], number: int) -> Collected:
    """Ask the devices that are there, and return what came of it; that every node failed is an error."""
    algorithm, deadline = session.experiment.algorithm, session.experiment.cohort.deadline_seconds
    announced = session.experiment.mechanism.announced(at.memory)
    mechanism = session.experiment.mechanism.in_round(announced)
    broadcast = algorithm.broadcast(at.state)
    requests = session.directory.requests("train", present, broadcast, round=number, privacy=announced)
    shapes = mechanism.shapes(algorithm.shapes(at.state))
    got = collect(session.directory, requests, shapes, deadline, mechanism.admit, algorithm.double)
    failed = got.rejected if session.directory.simulated else {}
    if failed and all("reported an error" in failed.get(node, "") for node in requests):
        raise FedrecError(f"round {number}: every node failed; {next(iter(got.rejected.values()))}")
    return got


def _stepped(session: Session, at: Standing, total: Update, number: int) -> Standing:
    """Return what the server makes of a round's sum."""
    mechanism = session.experiment.mechanism
    now = mechanism.in_round(mechanism.announced(at.memory))
    random = mechanism.random(session.experiment.seed, number, SERVER_STREAM)
    aggregate = now.finish(total, session.plan, number, random, at.memory)
    algorithm = session.experiment.algorithm.knowing(session.dataset.catalogue)
    return Standing(algorithm.step(at.state, aggregate), aggregate.memory)


def _round(number: int, drawn: int, got: Collected, released: bool, seconds: float) -> Round:
    return Round(
        round=number,
        cohort=drawn,
        answered=got.total.count,
        rejected=got.rejected,
        released=released,
        loss=got.loss,
        validation=None,
        epsilon=None,
        seconds=seconds,
        bytes_down=got.bytes_down,
        bytes_up=got.bytes_up,
    )


def _spent(session: Session) -> float | None:
    epsilon = session.ledger.epsilon()
    return epsilon if np.isfinite(epsilon) else None


def _report(session: Session, state: Arrays, report: Round) -> Round:
    """Validate where it is due, keep the best state where asked, and write the round's line."""
    options, last = session.experiment.evaluation, report.round == session.experiment.rounds
    if session.validates and (last or report.round % options.every == 0):
        rows = session.evaluate(state, "validation", report.round)
        report = replace(report, validation=float(rows["full_ndcg@10"].mean()) if len(rows["user"]) else None)
        if options.select == "best":
            keep_best(session.folder, state, report)
    exact = {field: getattr(report, field) for field in Round.__dataclass_fields__}
    session.folder.append_round(public_line(exact, session), exact)
    return report


def public_line(exact: dict[str, Any], session: Session) -> dict[str, Any]:
    """Return a round's line without what no epsilon covers: the drawn cohort, who answered, loss and validation."""
    if not session.experiment.mechanism.private:
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
    return {**exact, **hidden, "cohort": round(session.plan.expected_cohort), "seconds": round(exact["seconds"])}


def keep_best(folder: RunFolder, state: Arrays, report: Round) -> None:
    """Keep the state with the best validation so far, and the private arrays that go with it, under exact/."""
    best = load_checkpoint(folder.exact / "best")
    if report.validation is not None and (best is None or report.validation > best.notes["validation"]):
        shutil.copytree(folder.private, folder.best_private(report.round), dirs_exist_ok=True)
        save_checkpoint(folder.exact / "best", Checkpoint(report.round, state, {"validation": report.validation}))
        for old in folder.exact.glob("private-*"):
            if old != folder.best_private(report.round):
                shutil.rmtree(old)


def final_state(session: Session) -> tuple[int, Arrays]:
    """Return (round, state) of the model that is released: the last, or with select=best the best on validation."""
    best = session.experiment.evaluation.select == "best"
    saved = load_checkpoint(session.folder.exact / "best" if best else session.folder.checkpoints)
    return (saved.round, saved.state) if saved else (0, first_state(session))
