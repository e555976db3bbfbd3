"""THE round loop: reserve, draw, ask, check, sum, noise, step, checkpoint, commit, evaluate."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import BudgetExceededError, FedrecError, RefusedError
from fedrec.federated.exchange import ExpectedUpdate, GatherResult, gather_updates
from fedrec.federated.secure_sum import SecureRound, gather_securely, plays_messages
from fedrec.federated.state import (
    RoundReport,
    RunContext,
    ServerState,
    check_unchanged,
    initial_state,
    record_round,
)
from fedrec.privacy.kept_release import encode_release
from fedrec.privacy.release import Release, Released, cut_to
from fedrec.rng import Stream
from fedrec.storage.run_folder import Checkpoint, load_checkpoint, save_checkpoint

NUMBER_BYTES = 4  # of a packed number of a release at most: they are packed to 12 to 30 bits


def run(context: RunContext) -> Iterator[RoundReport]:
    """Yield the rounds that are still to do, from the last checkpoint on; each is durable before it is yielded.

    A budget that runs out after some rounds (a killed run has charged rounds that it lost) ends the run early; one
    that allows no round at all raises `RefusedError`.
    """
    saved = load_checkpoint(context.folder.checkpoints)
    if saved is not None:
        check_unchanged(context, saved)
    done, state = (
        (saved.round, ServerState(saved.state, saved.mechanism_state)) if saved else (0, initial_state(context))
    )
    if saved and context.folder.truncate_rounds(done) < done:
        yield record_round(
            context,
            state.algorithm_state,
            replace(RoundReport(**saved.notes["report"]), epsilon=epsilon_spent(context)),
        )
    elif not saved:
        context.folder.truncate_rounds(0)
    done, state = _skip_lost_rounds(context, done, state)
    for number in range(done + 1, context.experiment.rounds + 1):
        try:
            context.ledger.reserve(number)
        except BudgetExceededError:
            if number == 1:
                raise
            return
        state, report = run_round(context, state, number)
        yield record_round(context, state.algorithm_state, report)


def _skip_lost_rounds(context: RunContext, done: int, state: ServerState) -> tuple[int, ServerState]:
    """Return the round after which to go on: one that was charged and lost is left out where the mechanism asks for it.

    Raises `RefusedError` where no round is left that could release anything.
    """
    mechanism, newest = context.experiment.mechanism, context.ledger.newest()
    if not mechanism.skips_lost_rounds or newest <= done:
        return done, state
    if done == 0 and newest >= context.experiment.rounds:
        raise RefusedError("every round was charged and lost before it released anything: start a new run")
    return newest, replace(state, mechanism_state=mechanism.state_after_lost_round(state.mechanism_state))


def run_round(context: RunContext, state: ServerState, number: int) -> tuple[ServerState, RoundReport]:
    """Play one reserved round and make it durable; return what is then, and the report, still without validation."""
    start, experiment = time.monotonic(), context.experiment
    mechanism, seed = experiment.mechanism, experiment.seed
    drawn = mechanism.sample_cohort(context.plan, number, mechanism.random(seed, number, Stream.COHORT))
    drawn = drawn[~context.ledger.exhausted()[drawn]]
    present = simulate_dropout(drawn, experiment.cohort.dropout, seed, number)
    got = _collect_updates(context, state, (drawn, present), number)
    context.directory.set_aside({node: got.rejected[node] for node in got.faults})
    # Where who came is a secret, each round steps: on noise alone where nobody did.
    fewest = max(experiment.cohort.minimum, mechanism.least_devices)
    released = mechanism.terms.hides_who_came or got.total.count >= fewest
    stepped, release = _server_step(context, state, got.total, number) if released else (state, None)
    # A sum or a step that is not finite would stay in the model for ever: the round is lost instead.
    released = released and all(np.isfinite(a).all() for a in stepped.algorithm_state.values())
    state = (
        stepped if released else replace(state, mechanism_state=mechanism.state_after_lost_round(state.mechanism_state))
    )
    report = _make_report(number, len(drawn), got, released, time.monotonic() - start)
    plain = {field: getattr(report, field) for field in RoundReport.__dataclass_fields__}
    notes: dict[str, Any] = {"report": plain, "ledger": context.ledger.head, "experiment": experiment.hash}
    if context.directory.faulty:
        notes["set_aside"] = context.directory.faulty
    if released and release is not None and keeps_releases(context, release):
        context.folder.keep_release(number, encode_release(number, release))
    save_checkpoint(context.folder.checkpoints, Checkpoint(number, state.algorithm_state, notes, state.mechanism_state))
    context.ledger.commit(number, drawn)
    return state, replace(report, epsilon=epsilon_spent(context), seconds=time.monotonic() - start)


def simulate_dropout(drawn: NDArray[np.int64], dropout: float, seed: int, number: int) -> NDArray[np.int64]:
    """Return those of the drawn devices that a simulation lets answer: each is left out with probability `dropout`."""
    if dropout == 0:
        return drawn
    generator = np.random.default_rng(np.random.SeedSequence((seed, number, Stream.DROPOUT)))
    return drawn[generator.random(len(drawn)) >= dropout]


def _collect_updates(
    context: RunContext, state: ServerState, invited: tuple[NDArray[np.int64], NDArray[np.int64]], number: int
) -> GatherResult:
    """Ask those of the drawn devices that are there, and return what came of it; that every node failed is an error.

    `invited` are the drawn devices, and those of them whose answer arrives.
    """
    algorithm, deadline = context.experiment.algorithm, context.experiment.cohort.deadline_seconds
    round_params = context.experiment.mechanism.round_params(state.mechanism_state)
    mechanism = context.experiment.mechanism.with_round_params(round_params).in_round(context.plan, number)
    at = state.algorithm_state
    broadcast, shapes = algorithm.broadcast(at), algorithm.shapes(at)
    values, rate = sum(math.prod(shape) for shape in shapes.values()), float(getattr(algorithm, "learning_rate", 1.0))

    def largest_norm(count: int) -> float:
        return mechanism.largest_norm(values, count, context.plan, rate)

    def counted(total: Released) -> Released:
        reach = mechanism.noise_on_values(total.count)
        return cut_to(total, lambda values, step: algorithm.clip_items(at, values, mechanism.terms.unit, reach, step))

    bound = None if context.directory.simulated else largest_norm
    expected = ExpectedUpdate(mechanism, shapes, counted, algorithm.float64_arrays, bound)
    if plays_messages(mechanism):
        header = {"run": context.directory.header["run"], "round": number, "attempt": 1, "numbers": values}
        asked = SecureRound(context.experiment, context.plan, header, broadcast, *invited)
        return gather_securely(context.directory, asked, expected, deadline)
    requests = context.directory.requests("train", invited[1], broadcast, round=number, privacy=round_params)
    got = gather_updates(context.directory, requests, expected, deadline)
    failed = got.rejected if context.directory.simulated else {}
    if failed and all("reported an error" in failed.get(node, "") for node in requests):
        raise FedrecError(f"round {number}: every node failed; {next(iter(got.rejected.values()))}")
    return got


def _server_step(
    context: RunContext, state: ServerState, total: Released, number: int
) -> tuple[ServerState, Release | None]:
    """Return what the server makes of a round's sum, and what of it was released on a grid."""
    mechanism = context.experiment.mechanism
    now = mechanism.with_round_params(mechanism.round_params(state.mechanism_state)).in_round(context.plan, number)
    random = mechanism.random(context.experiment.seed, number, Stream.SERVER)
    aggregate = now.privatize_aggregate(total, context.plan, number, random, state.mechanism_state)
    algorithm = context.experiment.algorithm.with_catalogue(context.dataset.catalogue)
    stepped = ServerState(algorithm.step(state.algorithm_state, aggregate), aggregate.mechanism_state)
    return stepped, aggregate.release


def keeps_releases(context: RunContext, release: Release) -> bool:
    """Say whether the folder keeps the run's releases: by the public sizes alone, so in all rounds or in none."""
    numbers = sum(math.prod(array.shape) for array in release.arrays.values())
    return context.experiment.rounds * numbers * NUMBER_BYTES <= context.folder.keep_releases_mb * 1e6


def _make_report(number: int, drawn: int, got: GatherResult, released: bool, seconds: float) -> RoundReport:
    return RoundReport(
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


def epsilon_spent(context: RunContext) -> float | None:
    """Return what the ledger says was spent so far, None where that is infinite."""
    epsilon = context.ledger.epsilon()
    return epsilon if np.isfinite(epsilon) else None
