"""What the adversary of a game hears in one round, from the bytes that were released, and whether they are possible.

A released number is impossible where no noise that was promised leads to it from either world: it is no whole number of
the grid's steps, it lies further out than the noise reaches, or the state that was released is not what the released
whole numbers make of the state before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.federated.exchange import ExpectedUpdate
from fedrec.federated.state import RunContext, ServerState
from fedrec.messages import Arrays, unpack
from fedrec.privacy.clipping import group_of
from fedrec.privacy.discrete_gaussian import REACH
from fedrec.privacy.grid import Whole
from fedrec.privacy.kept_release import KeptRelease
from fedrec.privacy.mechanisms.protocol import Aggregate, Mechanism

Numbers = NDArray[np.float64]
ROUNDING = 1e-5  # of the largest number: what single precision may move a step made of releases by


@dataclass(frozen=True, slots=True)
class Heard:
    """One round: what is heard of each canary [nodes, items], and the same as whole steps; None in floating point.

    `impossible` counts the released numbers that are so.
    """

    values: Numbers
    whole: Whole | None = None
    impossible: int = 0


def hear_replies(replies: Sequence[bytes | None], asked: ExpectedUpdate, items: int) -> Heard:
    """Return what is heard in the packed replies of nodes; nothing in one that did not come."""
    form, values, whole, trained = asked.form, list[Numbers](), list[Whole](), list[Numbers]()
    for reply in replies:
        if reply is None:
            values.append(np.zeros(items))
            continue
        message = unpack(reply)
        if form is None:
            values.append(flat(message.arrays, asked.mechanism))
            trained.append(next(iter(message.arrays.values())).ravel().astype(np.float64))
            continue
        release = form.unpack(message)
        values.append(flat(release.values(), asked.mechanism))
        whole.append(next(iter(release.arrays.values())).ravel())
    if form is None:
        return Heard(np.stack(values), *stepped(trained, asked.mechanism))
    steps = np.stack(whole) if whole else np.zeros((0, items), np.int64)
    return Heard(np.stack(values), steps, beyond(steps, form.grid.length))


def stepped(trained: Sequence[Numbers], mechanism: Mechanism) -> tuple[Whole | None, int]:
    """Return the whole steps that DP-SGD trained at a learning rate of 1 is made of, and how many numbers are none."""
    config = mechanism.dp_sgd()
    if config is None or not trained:
        return None, 0
    grid = config.grid().vectors
    # A gateway's sum of its users is divided by nothing.
    steps = np.stack(trained) * ((1.0 if mechanism.pools_users else config.denominator) / grid.step)
    whole = np.rint(steps)
    # In single precision a number of n steps is right to n / 2^24, after two operations to a few times that.
    between = int(np.count_nonzero(~(np.abs(steps - whole) <= np.abs(whole) * 2.0**-21 + 1e-6)))
    return whole.astype(np.int64), between + beyond(whole.astype(np.int64), grid.length)


def hear_state(context: RunContext, before: ServerState, after: ServerState, told: Sequence[KeptRelease]) -> Heard:
    """Return what is heard in a released state, and in what was `told` of this round and of those before."""
    plan, mechanism = context.plan, context.experiment.mechanism
    moved = {name: array for name, array in after.algorithm_state.items()}
    if plan.trains:
        cohort = plan.expected_cohort
        moved = {name: (array - before.algorithm_state[name]) * cohort for name, array in moved.items()}
    values = flat(moved, mechanism)[None]
    if mechanism.grid(context.experiment.algorithm.shapes(after.algorithm_state)) is None:
        return Heard(values)
    names = list(after.algorithm_state)
    if not told:
        return Heard(values, None, sum(array.size for array in moved.values()))
    impossible = unexplained(context, before, after, told)
    for name in names:
        impossible += beyond(told[-1].arrays[name], told[-1].grid.length)
    return Heard(values, told[-1].arrays[names[0]].reshape(1, -1), impossible)


def unexplained(context: RunContext, before: ServerState, after: ServerState, told: Sequence[KeptRelease]) -> int:
    """Return how many numbers of a state are not what the released whole numbers make of the state before."""
    estimate, algorithm = estimated(told, context.experiment.mechanism), context.experiment.algorithm
    arrays = {name: estimate[name] for name in after.algorithm_state}
    made = algorithm.step(before.algorithm_state, Aggregate(arrays, context.plan.expected_cohort))
    found = 0
    for name, array in after.algorithm_state.items():
        slack = ROUNDING * max(float(np.abs(array).max(initial=0)), 1e-12)
        found += int(np.count_nonzero(~(np.abs(array - made[name]) <= slack)))
    return found


def estimated(told: Sequence[KeptRelease], mechanism: Mechanism) -> Arrays:
    """Return what the newest release tells of its round's sum: less what it repeats of earlier ones, where it does."""
    strategy: Sequence[float] = getattr(mechanism, "coefficients", None) or (1.0,)
    estimates = list[Arrays]()
    for release in told:
        now = release.values()
        for weight, earlier in zip(strategy[1:], reversed(estimates), strict=False):
            now = {name: array - np.float32(weight) * earlier[name] for name, array in now.items()}
        estimates.append(now)
    return estimates[-1]


def beyond(whole: Whole, length: int) -> int:
    """Return how many numbers lie further from the sums of both worlds than noise of their own spread reaches."""
    if not whole.size:
        return 0
    deviation = 1.4826 * float(np.median(np.abs(whole)))
    return int(np.count_nonzero(np.abs(whole) > length + 2 * REACH * (deviation + 1)))


def flat(arrays: Mapping[str, NDArray[Any]], mechanism: Mechanism) -> Numbers:
    """Return a canary's update as numbers [items]: its groups each in proportion to its part of the clip."""
    rule = mechanism.rule
    parts = list[Numbers]()
    for name, array in arrays.items():
        share = rule.bounds[group_of(name, rule.grouping)] / rule.norm if rule is not None else 1.0
        parts.append(array.ravel().astype(np.float64) * share)
    return np.sum(parts, axis=0)
