"""What was read from large files is kept: the same bytes and settings give the same data set without being read."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.main import main
from fedrec.data import cache
from fedrec.data.dataset import Dataset
from fedrec.data.datasets.csv import Delimited
from fedrec.data.stages import telling
from fedrec.errors import FedrecError
from tests.support.tiny import interactions_of


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is large enough to be kept, and a cache of its own."""
    monkeypatch.setattr(cache, "LEAST", 1)
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "log.csv"
    rows = (f"ü{n % 7},i{n * n % 11},{1_700_000_000 + n},{n % 5}" for n in range(60))
    path.write_text("\n".join(["user,item,time,stars", *rows]))
    return path


def source(path: Path, **options: str | None) -> Delimited:
    columns = {"user": "user", "item": "item", "time": "time", "value": options.pop("value", "stars")}
    return Delimited(path=str(path), columns=columns, **options)  # pyright: ignore[reportArgumentType]


def reads(path: Path, **options: str | None) -> tuple[Dataset, list[str]]:
    """Load a file, and say by which stages."""
    stages = dict[str, None]()
    with telling(lambda stage, done, total: stages.setdefault(stage)):
        data = source(path, **options).load()
    return data, list(stages)


@pytest.mark.parametrize("options", [{}, {"order": "random"}, {"value": None}, {"repeats": "all"}])
def test_the_second_start_gives_the_same_data_set_and_reads_no_row(log: Path, options: dict[str, str | None]) -> None:
    first, stages = reads(log, **dict(options))
    again, fewer = reads(log, **dict(options))
    assert "ordering" in stages and "reading" not in fewer and "ordering" not in fewer
    plain = Delimited._read(source(log, **dict(options)))  # pyright: ignore[reportPrivateUsage]
    for made in (first, again):
        for name in ("name", "population", "split", "repairs", "clock", "facts", "findings", "reading"):
            assert getattr(made, name) == getattr(plain, name), name
        for name in ("user", "item", "time", "value", "user_ids"):
            ours, theirs = (getattr(interactions_of(one), name) for one in (made, plain))
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist(), name
        for name in ("start", "validation_from", "test_from", "item", "value"):
            assert getattr(made.devices, name).tolist() == getattr(plain.devices, name).tolist(), name
        assert made.devices.repeats == plain.devices.repeats
        assert made.catalogue.ids.tolist() == plain.catalogue.ids.tolist()
        assert np.array_equal(made.catalogue.features, plain.catalogue.features)


def test_other_bytes_settings_or_names_are_read_anew(log: Path) -> None:
    reads(log)
    assert "ordering" in reads(log, order="file")[1]
    moved = log.with_name("further") / log.name
    moved.parent.mkdir()
    log.rename(moved)
    assert "ordering" not in reads(moved)[1]  # where it lies does not count
    moved.write_text(moved.read_text().replace("ü0", "ü9"))
    assert "ordering" in reads(moved)[1]
    assert len(cache.entries()) == 3


@pytest.mark.parametrize("fault", ["truncated", "no header", "other header", "missing"])
def test_a_damaged_entry_is_made_anew(log: Path, fault: str) -> None:
    whole = reads(log)[0]
    entry = cache.entries()[0].folder
    if fault == "truncated":
        (entry / "item").write_bytes((entry / "item").read_bytes()[:-1])
    elif fault == "missing":
        (entry / "start").unlink()
    else:
        (entry / cache.HEADER).write_text("" if fault == "no header" else json.dumps({"name": "x"}))
    again, stages = reads(log)
    assert "ordering" in stages and again.devices.item.tolist() == whole.devices.item.tolist()


def test_a_start_that_was_killed_leaves_nothing_that_is_believed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        reads(log)
    assert cache.entries() == [] and not list((log.parent / "cache" / "datasets").iterdir())


def test_the_cache_is_as_large_as_it_may_be(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads(log)
    size = cache.entries()[0].size
    monkeypatch.setenv("FEDREC_CACHE_GB", f"{2.5 * size / 2**30:.12f}")
    kept = cache.entries()[0].folder
    for order in ("file", "random"):
        reads(log, order=order)
    folders = [entry.folder for entry in cache.entries()]
    assert len(folders) == 2 and kept not in folders  # what was not used for longest goes
    monkeypatch.setenv("FEDREC_CACHE_GB", "0")
    assert "ordering" in reads(log, order="random")[1]
    monkeypatch.setenv("FEDREC_CACHE_GB", "much")
    with pytest.raises(FedrecError, match="FEDREC_CACHE_GB=much: a number of gigabytes"):
        reads(log)


def test_what_is_kept_is_shown_and_taken_out(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reads(log)
    main(["data", "cache"])
    assert "log: 60 interactions" not in (said := capsys.readouterr().out) and "log: " in said
    assert oct(cache.entries()[0].folder.stat().st_mode & 0o777) == "0o700"
    main(["data", "cache", "--clear", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["name"] == "log" and cache.entries() == []


def test_a_small_file_and_a_folder_that_can_not_be_written_are_read_all_the_same(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log.parent / "cache").write_text("a file where the cache would be")
    assert len(reads(log)[0].interactions)
    monkeypatch.setattr(cache, "LEAST", 1 << 20)
    monkeypatch.setenv("FEDREC_CACHE", str(log.parent / "other"))
    reads(log)
    assert not (log.parent / "other").exists()
