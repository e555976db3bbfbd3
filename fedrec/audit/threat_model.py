"""The game that a mechanism's own guarantee defines: what a canary is, which worlds are compared, what is observed.

Nothing here names a mechanism: a new one is audited by what it promises. Canaries are the worst case as data and as a
model: each pulls on one number of its own, as hard as it is allowed to.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.algorithms.item_counts import ItemCounts
from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData, DeviceTable, Interactions
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit

Mask = NDArray[np.bool_]
PULL = 1000.0  # a canary's raw gradient norm over the clip
SUMMED, TOGETHER = 2_000, 50_000  # most canaries of one run: devices of one item, interactions of one device
HOSTED = 10_000  # and users of one gateway


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """`canaries` scores with a unit, and at least as many without, from one run.

    `observes` is where the adversary listens: to the released "state", or to each node's "reply"; with `alone` a node
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
    observes: str
    alone: bool
    ends: tuple[float, float] = (0.0, 1.0)
    turns: int = 1

    @property
    def numbers(self) -> int:
        """How many numbers a round releases."""
        return (self.devices if self.alone else 1) * self.items

    def widened(self, numbers: int) -> "ThreatModel":
        """Return the game with so many numbers a round, where it has fewer: of items that no canary pulls on."""
        return replace(self, items=max(self.items, numbers // (self.numbers // self.items)))

    def source(self) -> dict[str, Any]:
        """Return the data of the game as a configuration node."""
        fields = ("devices", "items", "each", "apart", "signed")
        return {"_target_": "fedrec.audit.threat_model.Canaries", **{name: getattr(self, name) for name in fields}}

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


def threat_model_of(terms: PrivacyGuarantee, canaries: int, turns: int = 1) -> ThreatModel:
    """Return the game of these terms with as many of the canaries as one run can hold.

    Terms without a game are refused by name.
    """
    match terms.trust, terms.unit, terms.relation:
        case (Trust.SERVER | Trust.SUMS, Unit.USER, Relation.ADD_REMOVE) | (Trust.NONE, Unit.NONE, Relation.NONE):
            held = min(canaries, SUMMED)
            devices, items = turns * held, (4 + turns) * held
            return ThreatModel(
                held, devices, items, 1, apart=True, signed=False, observes="state", alone=False, turns=turns
            )
        case (Trust.GATEWAY, Unit.USER, Relation.ADD_REMOVE):
            held = min(canaries, HOSTED)
            return ThreatModel(held, held, 5 * held, 1, apart=True, signed=False, observes="reply", alone=False)
        case (Trust.DEVICE, Unit.INTERACTION, Relation.ADD_REMOVE):
            held = min(canaries, TOGETHER)
            return ThreatModel(held, 1, 2 * held, held, apart=False, signed=False, observes="reply", alone=True)
        case (Trust.DEVICE, Unit.USER, Relation.REPLACE_ONE):
            held = min(canaries, SUMMED)
            return ThreatModel(
                held, 2 * held, 1, 1, apart=False, signed=True, observes="reply", alone=True, ends=(-1, 1)
            )
        case _:
            raise RefusedError(
                f"no audit for trust {terms.trust}, unit {terms.unit}, {terms.relation}: "
                "say in fedrec/audit/threat_model.py what its adversary sees"
            )


@dataclass(frozen=True, slots=True)
class Canaries:
    """A source of `devices` that hold `each` items apiece, of `items` in all.

    With `apart`, device u holds items u * each onwards, its own; else all hold the first `each`. The value of an
    interaction is the direction in which it pulls: 1, or with `signed` -1 on every second device.
    """

    devices: int
    items: int
    each: int = 1
    apart: bool = True
    signed: bool = False

    def __post_init__(self) -> None:
        needed = self.each * (self.devices if self.apart else 1)
        if min(self.devices, self.each) < 1 or self.items < needed:
            raise FedrecError(f"{self.devices} canary devices with {self.each} items each need {needed} items")

    def load(self) -> Dataset:
        """Return the devices; everything is history, nothing is held out."""
        user = np.repeat(np.arange(self.devices, dtype=np.int32), self.each)
        item = np.tile(np.arange(self.each, dtype=np.int32), self.devices)
        item = item + user * np.int32(self.each) if self.apart else item
        value = np.where(user % 2 == 1, -1.0, 1.0) if self.signed else np.ones(len(user))
        ids, users = np.arange(self.items).astype(str), np.arange(self.devices).astype(str)
        rows = Interactions(user, item, np.zeros(len(user), np.int64), value.astype(np.float32), users, self.items)
        start = np.arange(self.devices + 1, dtype=np.int64) * self.each
        return Dataset(
            name="canaries",
            population="canaries",
            interactions=rows,
            catalogue=Catalogue(ids, ids, np.zeros((self.items, 0), np.float32), (), "item file"),
            devices=DeviceTable(start, start[1:], start[1:], item, rows.value, self.items),
            split="none",
            synthetic=True,
        )


class CanaryModel(TrainableRecommender):
    """One number an item; the loss of an interaction is -`pull` * value * its number, so that its gradient is constant.

    `pull` lies far above any clip: what arrives is then what the clip lets through. With `dense`, each item has a
    number among the dense parameters too, so that a canary pulls on both groups of a clip that is split.
    """

    shared = frozenset({"item.weight", "dense.weight"})
    ratings = True  # no negatives: they would be noise of the adversary's own

    def __init__(self, catalogue: Catalogue, pull: float = 1.0, dense: bool = False) -> None:
        super().__init__()
        self.items, self.pull = len(catalogue), pull
        self.item = nn.Embedding(self.items, 1)
        self.dense = nn.Embedding(self.items, 1) if dense else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, items: Tensor) -> Tensor:
        """Return the numbers [B, n] of items [B, n]."""
        numbers = self.item(items) if self.dense is None else self.item(items) + self.dense(items)
        return numbers.squeeze(-1)

    def criterion(self, logits: Tensor, values: Tensor) -> Tensor:
        """Return one value per interaction [B]."""
        return -self.pull * values * logits[:, 0]

    def scores(self, history: Tensor) -> Tensor:
        """Return the numbers [V]."""
        return self.item.weight[:, 0]

    def reset_private(self, generator: np.random.Generator) -> None:
        """Do nothing: the model has no private part."""


@dataclass(frozen=True, slots=True)
class SignedCounts(ItemCounts):
    """Counts that pull up or down, as the value of an interaction says.

    Counts of items lie at most sqrt(2) apart, for none is negative; where a user is replaced the accountant allows
    twice the clip, and so must the worst case.
    """

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the device's bounded counts [V], each with the sign of its value."""
        counts = ItemCounts.statistic(self, broadcast, device, unit)["counts"]
        counts[device.history] *= np.sign(device.values)
        return {"counts": counts}
