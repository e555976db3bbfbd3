"""Whose ledger a data set belongs to: its people are known again in another file, order or selection of columns.

A ledger keeps a sketch of each version of the data that was charged to it: the smallest of the keyed hashes of its
users, and of its pairs of user and item (Broder, "On the resemblance and containment of documents", 1997; Beyer et al.,
"On synopses for distinct-value estimation under multiset operations", 2007). The key lies beside the ledgers: who is
given a ledger without it can't look anybody up.
"""

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.data.dataset import Dataset
from fedrec.data.interactions import Interactions
from fedrec.errors import FedrecError, RefusedError
from fedrec.paths import ledger_path, populations, state_dir

Hashes = NDArray[np.uint64]
_last: list[tuple[Interactions, str, "People"]] = []  # a run asks for the same people when it is validated and begun
KEPT = 1024  # hashes of a sketch
NEAR = 0.25  # share of the smaller one's users or pairs from which on two data sets may be of the same people
RUNNING = re.compile(r"\D{0,8}(\d{1,15})")  # an id that may be a running number, and no name


@dataclass(frozen=True, slots=True)
class People:
    """A sketch of whose data a data set holds, under the key named `key`.

    `digest` is that of the set of all users; `users` and `pairs` are the smallest hashes, ascending, of so many in all
    (`user_count`, `pair_count`). `named` says that ids tell people apart beyond this data set: running numbers do not.
    """

    key: str
    digest: str
    named: bool
    user_count: int
    pair_count: int
    users: Hashes
    pairs: Hashes

    def to_bytes(self) -> bytes:
        """Return the sketch as a ledger keeps it."""
        head = f"{self.key} {self.digest} {int(self.named)} {self.user_count} {self.pair_count} {len(self.users)}\n"
        return head.encode() + np.concatenate([self.users, self.pairs]).astype("<u8").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Return the sketch that `to_bytes` wrote."""
        head, _, body = content.partition(b"\n")
        key, digest, named, users, pairs, split = head.decode().split()
        hashes = np.frombuffer(body, "<u8").astype(np.uint64)
        kept = hashes[: int(split)], hashes[int(split) :]
        return cls(key, digest, named == "1", int(users), int(pairs), *kept)

    def same(self, other: "People") -> bool:
        """Say whether these are the same people: the same set of names, or of numbers with much the same items."""
        return self.digest == other.digest and (self.named or self.overlap(other) >= NEAR)

    def overlap(self, other: "People") -> float:
        """Return about which share of the smaller data set's users, or pairs, the larger one holds: the larger share.

        Users who have running numbers are known by what they chose alone.
        """
        pairs = _contained(self.pairs, other.pairs, self.pair_count, other.pair_count)
        users = _contained(self.users, other.users, self.user_count, other.user_count)
        return max(pairs, users) if self.named and other.named else pairs


def sketch(dataset: Dataset) -> People | None:
    """Return the sketch of a data set's people; None where none are here: drawn users, and data that devices keep."""
    table = dataset.interactions
    if dataset.synthetic or not isinstance(table, Interactions) or not len(table):
        return None
    key = _key()
    if _last and _last[0][0] is table and _last[0][1] == _key_name(key):
        return _last[0][2]
    names = [str(name) for name in table.user_ids]
    users, items = _hashed(key, names), _hashed(key, (str(item) for item in dataset.catalogue.ids))
    pairs = _distinct(_mixed(users[table.user] ^ _mixed(items[table.item])))
    digest = hashlib.blake2b("\n".join(sorted(names)).encode(), key=key, digest_size=16).hexdigest()
    distinct = _distinct(users)
    counts = len(distinct), len(pairs)
    people = People(_key_name(key), digest, tell_apart(names), *counts, distinct[:KEPT].copy(), pairs[:KEPT].copy())
    _last[:] = [(table, people.key, people)]
    return people


def tell_apart(names: list[str]) -> bool:
    """Say whether ids are more than running numbers: fewer than half are numbers up to ten times their count."""
    found = [RUNNING.fullmatch(name) for name in names]
    numbers = sum(one is not None and int(one[1]) <= 10 * len(names) for one in found)
    return 2 * numbers < len(names)


