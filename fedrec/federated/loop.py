"""THE round loop: reserve, draw, ask, check, sum, noise, step, checkpoint, commit, evaluate."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import BudgetSpent, FedrecError, Refused
from fedrec.federated.exchange import Collected, collect
from fedrec.federated.history import Round, spent, told
from fedrec.federated.state import Session, Standing, check_unchanged, first_standing
from fedrec.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedrec.update import Update

COHORT_STREAM, SERVER_STREAM = 4, 5  # keep the draw of cohorts and the server's noise apart from the devices' draws


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
        yield told(session, at.state, replace(Round(**saved.notes["report"]), epsilon=spent(session)))
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
        yield told(session, at.state, report)


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
    return at, replace(report, epsilon=spent(session), seconds=time.monotonic() - start)


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
