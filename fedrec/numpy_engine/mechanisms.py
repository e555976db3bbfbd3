"""What a mechanism does on a light device: none, and user level, whose noise falls at the trusted server.

Interaction level is not among them: its noise falls on the device, inside the training of every example.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fedrec.errors import FedrecError, Refused
from fedrec.privacy.clipping import ClipRule
from fedrec.update import Update


class Release(Protocol):
    """What becomes of an update before it leaves."""

    def release(self, update: Update) -> Update:
        """Return what may leave the device of one device's update."""
        ...


@dataclass(frozen=True, slots=True)
class NoPrivacy:
    """Updates leave as they are."""

    def release(self, update: Update) -> Update:
        """Return the update as it is; one that holds NaN or infinity is an error, for nothing here would bound it."""
        if not update.finite():
            raise FedrecError("an update holds NaN or infinity: training diverged; try a smaller learning rate")
        return update


@dataclass(frozen=True, slots=True)
class UserLevel:
    """A device's whole update is clipped; the server adds the noise."""

    rule: ClipRule

    def release(self, update: Update) -> Update:
        """Return the update of count 1, clipped; a non-finite one becomes zero."""
        return replace(self.rule.clipped(update), count=1)


def mechanism(node: Mapping[str, Any]) -> Release:
    """Return the light side of the mechanism that an experiment's document describes; others are refused by name."""
    name = str(node["_target_"])
    if name == "fedrec.privacy.mechanisms.none.NoPrivacy":
        return NoPrivacy()
    if name == "fedrec.privacy.mechanisms.user.UserLevel":
        return UserLevel(ClipRule(node["clip"], node["clipping"], node["dense_share"]))
    raise Refused(
        f"the light engine carries NoPrivacy and UserLevel, not {name.rpartition('.')[2]}: "
        "choose privacy=none or privacy=user, or run this device with torch"
    )