def find_population(dataset: Dataset, named: str | None) -> str:
    """Return the name of the population whose ledger a data set is charged to.

    It is `named` where that is set; else that of the same rows, or of the same people in other rows. Raises
    `RefusedError` where people may be those of another population: it is for the user to say.
    """
    if named:
        return named
    known = populations()
    if dataset.population in known:
        return dataset.population
    people = sketch(dataset) if known else None
    if people is None:
        return dataset.population
    versions = {population: _versions(population) for population in known}
    same = [population for population, kept in versions.items() if any(people.same(one) for one in kept or ())]
    if len(same) == 1:
        return same[0]
    for population, reason in _doubts(dataset, people, same, versions):
        raise RefusedError(
            f"{dataset.name}: {reason}. If they are the same people, set dataset.population={_quoted(population)}: "
            f"what was spent on them counts. If they are others, set dataset.population={_quoted(dataset.population)}"
        )
    return dataset.population


def _doubts(
    dataset: Dataset, people: People, same: list[str], versions: dict[str, list[People] | None]
) -> Iterator[tuple[str, str]]:
    """Yield (population, why) where a data set may be of the people of a population that it does not name."""
    if same:
        yield same[0], f"its users are those of {len(same)} populations: {', '.join(same)}"
    for population in versions:
        kept = versions[population] or []
        share = max((people.overlap(one) for one in kept if one.key == people.key), default=0.0)
        if share >= NEAR:
            yield population, f"about {100 * share:.0f} % of it are in the data of the population {population}"
        elif any(one.key != people.key for one in kept):
            lost = f"{key_path()} is not the key that its people were hashed with"
            yield population, f"nobody knows whether it is of the people of {population}: {lost}"
        elif versions[population] is None and re.fullmatch(rf"{re.escape(dataset.name)}-[0-9a-f]{{12}}", population):
            older = "an older fedrec, which kept no sketch of its people"
            yield population, f"the ledger {population} has its name and is of {older}"


def _versions(population: str) -> list[People] | None:
    """Return the sketches of a population, none where devices keep its data; None where an older fedrec charged it."""
    found = read_people(ledger_path(population))
    try:
        return [People.from_bytes(content) for content in found if content] if found else None
    except ValueError as error:
        raise FedrecError(f"the ledger {ledger_path(population)} holds a sketch that can't be read: {error}") from error


def read_people(path: Path) -> list[bytes]:
    """Return the sketches that a ledger file holds; none where an older fedrec made it."""
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
        try:
            there = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'people'").fetchone()
            return [bytes(row[0]) for row in database.execute("SELECT sketch FROM people")] if there else []
        finally:
            database.close()
    except sqlite3.Error as error:
        raise FedrecError(
            f"the ledger {path} can't be read ({error}), so that nobody knows whether its people are asked again: put "
            "back its newest copy, or name the population with dataset.population="
        ) from error


def _contained(one: Hashes, other: Hashes, count: int, others: int) -> float:
    """Return about which share of the smaller set the larger one holds, from their smallest hashes and their sizes."""
    union = np.union1d(one, other)[: min(KEPT, count + others)]
    if len(union) == 0 or not min(count, others):
        return 0.0
    both = np.isin(union, one) & np.isin(union, other)
    resemblance = float(both.mean())
    return min(1.0, resemblance / (1 + resemblance) * (count + others) / min(count, others))


def _hashed(key: bytes, names: Iterable[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _distinct(words: Hashes) -> Hashes:
    """Return the words once each, ascending; `np.unique` takes ten times as long for a million of them."""
    ordered = np.sort(words)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]


def _mixed(words: Hashes) -> Hashes:
    """Return the words, each mixed by a bijection (Steele, Lea & Flood, "Fast splittable ... generators", 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def key_path() -> Path:
    """Return the file of the key of this machine's sketches."""
    return state_dir() / "people.key"


def _key() -> bytes:
    """Return the key, drawn when it is first asked for."""
    path = key_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(32))
        with suppress(FileExistsError):  # another process was first: its key is everybody's
            path.hardlink_to(fresh)
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != 32:
        raise FedrecError(f"{path} is damaged: 32 bytes are expected. Put back its copy")
    return key


def _key_name(key: bytes) -> str:
    return hashlib.blake2b(b"name", key=key, digest_size=4).hexdigest()


def _quoted(population: str) -> str:
    return population if re.fullmatch(r"[\w.@+-]+", population) else f"'{population}'"
