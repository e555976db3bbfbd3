"""The page of a data check: what is drawn of a data set, with the same figures as a table."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.main import main
from fedrec.data.dataset import Dataset
from fedrec.data.datasets.csv import Delimited
from fedrec.report import data_page, plot
from fedrec.report.data_page import Counted, count_all, histogram, tenths


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "<b>log.csv"
    rows = (f"u{n % 11},i{n * 7 % 40},{1_700_000_000 + 86_400 * n},{n % 5 + 1}" for n in range(200))
    path.write_text("\n".join(["user,item,time,rating", *rows]))
    return path


def loaded(path: Path, value: str | None = "rating", time: str | None = "time") -> Dataset:
    return Delimited(path=str(path), columns={"user": "user", "item": "item", "time": time, "value": value}).load()


def test_what_is_counted_is_all_there_is(log: Path) -> None:
    data = loaded(log)
    found = {one.title: one for one in count_all(data)}
    assert list(found) == ["Histories", "Items", "Ratings", "Time"]
    assert sum(found["Histories"].counts) == 11 and sum(found["Ratings"].counts) == 200
    assert sum(found["Items"].counts) == sum(found["Time"].counts) == len(data.interactions)
    assert (
        found["Time"].labels[0] == "2023-11-14" and list(found["Items"].counts) == sorted(found["Items"].counts)[::-1]
    )
    assert [one.title for one in count_all(loaded(log, None, None))] == ["Histories", "Items"]


@pytest.mark.parametrize("lengths", [[3], [3, 3, 3], [1, 1, 2], [1, 5, 900], list(range(1, 400))])
def test_every_history_falls_into_one_span(lengths: list[int]) -> None:
    found = histogram(np.array(lengths), "", "", "")
    assert sum(found.counts) == len(lengths) and len(found.labels) == len(found.counts) <= data_page.BARS
    ends = [int(label.replace(",", "").split(" to ")[side]) for label in found.labels for side in (0, -1)]
    assert ends == sorted(ends) and ends[0] <= min(lengths) and ends[-1] >= max(lengths)


def test_few_items_make_few_parts() -> None:
    assert tenths(np.array([1, 5, 2])).counts == [5, 2, 1]
    assert sum(tenths(np.arange(101)).counts) == 5050 and len(tenths(np.arange(101)).counts) == 10


@pytest.mark.parametrize("drawn", [True, False])
def test_a_page_stands_alone_and_is_its_owners(
    drawn: bool, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if drawn:
        pytest.importorskip("matplotlib", reason="needs matplotlib: pictures")
    monkeypatch.setattr(plot, "installed", lambda: drawn)
    page = tmp_path / "check.html"
    main(["data", "check", str(log), "--page", str(page)])
    text = page.read_text()
    assert text.count("<figure>") == (4 if drawn else 0) and text.count("<table>") == 4
    assert "&lt;b&gt;log" in text and "<b>log" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert oct(page.stat().st_mode & 0o777) == "0o600"
    said = capsys.readouterr().out
    assert all(line.removeprefix("warning: ")[1:40] in text for line in said.splitlines() if line.startswith("warning"))


def test_a_page_in_no_folder_is_refused(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "check", str(log), "--page", str(tmp_path / "none" / "check.html")])
    assert "none: no such folder; --page FILE.html" in capsys.readouterr().err


def test_a_picture_is_described_by_its_highest_bar() -> None:
    found = Counted("Ratings", "rating", "rows as read", ["1", "2"], [3, 12_345])
    assert data_page.describe(found) == "Ratings: rows as read by rating; most, 12,345, at 2"
    assert found.rows == [("1", "3"), ("2", "12,345")]
