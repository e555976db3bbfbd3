"""Amazon video games as SASRec was evaluated on (Kang and McAuley 2018, arXiv:1808.09781): "user item" in order."""

from dataclasses import dataclass
from typing import ClassVar

from fedrec.data.dataset import Dataset
from fedrec.data.io.delimited import Layout, read_delimited
from fedrec.data.prepare import Plan, assemble
from fedrec.data.provided import Provided
from fedrec.data.sources import rows_of


@dataclass(frozen=True, kw_only=True)
class AmazonVideoGames(Provided):
    """287,107 reviews by 31,013 users of 23,715 games, lines in the order of time within each user.

    No titles and no times are published with it, and users and games with fewer than five reviews were dropped by its
    makers. Item numbers follow the shop's own product codes.
    """

    name: ClassVar[str] = "amazon-video-games"
    needed: ClassVar[tuple[str, ...]] = ("Video.txt",)
    publisher: ClassVar[str] = "the authors of SASRec"

    def load(self) -> Dataset:
        """Read Video.txt."""
        files, needed = self.files()
        layout = Layout(" ", columns=("user", "item"))
        table = read_delimited(files.read(needed), files.label(needed), layout)
        return assemble(rows_of(table, "user", "item", None, None), self, Plan(self.name))
