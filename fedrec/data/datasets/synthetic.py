"""A seeded generator with long-tailed users and items, for tests and for trying things without data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.data.features import position
from fedrec.data.io.table import Tokens
from fedrec.data.prepare import Plan, assemble
from fedrec.data.sources import Rows, Settings
from fedrec.errors import FedrecError

FAVOURITE_SHARE = 0.7  # of a user's draws that fall on the genre it likes best
ZIPF_EXPONENT = 0.9
ACTIVITY_SIGMA = 0.8  # of the log-normal number of interactions per user
FIRST_SECOND = 1_600_000_000
SPARE_DRAWS = 3  # draws per interaction wanted, because repeats are left out
GAP_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Synthetic(Settings):
    """Users who like one genre best and pick its films by Zipf's law; how much they watch is log-normal.

    `interactions` is about how many there are in all: at least 3 are wanted of each user, items do not repeat, and a
    user whose genres run out has fewer. Ratings are 1 to 5, higher in the favourite genre. Same settings, same data.
    """

    users: int = 200
    items: int = 300
    interactions: int = 4000
    genres: int = 8
    seed: int = 0

    def load(self) -> Dataset:
        """Draw the data."""
        if self.path is not None:
            raise FedrecError(f"dataset.path={self.path}: dataset=synthetic is drawn, not read; unset dataset.path")
        if min(self.users, self.genres, self.interactions) < 1 or self.items < self.genres:
            sizes = f"{self.users} users, {self.items} items, {self.interactions} interactions, {self.genres} genres"
            raise FedrecError(f"synthetic of {sizes}: at least 1 of each is expected, and no more genres than items")
        rng = np.random.default_rng(self.seed)
        genre = rng.integers(self.genres, size=self.items)
        genre[: self.genres] = np.arange(self.genres)
        plan = Plan("synthetic", _catalogue(genre, self.genres), synthetic=True)
        return assemble(self._rows(rng, genre), self, plan)

    def _rows(self, rng: np.random.Generator, genre: NDArray[np.int64]) -> Rows:
        mean = np.log(self.interactions / self.users) - ACTIVITY_SIGMA**2 / 2
        count = np.maximum(3, np.rint(rng.lognormal(mean, ACTIVITY_SIGMA, self.users))).astype(np.int64)
        user = np.repeat(np.arange(self.users), SPARE_DRAWS * count)
        favourite = rng.integers(self.genres, size=self.users)[user]
        drawn = np.where(rng.random(len(user)) < FAVOURITE_SHARE, favourite, rng.integers(self.genres, size=len(user)))
        item = _zipf(rng, drawn, genre)
        _, kept = np.unique(user * self.items + item, return_index=True)
        kept = _at_most(np.sort(kept), user, count)
        liked = (genre[item] == favourite) + 0.0
        value = np.clip(np.rint(3 + liked + rng.normal(0, 0.8, len(user))), 1, 5)
        time = FIRST_SECOND + np.rint(np.cumsum(rng.exponential(GAP_SECONDS, len(user))))
        names = tuple(str(n) for n in range(self.users)), tuple(str(n) for n in range(self.items))
        return Rows(
            user=Tokens(user[kept], names[0]),
            item=Tokens(item[kept], names[1]),
            time=time[kept],
            value=value[kept],
            place=lambda row: f"synthetic: row {row + 1}",
        )


def _at_most(kept: NDArray[np.int64], user: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first count[u] of each user's kept draws."""
    of = user[kept]
    first = np.searchsorted(of, np.arange(len(count)))
    return kept[np.arange(len(kept)) - first[of] < count[of]]


def _zipf(rng: np.random.Generator, drawn: NDArray[np.int64], genre: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw one item of each drawn genre, its chance proportional to (1 + rank in the genre) ** -ZIPF_EXPONENT."""
    item = np.zeros(len(drawn), np.int64)
    for number in range(int(genre.max()) + 1):
        members, at = np.flatnonzero(genre == number), np.flatnonzero(drawn == number)
        weight = np.cumsum((1.0 + np.arange(len(members))) ** -ZIPF_EXPONENT)
        item[at] = members[np.searchsorted(weight, rng.random(len(at)) * weight[-1], side="right")]
    return item


def _catalogue(genre: NDArray[np.int64], genres: int) -> Catalogue:
    items = len(genre)
    one_hot = np.eye(genres, dtype=np.float32)[genre]
    names = (*(f"genre:{n}" for n in range(genres)), "position")
    ids = np.array([str(n) for n in range(items)])
    titles = np.array([f"Item {n}" for n in range(items)])
    return Catalogue(ids, titles, np.concatenate([one_hot, position(items)], axis=1), names, "item file")
