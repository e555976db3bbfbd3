"""Seeded generators with long-tailed users and items: small in memory, or by the million in memory-mapped files."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.data.catalogue import Catalogue, position
from fedrec.data.dataset import Dataset
from fedrec.data.download import cache
from fedrec.data.interactions import DeviceTable, FlatInteractions, open_mmap
from fedrec.data.io.table import Tokens
from fedrec.data.prepare import PrepareOptions, prepare_dataset
from fedrec.data.sources import Rows, SourceOptions
from fedrec.errors import FedrecError

FAVOURITE_SHARE = 0.7  # of a user's draws that fall on the genre it likes best
ZIPF_EXPONENT = 0.9
ACTIVITY_SIGMA = 0.8  # of the log-normal number of interactions per user
FIRST_SECOND = 1_600_000_000
SPARE_DRAWS = 3  # draws per interaction wanted, because repeats are left out
GAP_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Synthetic(SourceOptions):
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
        plan = PrepareOptions("synthetic", _catalogue(genre, self.genres), synthetic=True)
        return prepare_dataset(self._rows(rng, genre), self, plan)

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
        time = FIRST_SECOND + np.rint(np.cumsum(rng.exponential(GAP_SECONDS, len(user)))).astype(np.int64)
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


CHUNK = 1 << 13  # users drawn at a time
SIGMA, MOST = 0.5, 5  # of the log-normal number of interactions, and its bound, times the mean
STRIDE = 7919  # a prime above every history's length: steps of it go through a history in an order of no meaning
FILES = {"item": "<i4", "start": "<i8", "validation_from": "<i8", "test_from": "<i8"}


@dataclass(frozen=True, kw_only=True)
class SyntheticLarge(SourceOptions):
    """Half of a user's items are what all like, half what those of its taste like, both by Zipf's law (exponent 3/4).

    A user has `per_user` interactions on average (log-normal), no item twice. Same settings, same data. The files are
    made once, in the folder `path`, by default one of the data folder's (FEDREC_DATA): 4 bytes an interaction.
    """

    users: int = 1_000_000
    items: int = 100_000
    per_user: int = 100
    tastes: int = 64
    seed: int = 0

    def load(self) -> Dataset:
        """Draw the data unless they are there, and map them."""
        self._check()
        folder = Path(self.path) if self.path else cache() / f"synthetic-large-{self._digest()}"
        if not (folder / "settings.json").exists():
            self._write(folder)
        elif (folder / "settings.json").read_text() != self._settings():
            raise FedrecError(f"dataset.path={folder} holds data of other settings: name another folder")
        item, start, validation_from, test_from = (open_mmap(folder / name, kind) for name, kind in FILES.items())
        one = np.broadcast_to(np.float32(1), item.shape)  # implicit: no array of ones
        return Dataset(
            name="synthetic-large",
            population=self.population or f"synthetic-large-{self._digest()}",
            interactions=FlatInteractions(start, item, self.items),
            catalogue=self._catalogue(),
            devices=DeviceTable(start, validation_from, test_from, item, one, self.items),
            split="leave-last-out on the order that was drawn",
            synthetic=True,
        )

    def _check(self) -> None:
        if self.threshold is not None or self.minimum > 1:
            raise FedrecError("dataset=synthetic-large has no ratings and no small users: unset threshold and minimum")
        if min(self.users, self.tastes) < 1 or self.per_user < 3 or self.items < 8 * MOST * self.per_user:
            sizes = f"{self.users} users, {self.tastes} tastes, {self.per_user} per_user, {self.items} items"
            raise FedrecError(
                f"synthetic-large of {sizes}: at least 1 user and taste, 3 per_user and {8 * MOST} items for each of "
                "per_user are expected"
            )
        if MOST * self.per_user >= STRIDE:
            raise FedrecError(f"dataset.per_user={self.per_user}: at most {STRIDE // MOST - 1} expected")

    def _settings(self) -> str:
        names = ("users", "items", "per_user", "tastes", "seed")
        return json.dumps({name: getattr(self, name) for name in names})

    def _digest(self) -> str:
        return hashlib.sha256(self._settings().encode()).hexdigest()[:12]

    def _write(self, folder: Path) -> None:
        """Draw chunk by chunk into a folder that takes its name when it is complete."""
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        part.mkdir(parents=True)
        try:
            rng = np.random.default_rng(self.seed)
            mean = np.log(self.per_user) - SIGMA**2 / 2
            drawn = np.rint(rng.lognormal(mean, SIGMA, self.users)).astype(np.int64)
            start = np.concatenate([[0], np.cumsum(np.clip(drawn, 3, MOST * self.per_user))])
            for name, array in (("start", start), ("validation_from", start[1:] - 2), ("test_from", start[1:] - 1)):
                array.astype(FILES[name]).tofile(part / name)
            with (part / "item").open("wb") as file:
                for first in range(0, self.users, CHUNK):
                    sizes = np.diff(start[first : first + CHUNK + 1])
                    self._histories(sizes, np.random.default_rng((self.seed, first))).tofile(file)
            (part / "settings.json").write_text(self._settings())
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _histories(self, sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
        """Return the items of users with so many each, one user after the other."""
        halves = np.stack([sizes // 2, sizes - sizes // 2], axis=1).ravel()  # liked by all, by those of one taste
        ranks, half = ranks_of(halves, self.items // 2, rng), self.items // 2
        taste = rng.integers(self.tastes, size=len(sizes)) * (half // self.tastes)
        shift = np.stack([np.zeros_like(taste), taste], axis=1).ravel()
        odd = np.repeat(np.arange(len(halves)) & 1, halves)
        found = 2 * ((ranks + np.repeat(shift, halves)) % half) + odd
        first = np.cumsum(sizes) - sizes
        place = np.arange(len(found)) - np.repeat(first, sizes)
        turned = (place * STRIDE + np.repeat(rng.integers(0, sizes), sizes)) % np.repeat(sizes, sizes)
        out = np.empty(len(found), "<i4")
        out[np.repeat(first, sizes) + turned] = found
        return out

    def _catalogue(self) -> Catalogue:
        names = np.arange(self.items).astype(f"U{len(str(self.items))}")
        return Catalogue(names, names, position(self.items), ("position",), "item file")


def ranks_of(sizes: NDArray[np.int64], limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return, for each line of some size, that many different ranks below `limit`, ascending, likelier the lower.

    The ranks of a line lie in as many equally likely strata (p proportional to rank ** -3/4), moved up where two meet.
    """
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    size = np.repeat(sizes, sizes)
    rank = ((place + rng.random(len(place))) / size) ** 4 * limit
    line = np.repeat(np.arange(len(sizes)) * 2 * limit, sizes)
    lifted = np.maximum.accumulate(rank.astype(np.int64) - place + line) - line + place
    return np.minimum(lifted, limit - size + place)
