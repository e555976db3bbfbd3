"""What most mechanisms have in common: Poisson cohorts, nothing carried from round to round, nodes that only sum."""

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.mechanisms.protocol import Changes, DpSgd, Plan, Random, Shapes
from fedrec.privacy.sampling import poisson
from fedrec.update import Arrays, Update, total


class Ordinary:
    """Base of mechanisms that differ in what they do to an update, to a sum, or while a device trains."""

    @property
    def together(self) -> bool:
        """Devices of a node train one by one."""
        return False

    @property
    def skips_lost_rounds(self) -> bool:
        """A round that was lost is charged again and played again, with fresh draws."""
        return False

    def planned(self, plan: Plan) -> Plan:
        """Return the plan as it is: cohorts are drawn at its rate."""
        return plan

    def draw(self, plan: Plan, round_number: int, random: Random) -> NDArray[np.int64]:
        """Return a Poisson sample of the devices."""
        return poisson(plan, random)

    def first_memory(self, shapes: Shapes) -> Arrays:
        """Return nothing: there is nothing to carry."""
        return {}

    def after_loss(self, memory: Arrays) -> Arrays:
        """Return the memory as it is."""
        return memory

    def announced(self, memory: Arrays) -> dict[str, float]:
        """Return nothing: devices know all from the experiment."""
        return {}

    def in_round(self, announced: Mapping[str, float]) -> Self:
        """Return the mechanism itself: it is the same in every round."""
        return self

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the algorithm's arrays alone."""
        return shapes

    def dp_sgd(self) -> DpSgd | None:
        """Return None: devices train on shuffled minibatches."""
        return None

    def release(self, update: Update, random: Random) -> Update:
        """Return what may leave one device."""
        raise NotImplementedError

    def release_many(self, changes: Changes, random: Random) -> Update:
        """Return the sum of what each device releases, one by one."""
        each = (self.release(changes.one(place), random) for place in range(changes.count))
        return total(each, changes.total(np.zeros(changes.count)).arrays)

    def at_node(self, total: Update, random: Random) -> Update:
        """Return the node's sum as it is."""
        return total

    def admit(self, total: Update) -> Update:
        """Return the node's sum as it is."""
        return total
