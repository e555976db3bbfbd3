"""Synthetic users by the million: small here, with the promises that hold at any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.data import hand_out
from fedrec.data import interactions as devices
from fedrec.data.datasets.synthetic import SyntheticLarge, ranks_of
from fedrec.data.interactions import DeviceTable, FlatInteractions, file_of, open_mmap, release_pages
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.federated.exchange import LocalTransport
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run

SMALL = SyntheticLarge(users=9000, items=800, per_user=20, tastes=4)


def drawn(folder: Path, source: SyntheticLarge = SMALL) -> DeviceTable:
    return replace(source, path=str(folder)).load().devices


def test_histories_are_of_the_wanted_size_and_no_item_stands_twice(tmp_path: Path) -> None:
    table = drawn(tmp_path / "data")
    sizes = np.diff(table.start)
    assert len(table) == 9000 and 0.95 < sizes.mean() / 20 < 1.05 and sizes.min() >= 3 and sizes.max() <= 100
    key = np.repeat(np.arange(9000), sizes) * 800 + table.item
    assert len(np.unique(key)) == len(key) and table.item.min() >= 0 and table.item.max() < 800
    assert np.array_equal(table.test_from, table.start[1:] - 1) and np.array_equal(
        table.validation_from, table.start[1:] - 2
    )


def test_what_is_held_out_is_like_the_rest(tmp_path: Path) -> None:
    """Liked by all or by one taste in the same shares: the last place in time means nothing."""
    table = drawn(tmp_path / "data")
    bytes_in_flight = table.item[table.test_from] % 2
    assert abs(bytes_in_flight.mean() - (table.item % 2).mean()) < 0.03
    popular = table.item[table.item % 2 == 0]
    assert (popular < 80).mean() > 0.4  # a tenth of the items, by Zipf's law with exponent 3/4 more than half


def test_the_same_settings_are_the_same_data_made_once(tmp_path: Path) -> None:
    first, again = drawn(tmp_path / "one"), drawn(tmp_path / "two")
    assert np.array_equal(first.item, again.item) and np.array_equal(first.start, again.start)
    made = (tmp_path / "one" / "item").stat().st_mtime_ns
    drawn(tmp_path / "one")
    assert (tmp_path / "one" / "item").stat().st_mtime_ns == made
    with pytest.raises(FedrecError, match="other settings"):
        drawn(tmp_path / "one", replace(SMALL, seed=1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"items": 700}, "40 items for each"),
        ({"threshold": 4.0}, "no ratings"),
        ({"per_user": 2000, "items": 10**6}, "1582"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(FedrecError, match=says):
        replace(SMALL, **wrong).load()  # type: ignore[arg-type]


def test_nothing_of_an_interaction_is_held_but_its_item(tmp_path: Path) -> None:
    dataset = replace(SMALL, path=str(tmp_path / "data")).load()
    table = dataset.devices
    assert file_of(table.item) is not None and file_of(table.start) is not None
    assert isinstance(dataset.interactions, FlatInteractions) and dataset.interactions.item is table.item
    assert table.value.strides == (0,) and table[3].values.tolist() == [1.0] * len(table[3].history)
    assert sum(file.stat().st_size for file in (tmp_path / "data").iterdir()) < 4 * len(table.item) + 25 * 9000
    with pytest.raises(FedrecError, match="no times"):
        hand_out(dataset, 2, tmp_path / "out")


def test_pages_that_are_let_go_are_read_again_and_keep_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(100_000, dtype="<i4").tofile(path)
    read, written = open_mmap(path, "<i4"), np.memmap(path, "<i4", mode="r+")
    written[7] = -1
    release_pages(read, written, written[5:], np.arange(3))
    assert read[7] == written[7] == -1 and read.sum() == np.arange(100_000, dtype=np.int64).sum() - 8
    (tmp_path / "empty").touch()
    assert len(open_mmap(tmp_path / "empty", "<i4")) == 0 and file_of(np.arange(3)) is None


def test_ranks_fill_a_catalogue_that_is_barely_large_enough() -> None:
    ranks = ranks_of(np.array([10, 9, 1]), 10, np.random.default_rng(0))
    assert ranks[:10].tolist() == list(range(10)) and len(set(ranks[10:19].tolist())) == 9 and ranks.max() < 10


def test_a_run_on_them_evaluates_the_sample_asked_for(tmp_path: Path) -> None:
    overrides = ["dataset=synthetic-large", "dataset.users=3000", "dataset.items=800", "dataset.per_user=20"]
    overrides += ["model=mf", "model.dim=4", "privacy=none", "cohort.size=50", "rounds=2", "evaluation.users=40"]
    overrides += ["evaluation.baselines=[]", f"dataset.path={tmp_path / 'data'}", f"output={tmp_path}", "name=run"]
    settings, folder = new_run(load(overrides))
    values = Simulation(settings, folder, lambda: LocalTransport(2), Progress()).simulate()
    assert values["dataset"]["users"] == 3000 and values["rounds"] == 2 and 0 < values["test"]["full"]["hr@10"] < 1


def test_items_are_counted_as_going_through_every_history_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = drawn(tmp_path / "data")
    known = np.bincount(table.refitted().train_rows()[1], minlength=800)
    monkeypatch.setattr(devices, "BLOCK", 1000)
    np.testing.assert_array_equal(table.known_counts(), known)
