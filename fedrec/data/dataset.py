"""A loaded source: its interactions, its catalogue, and what was repaired on the way."""

from dataclasses import dataclass
from typing import Protocol

from fedrec.data.catalogue import Catalogue
from fedrec.data.devices import DeviceTable
from fedrec.data.interactions import Interactions


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a source gives: `population` names the users whose privacy is spent (name and hash of the source).

    `repairs` are (what, how many rows or users) pairs, stated to the user; `split` names the rule in full.
    """

    name: str
    population: str
    interactions: Interactions
    catalogue: Catalogue
    devices: DeviceTable
    split: str
    repairs: tuple[tuple[str, int], ...] = ()
    synthetic: bool = False


class Source(Protocol):
    """A data set that can be loaded: one file under `datasets/` and one yaml under conf/dataset."""

    def load(self) -> Dataset:
        """Read, check, repair and split; raise `FedrecError` with file and line where the source is wrong."""
        ...
