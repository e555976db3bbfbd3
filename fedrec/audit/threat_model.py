"""The game that a mechanism's own terms define: what a canary is, which two worlds are compared, whose bytes are seen.

Nothing here names a mechanism: a new one is audited by what it promises.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import Refused
from fedrec.privacy.mechanisms.protocol import Terms

Mask = NDArray[np.bool_]
PULL = 1000.0  # a canary's raw gradient norm over the clip
SUMMED, TOGETHER = 2_000, 50_000  # most canaries of one run: devices of one item, interactions of one device
HOSTED = 10_000  # and users of one gateway


@dataclass(frozen=True, slots=True)
class Game:
    """`canaries` scores with a unit, and at least as many without, from one run.

    `heard` is where the adversary listens: to the released "state", or to each node's "reply"; with `alone` a node
    hosts one device. `ends` are the means of the score without and with the unit. Where devices take turns, `turns`
    rounds apart, the canaries are those whose turn comes first; of the others one a turn answers, so that every round
    releases something, and counts for neither side.
    """

    canaries: int
    devices: int
    items: int
    each: int
    apart: bool
    signed: bool
    heard: str
    alone: bool
    ends: tuple[float, float] = (0.0, 1.0)
    turns: int = 1

    def source(self) -> dict[str, Any]:
        """Return the data of the game as a configuration node."""
        fields = ("devices", "items", "each", "apart", "signed")
        return {"_target_": "fedrec.audit.canaries.Canaries", **{name: getattr(self, name) for name in fields}}

    def present(self, hosted: NDArray[np.int64]) -> Mask:
        """Return which of the numbers heard [nodes, items] carry a unit; with `signed`, a unit that pulls up."""
        listeners = self.devices if self.alone else 1
        mask = np.zeros((listeners, self.items), bool)
        if self.apart:
            mask[:, hosted] = True
        else:
            mask[:: 2 if self.signed else 1, : self.each] = True
        return mask

    def absent(self, hosted: NDArray[np.int64]) -> Mask:
        """Return which carry none; with `signed`, one that pulls down instead."""
        if not self.signed:
            return ~self.present(np.arange(self.devices))
        mask = np.zeros((self.devices, self.items), bool)
        mask[1::2, : self.each] = True
        return mask


def game(terms: Terms, canaries: int, turns: int = 1) -> Game:
    """Return the game of these terms with as many of the canaries as one run can hold.

    Terms without a game are refused by name.
    """
    match terms.trust, terms.unit, terms.neighbouring:
        case ("server", "user", "add-remove") | ("none", "none", "none"):
            held = min(canaries, SUMMED)
            devices, items = turns * held, (4 + turns) * held
            return Game(held, devices, items, 1, apart=True, signed=False, heard="state", alone=False, turns=turns)
        case ("gateway", "user", "add-remove"):
            held = min(canaries, HOSTED)
            return Game(held, held, 5 * held, 1, apart=True, signed=False, heard="reply", alone=False)
        case ("device", "interaction", "add-remove"):
            held = min(canaries, TOGETHER)
            return Game(held, 1, 2 * held, held, apart=False, signed=False, heard="reply", alone=True)
        case ("device", "user", "replace-one"):
            held = min(canaries, SUMMED)
            return Game(held, 2 * held, 1, 1, apart=False, signed=True, heard="reply", alone=True, ends=(-1, 1))
        case _:
            raise Refused(
                f"no audit for trust {terms.trust}, unit {terms.unit}, {terms.neighbouring}: "
                "say in fedrec/audit/game.py what its adversary sees"
            )
