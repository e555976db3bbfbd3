"""Splits: which rows are held out."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.datasets.movielens import MovieLens1M, MovieLens100K
from fedrec.data.interactions import Interactions
from fedrec.data.splits import hold_out, leave_last_out
from fedrec.errors import FedrecError
from tests.support.data_layouts import write_ml_1m, write_ml_100k
from tests.support.tiny import interactions_of

Shared = Callable[[str], Path]


def interactions(counts: list[int]) -> Interactions:
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    item = np.arange(len(user), dtype=np.int32)
    names = np.array([str(n) for n in range(len(counts))])
    return Interactions(user, item, item.astype(np.int64), item.astype(np.float32), names, max(len(item), 1))


def test_leave_last_out_by_hand() -> None:
    devices = leave_last_out(interactions([4, 2, 1, 0]))
    shown = [(d.history.tolist(), d.validation.tolist(), d.test.tolist()) for d in devices]
    assert shown == [([0, 1], [2], [3]), ([], [4], [5]), ([6], [], []), ([], [], [])]
    assert devices[0].test_values.tolist() == [3.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_every_row_is_in_one_part_and_the_test_is_the_last(counts: list[int]) -> None:
    table = interactions(counts)
    devices = leave_last_out(table)
    parts = [np.concatenate([d.history, d.validation, d.test]) for d in devices]
    assert np.array_equal(np.concatenate(parts), table.item)
    for count, device in zip(counts, devices, strict=True):
        assert (len(device.validation), len(device.test)) == (int(count >= 2), int(count >= 2))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_hold_out_keeps_the_order_of_the_rest(counts: list[int], chance: "np.random.Generator") -> None:
    table = interactions(counts)
    test = np.array([chance.random() < 0.4 for _ in range(len(table))], bool)
    for user, device in enumerate(hold_out(table, test)):
        own = table.user == user
        assert device.known.tolist() == table.item[own & ~test].tolist()
        assert device.test.tolist() == table.item[own & test].tolist()
        assert len(device.validation) == int((own & ~test).any() and own.sum() >= 2)


def write_ncf(folder: Path, negatives: int = 99) -> Path:
    folder.mkdir()
    (folder / "item_index.csv").write_text("ncf_item,movie_id\n" + "".join(f"{n},{200 - n}\n" for n in range(110)))
    (folder / "ml-1m.test.rating").write_text("0\t1\t5\t20\n1\t3\t4\t10\n")
    rows = ["\t".join([pair, *(str(n) for n in range(5, 5 + negatives))]) for pair in ("(0,1)", "(1,3)")]
    (folder / "ml-1m.test.negative.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    return folder


def test_ncf_split_holds_out_the_published_item(tmp_path: Path) -> None:
    write_ml_1m(tmp_path / "ml-1m")
    write_ncf(tmp_path / "ml-1m-ncf")
    data = MovieLens1M(path=str(tmp_path), split="ncf").load()
    ids = data.catalogue.ids
    assert [ids[d.test].tolist() for d in data.devices] == [["199"], ["197"]]
    assert [ids[d.validation].tolist() for d in data.devices] == [["198"], ["196"]]
    assert ids[data.devices[0].candidates].tolist() == [str(200 - n) for n in range(5, 104)]
    assert data.split.startswith("ncf: test = NCF's published item")


def test_ncf_split_that_does_not_fit_is_refused_by_line(tmp_path: Path) -> None:
    write_ml_1m(tmp_path / "ml-1m")
    source = MovieLens1M(path=str(tmp_path), split="ncf")
    with pytest.raises(FedrecError, match=r"ml-1m-ncf: no such folder; dataset\.ncf_path"):
        source.load()
    folder = write_ncf(tmp_path / "ml-1m-ncf")
    for wrong, line in (
        ("0\t1\t5\t20\n1\t99\t4\t10\n", r"negative\.gz:2: negatives of \(1,3\); those of \(1,99\)"),
        ("0\t1\t5\t20\n2\t3\t4\t10\n", r"rating:2: user 1 is expected"),
        ("0\t1\t5\t20\n", "1 test pairs and 2 rows of negatives for 2 users"),
    ):
        (folder / "ml-1m.test.rating").write_text(wrong)
        with pytest.raises(FedrecError, match=line):
            source.load()
    whole = (folder / "ml-1m.test.negative.gz").read_bytes()
    (folder / "ml-1m.test.negative.gz").write_bytes(whole[:-12])
    with pytest.raises(FedrecError, match=r"negative\.gz: truncated or damaged"):
        source.load()
    with pytest.raises(FedrecError, match=r"dataset\.split=ncf is published for all ratings"):
        MovieLens1M(path=str(tmp_path), split="ncf", minimum=5).load()


def test_ncf_pair_that_is_not_among_the_ratings(tmp_path: Path) -> None:
    write_ml_1m(tmp_path / "ml-1m")
    folder = write_ncf(tmp_path / "ml-1m-ncf")
    (folder / "ml-1m.test.rating").write_text("0\t1\t5\t20\n1\t7\t4\t10\n")
    path = folder / "ml-1m.test.negative.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"(1,3)", b"(1,7)")))
    with pytest.raises(FedrecError, match=r"test\.rating:2: this pair is not in the source"):
        MovieLens1M(path=str(tmp_path), split="ncf").load()


def test_publisher_split_of_ml_100k(tmp_path: Path) -> None:
    folder = write_ml_100k(tmp_path / "ml-100k")
    source = MovieLens100K(path=str(tmp_path), split="publisher")
    with pytest.raises(FedrecError, match=r"ua\.base: no such file.*leave-last-out"):
        source.load()
    lines = (folder / "u.data").read_text().splitlines()
    (folder / "ua.test").write_text("\n".join(lines[:2]) + "\n")
    (folder / "ua.base").write_text("\n".join(lines[2:]) + "\n")
    data = source.load()
    assert [len(d.test) for d in data.devices] == [2, 0]
    assert data.split.startswith("publisher: test = ua.test")
    (folder / "ua.base").write_text("\n".join(lines[3:]) + "\n")
    with pytest.raises(FedrecError, match=r"ua\.base: with ua\.test it does not make up u\.data"):
        source.load()


def test_published_ncf_split_on_ml_1m(shared: Shared) -> None:
    source = MovieLens1M(path=str(shared("ml-1m.zip")), ncf_path=str(shared("ml-1m-ncf")), split="ncf")
    data = source.load()
    movie_of = dict(line.split(",") for line in (shared("ml-1m-ncf") / "item_index.csv").read_text().split()[1:])
    with gzip.open(shared("ml-1m-ncf") / "ml-1m.test.rating.gz", "rt") as file:
        published = [movie_of[line.split("\t")[1]] for line in file]
    devices = data.devices
    assert len(devices) == len(published) == 6040
    assert np.array_equal(devices.start[1:] - devices.test_from, np.ones(6040))
    assert data.catalogue.ids[devices.item[devices.test_from]].tolist() == published
    assert devices.candidates is not None and devices.candidates.shape == (6040, 99)
    last = leave_last_out(interactions_of(data))
    moved = int((last.item[last.test_from] != devices.item[devices.test_from]).sum())
    assert 0 < moved < 6040
