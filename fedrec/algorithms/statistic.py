"""What statistic algorithms have in common: devices release one bounded vector a round and keep nothing."""

from typing import ClassVar

from fedrec.algorithms.base import Contribution, OneByOne, RoundContext
from fedrec.data.devices import DeviceData
from fedrec.models.base import Recommender
from fedrec.update import Arrays, Update


class Statistic(OneByOne):
    """Base of the algorithms whose devices release `statistic(device, broadcast, unit)` instead of training."""

    trains: ClassVar[bool] = False
    refit: ClassVar[bool] = True

    def statistic(self, broadcast: Arrays, device: DeviceData, unit: str) -> Arrays:
        """Return the bounded arrays that this device adds to the sum."""
        raise NotImplementedError

    def contribute(
        self, model: Recommender, broadcast: Arrays, device: DeviceData, private: Arrays, context: RoundContext
    ) -> Contribution:
        """Return one device's statistic; its bound is `sensitivity(unit)`."""
        return Contribution(Update(self.statistic(broadcast, device, context.mechanism.terms.unit), 1), private)
