"""The protocol of an algorithm, and what the two kinds have in common.

A training algorithm lets devices change the model itself; a statistic algorithm lets them release one bounded vector a
round and keep nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from fedrec.algorithms.item_bounds import SHARES, ItemBound
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.messages import Arrays, ModelUpdate
from fedrec.models.base import Recommender
from fedrec.privacy.guarantee import Unit
from fedrec.privacy.mechanisms.protocol import Aggregate, Mechanism
from fedrec.privacy.release import Released


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What a device is told of the round it contributes to."""

    round: int
    seed: int
    mechanism: Mechanism


@dataclass(frozen=True, slots=True)
class Contribution:
    """One device's update, its new private arrays, and its exact loss: a sum over `examples`, for simulations only."""

    update: ModelUpdate
    private: Arrays
    loss: float = 0.0
    examples: int = 0


@dataclass(frozen=True, slots=True)
class PooledContribution:
    """What the devices of a node contribute as one: an update that needs no other noise, and as `Contribution`."""

    update: Released
    private: Sequence[Arrays]
    loss: float = 0.0
    examples: int = 0


class Algorithm(Protocol):
    """What devices contribute and what the server makes of the sum.

    The state is named arrays, so that it can rest in a checkpoint; `broadcast` is the part of it that devices receive
    and that fills the model's shared arrays.
    """

    name: ClassVar[str]  # what results call it
    accepts: tuple[type[Recommender], ...]  # the models it can work for
    trains: bool  # whether devices train; else they release one bounded statistic a round
    refit: bool  # whether the model is fitted again on train + validation before the test
    float64_arrays: frozenset[str]  # the arrays of an update that may come in double precision
    pools_users: bool  # whether the users of a gateway can train as one

    def with_catalogue(self, catalogue: Catalogue) -> "Algorithm":
        """Return the algorithm for a server that knows the public catalogue: its steps may use it."""
        ...

    def init(self, model: Recommender, catalogue: Catalogue) -> Arrays:
        """Return the state before the first round."""
        ...

    def rounds(self, rounds: int) -> int:
        """Return how many rounds this algorithm takes when `rounds` are asked for."""
        ...

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Return each round's part of the budget, or None for equal parts."""
        ...

    def broadcast(self, state: Arrays) -> Arrays:
        """Return what devices receive."""
        ...

    def sensitivity(self, unit: Unit) -> float | None:
        """Return the L2 sensitivity of one device's contribution to one unit, None where there is no argument."""
        ...

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes that an update of this round must have."""
        ...

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return what one device contributes. Nothing but the update may leave."""
        ...

    def contribute_many(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> Sequence[Contribution]:
        """Return the contributions of many devices; equal to the loop over `contribute`."""
        ...

    def contribute_pooled(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> PooledContribution | None:
        """Return what devices contribute as one: those of a gateway, noised, or a sum that nobody has to protect.

        None where each contributes for itself.
        """
        ...

    def clip_items(self, state: Arrays, total: ModelUpdate, unit: Unit, reach: float, step: float = 0.0) -> ModelUpdate:
        """Return what the server counts of a node's sum: of each item, what `total.count` devices may say of it.

        `state` is that of the round, or what was broadcast of it. `reach` is how far noise may have moved each value
        before the sum came, `step` that of the grid to which each device rounded its values.
        """
        ...

    def step(self, state: Arrays, total: Aggregate) -> Arrays:
        """Return the next state from the (noised) sum."""
        ...


class PerDeviceAlgorithm:
    """Gives an algorithm `contribute_many` as the loop over its `contribute`: the reference for every faster way."""

    __slots__ = ()
    float64_arrays: ClassVar[frozenset[str]] = frozenset()
    pools_users: ClassVar[bool] = False

    def with_catalogue(self, catalogue: Catalogue) -> Self:
        """Return the algorithm as it is: its steps need no catalogue."""
        return self

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return what one device contributes."""
        raise NotImplementedError

    def contribute_many(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> Sequence[Contribution]:
        """Return what the loop over `contribute` returns."""
        return [self.contribute(model, broadcast, d, p, context) for d, p in zip(devices, private, strict=True)]

    def contribute_pooled(
        self,
        model: Recommender,
        broadcast: Arrays,
        devices: Sequence[DeviceData],
        private: Sequence[Arrays],
        context: RoundContext,
    ) -> PooledContribution | None:
        """Return None: each device contributes for itself."""
        return None

    def clip_items(self, state: Arrays, total: ModelUpdate, unit: Unit, reach: float, step: float = 0.0) -> ModelUpdate:
        """Return the sum as it is: nothing bounds what is said of one item but the clip of the whole."""
        return total


class TrainingAlgorithm(PerDeviceAlgorithm):
    """What algorithms have in common whose devices change the model itself, round after round."""

    __slots__ = ()
    trains: ClassVar[bool] = True
    refit: ClassVar[bool] = False

    def rounds(self, rounds: int) -> int:
        """Take as many rounds as asked for."""
        return rounds

    def budget_shares(self, rounds: int) -> tuple[float, ...] | None:
        """Spend the budget evenly."""
        return None

    def broadcast(self, state: Arrays) -> Arrays:
        """Send the shared arrays; what the server keeps for its own steps has a name with a slash."""
        return {name: array for name, array in state.items() if "/" not in name}

    def shapes(self, state: Arrays) -> dict[str, tuple[int, ...]]:
        """An update changes exactly what was broadcast."""
        return {name: array.shape for name, array in self.broadcast(state).items()}


class StatisticAlgorithm(PerDeviceAlgorithm):
    """Base of the algorithms whose devices release `statistic(device, broadcast, unit)` instead of training."""

    trains: ClassVar[bool] = False
    refit: ClassVar[bool] = True
    history_shares: ClassVar[Mapping[str, float]] = SHARES  # of the mean history, by `shortest_history`

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: Unit) -> Arrays:
        """Return the bounded arrays that this device adds to the sum."""
        raise NotImplementedError

    def item_bounds(self, unit: Unit, state: Arrays) -> dict[str, ItemBound]:
        """Return how much one device may say of one item in each array of a round; none for those without a bound."""
        return {}

    def clip_items(self, state: Arrays, total: ModelUpdate, unit: Unit, reach: float, step: float = 0.0) -> ModelUpdate:
        """Return the sum within `total.count` times `item_bounds`, itself where it lies there already."""
        bounds = self.item_bounds(unit, state)
        return ModelUpdate(
            {
                name: bounds[name].clip(array, total.count, reach, step) if name in bounds else array
                for name, array in total.arrays.items()
            },
            total.count,
        )

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return one device's statistic, each item within its bound, the whole within `sensitivity(unit)`."""
        unit = context.mechanism.terms.unit
        sent = ModelUpdate(self.statistic(broadcast, device, unit), 1)
        return Contribution(self.clip_items(broadcast, sent, unit, 0.0), private)
