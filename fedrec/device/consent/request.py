"""What a request for one round asks of a device, read from the request's own words."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import canonical, check_allowed, is_ours
from fedrec.privacy.accounting.rdp import Part
from fedrec.privacy.guarantee import Relation, Trust, Unit

# (unit, neighbouring relation, who is trusted) of each mechanism that a device knows.
KNOWN = {
    "none.NoPrivacy": (Unit.NONE, Relation.NONE, Trust.NONE),
    "interaction.InteractionLevel": (Unit.INTERACTION, Relation.ADD_REMOVE, Trust.DEVICE),
    "user.UserLevel": (Unit.USER, Relation.ADD_REMOVE, Trust.SERVER),
    "user_adaptive.UserAdaptive": (Unit.USER, Relation.ADD_REMOVE, Trust.SERVER),
    "user_local.UserLocal": (Unit.USER, Relation.REPLACE_ONE, Trust.DEVICE),
    "banded.BandedUserLevel": (Unit.USER, Relation.ADD_REMOVE, Trust.SERVER),
    "gateway.GatewayLevel": (Unit.USER, Relation.ADD_REMOVE, Trust.GATEWAY),
}

ADAPTIVE = "user_adaptive.UserAdaptive"  # the one mechanism whose clip a round announces
STATISTIC = ("interaction.InteractionLevel", "gateway.GatewayLevel")  # whose documents hold a statistic's sensitivity
EXTREME = 1e100
UNPROTECTED = (Unit.NONE, Relation.NONE, Trust.NONE)

# Algorithms whose rounds all get the same part of the budget.
EQUAL_SHARE = (
    "fedavg.FedAvg",
    "fedavg.FedAdam",
    "fedavg.FedAdagrad",
    "sequence_sgd.FedSGDSequences",
    "item_counts.ItemCounts",
)


@dataclass(frozen=True, slots=True)
class PrivacyRequest:
    """One round's cost to one device, if it takes part.

    `parts` are its Gaussians without the sampling of the cohort, of which a device can see nothing. `promise` says that
    the noise is added elsewhere, so that the device has only the server's word for it. `epsilon` is what the run as a
    whole may spend by its own configuration.
    """

    unit: Unit
    neighbouring: Relation
    trust: Trust
    noise_multiplier: float
    clip: float
    parts: tuple[Part, ...]
    epsilon: float

    @property
    def promise(self) -> bool:
        """Whether somebody else adds the noise."""
        return self.trust in (Trust.SERVER, Trust.GATEWAY)


@dataclass(frozen=True, slots=True)
class PlayedRounds:
    """How many rounds a run plays, and each one's part of the budget (of mu squared); None: equal parts."""

    rounds: int
    shares: tuple[float, ...] | None = None

    def worth(self, number: int) -> float:
        """Return how many equal rounds round 1..rounds is worth; one that the run does not have is `RefusedError`."""
        if not 1 <= number <= self.rounds:
            raise RefusedError(f"it asks for round {number} of a run of {self.rounds}")
        return 1.0 if self.shares is None else self.shares[number - 1] * self.rounds


def parse_request(header: Mapping[str, Any], played: PlayedRounds | None = None) -> PrivacyRequest:
    """Return what a train request's header asks; one that can't be understood is `RefusedError`.

    `played` is the plan that the device derived; without it, a round counts as much as it could under any plan.
    """
    try:
        document = json.loads(header["experiment"])
        node, announced = document["privacy"], header.get("privacy", {})
        worth = rounds_worth(document) if played is None else played.worth(header["round"])
        if "clip" in announced:  # all that a round may change; only an adaptive clip may shrink by it
            own = 0.0 if _mechanism_name(node) == ADAPTIVE else positive(node, "clip")
            node = {**node, "clip": max(own, positive(announced, "clip"))}
        return _parse_mechanism(node, worth)
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(f"the request does not say how it protects this device ({type(error).__name__})") from error


def check_packages(header: Mapping[str, Any]) -> None:
    """Raise `RefusedError` where a request needs classes of a package that is not allowed here; nothing is imported.

    A request that says nothing to be understood needs none: it is declined, or fails, for what it lacks.
    """
    try:
        document = json.loads(header["experiment"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return
    check_allowed(document)


def rounds_worth(document: Mapping[str, Any]) -> int:
    """Return how many equal rounds one round may be worth: all of them, where the rounds may share unequally."""
    name = canonical(str(document["algorithm"]["_target_"])).removeprefix("fedrec.algorithms.")
    return 1 if name in EQUAL_SHARE else max(2, int(document["rounds"]))


def unit_of(node: Mapping[str, Any]) -> Unit | None:
    """Return the unit of the mechanism that a document describes; None for one that a device does not know."""
    known = KNOWN.get(_mechanism_name(node))
    return None if known is None else known[0]


def _parse_mechanism(node: Mapping[str, Any], worth: float) -> PrivacyRequest:
    name = _mechanism_name(node)
    if name not in KNOWN and is_ours(canonical(str(node["_target_"]))):
        raise RefusedError(f"the server uses {name.rpartition('.')[2]}, a mechanism that this device does not know")
    # What a mechanism of somebody's own promises is its author's claim: here it counts as no protection.
    unit, neighbouring, trust = KNOWN.get(name, UNPROTECTED)
    if trust == Trust.NONE or node.get("randomness", "system") != "system":
        return PrivacyRequest(*UNPROTECTED, 0.0, math.inf, ((0.0, 1.0, 1),), math.inf)
    z = positive(node, "noise_multiplier")
    if node.get("sensitivity") is not None and name not in STATISTIC:
        raise RefusedError(f"privacy.sensitivity does not exist for {name.rpartition('.')[2]}")
    clip = positive(node, "clip")  # of no use to a statistic, and still a number
    clip = clip if node.get("sensitivity") is None else positive(node, "sensitivity")
    return PrivacyRequest(unit, neighbouring, trust, z, clip, _parts(name, node, z, worth), positive(node, "epsilon"))


def _mechanism_name(node: Mapping[str, Any]) -> str:
    return canonical(str(node["_target_"])).removeprefix("fedrec.privacy.mechanisms.")


def _parts(name: str, node: Mapping[str, Any], z: float, worth: float) -> tuple[Part, ...]:
    """Return what one participation costs: a device's sampling of its own data counts, that of the cohort does not."""
    if name == "user_local.UserLocal":
        return ((z / 2, 1.0, 1),)  # replaced, an update moves by twice the clip
    if name == "banded.BandedUserLevel":
        # The bands of two turns of a device don't overlap; the first coefficient is 1.
        return ((z / positive({"coefficients": math.hypot(1.0, *node["coefficients"][1:])}, "coefficients"), 1.0, 1),)
    if name in STATISTIC and node.get("sensitivity") is None:
        rate, steps = positive(node, "sample_rate"), node["local_steps"]
        if rate > 1 or type(steps) is not int or not 0 < steps < 1 << 30:
            raise RefusedError(f"the request asks for {steps} steps on a share of {rate} of the data")
        return ((z, rate, steps),)
    if KNOWN[name][2] != Trust.SERVER:
        return ((z, 1.0, 1),)
    return ((z, 1.0, worth),) if isinstance(worth, int) else ((z / math.sqrt(worth), 1.0, 1),)


def positive(node: Mapping[str, Any], key: str) -> float:
    """Return a number above 0 of the request, one whose square is a number too, or raise `RefusedError`."""
    value = cast(object, node[key])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / EXTREME < value < EXTREME:
        raise RefusedError(f"the request's {key} is no number above 0 and below {EXTREME:g}")
    return float(value)
