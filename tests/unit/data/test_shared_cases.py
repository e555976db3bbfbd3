"""Files that people may bring, each with the right outcome beside it: run where FEDREC_SHARED has them."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.cli.data import named
from fedrec.cli.main import main
from fedrec.data.clock import Clock
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from tests.conftest import shared_root
from tests.support.tiny import interactions_of

LAST = {"u0": "i4", "u1": "i2", "u2": "i6", "u3": "i8"}
READ = {
    "before-1970": 24, "big-ids": 24, "bom-crlf-blank": 24, "column-with-colon": 24, "gz": 24, "index-column": 24,
    "iso-times": 20, "jsonl": 24, "leading-zeros": 24, "ms-times": 24, "numeric-header": 24, "path-home": 24,
    "path-unicode": 24, "path-with-blank": 24, "pq-dictionary": 24, "pq-folder": 24, "pq-list": 8, "pq-ns": 24,
    "pq-tz": 24, "pq-uint64": 18, "quoted-newline": 24, "signed-hash-ids": 24, "unicode": 24, "utf16": 24,
}  # fmt: skip
SETTINGS = {  # what each refusal names, followed
    "backslash-quotes": ("log.csv:2", ["dataset.escape=backslash"]),
    "tsv-bare-quote": ("log.tsv:6", ["dataset.quote=none"]),
    "id-none": ("log.csv:2", ["dataset.ids=text"]),
    "no-header": ("log.tsv:1", ["dataset.header=false", *(f"dataset.columns.{role}={number}" for role, number in
                                                        (("user", 0), ("item", 1), ("value", 2), ("time", 3)))]),
}  # fmt: skip
REFUSED = {
    "float-ids": "log.csv:5: blank item",
    "rating-nan": "log.csv:9: rating 'NaN'",
    "trailing-comma": "log.csv:2: 4 fields; 3 are expected",
    "pq-bool": "row 1: time",
    "pq-empty": "at least one row is expected",
    "pq-null-int": "row 6: blank user",
    "pq-truncated": "not a complete Parquet file",
}
# What `fedrec data check` says of files that are read and mean less than they seem, each with the status it ends with.
TIED = "24 of 24 rows share their time with another row of the same user, so that the file's order decides what is held"
TOLD = {
    "excel-times": (None, [TIED, "by file order: no user's times tell", "times with an exponent (1.37E+09)"]),
    "same-time": (None, [TIED, "dataset.order=random draws", "by file order: no user's times tell"]),
    "negative-ratings": (None, ["and all count as likes: 2 of 4 held-out items are rated below 0, 1 at 0",
                                "dataset.threshold=1 keeps"]),
    "repeat-pairs": (2, ["6 of 6 users end with one", "repeats of a pair (first kept): 42", "no rivals"]),
    "re-rating": (2, ["1 pair of user and item with different values: the first one counts", "dataset.repeats=last"]),
    "events": (None, ["column 'event' (3 values: view, addtocart, transaction) is not read: all rows count alike",
                      "dataset.columns.event=event dataset.events=transaction"]),
    "one-each": (2, ["none of the 12 users to evaluate has an item held out"]),
    "one-user": (2, ["there is one user, whose held-out item has no rivals", "one user"]),
    "inter-space": (2, ["log.inter:1: one column", "looks separated by ' ', .inter files are by tabs",
                        "dataset.separator=space"]),
    "inter-item-twice": (2, ["x.item:11: item_id 'i3' stands twice"]),
    "inter-genres": (None, ["catalogue: from the item file, 3 features (release_year, class)"]),
}  # fmt: skip
FOLLOWED = {  # what is said, followed: settings, and the rows that are then read
    "negative-ratings": (["dataset.threshold=1"], 10),
    "inter-space": (["dataset.separator=space"], 24),
    "events": (["dataset.columns.event=event", "dataset.events=transaction"], 8),
    "same-time": (["dataset.order=random"], 24),
    "re-rating": (["dataset.repeats=last"], 6),
}


def enter(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Go into the folder of a case and return the words of its command."""
    root = shared_root()
    if root is None or not (root / "cases" / name).is_dir():
        pytest.skip(f"needs shared cases: {name} under FEDREC_SHARED")
    folder = root / "cases" / name
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    line = next(one for one in (folder / "README").read_text().splitlines() if one.startswith("Run: "))
    return shlex.split(line.partition("data check ")[2])


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """`case(name, more settings)` reads a case as its README runs it: rows, last items and clock."""

    def run(name: str, *more: str) -> dict[str, object]:
        typed = enter(name, monkeypatch)
        settings = [one for text in typed for one in named(text)]
        data = load([*settings, *more]).experiment.dataset.load()
        table = interactions_of(data)
        last = {str(table.user_ids[user]): str(data.catalogue.ids[item])
                for user, item in zip(table.user, table.item, strict=True)}  # fmt: skip
        found = {"rows": len(table), "users": table.users, "items": len(data.catalogue)}
        return {**found, "last": last, "clock": data.clock}

    return run


@pytest.mark.parametrize("name", READ)
def test_a_valid_case_is_read(case: Callable[..., dict[str, object]], name: str) -> None:
    found = case(name)
    assert found["rows"] == READ[name]
    last = found["last"]
    assert isinstance(last, dict) and isinstance(found["clock"], Clock)
    if name == "iso-times":
        assert last == {"u0": "i3", "u1": "i5", "u2": "i7", "u3": "i5"}
        assert found["clock"].per_second
    elif set(last) == set(LAST) and name not in ("leading-zeros", "pq-folder"):
        assert last == LAST
    if name in ("big-ids", "leading-zeros", "signed-hash-ids", "pq-uint64"):
        assert (found["users"], found["items"]) == (4, 9)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_case_that_needs_a_setting_names_it(case: Callable[..., dict[str, object]], name: str) -> None:
    place, settings = SETTINGS[name]
    with pytest.raises(FedrecError) as error:
        case(name)
    assert str(error.value).startswith(f"{place}:") and settings[0] in str(error.value)
    assert case(name, *settings)["rows"] == 24


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_that_can_not_be_meant_is_refused(case: Callable[..., dict[str, object]], name: str) -> None:
    with pytest.raises(FedrecError) as error:
        case(name)
    assert REFUSED[name] in str(error.value)


@pytest.mark.parametrize("name", TOLD)
def test_what_makes_figures_mean_less_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, (status, told) = enter(name, monkeypatch), TOLD[name]
    if status is None:
        main(["data", "check", *typed])
    else:
        with pytest.raises(SystemExit) as ended:
            main(["data", "check", *typed])
        assert ended.value.code == status
    said = "".join(capsys.readouterr())
    assert [text for text in told if text not in said] == []
    if name == "inter-space":
        assert "Did you mean" not in said
    if name in ("excel-times", "same-time"):
        assert "test = last in time" not in said


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_said_can_be_followed(case: Callable[..., dict[str, object]], name: str) -> None:
    settings, count = FOLLOWED[name]
    assert case(name, *settings)["rows"] == count


@pytest.mark.parametrize("name", ["one-each", "one-user"])
def test_nothing_is_charged_where_nothing_could_be_measured(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    enter(name, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        asked = ["dataset=csv", "dataset.path=log.csv", "model=popularity", "privacy=user", f"output={tmp_path}"]
        main(["simulate", *asked])
    said = "".join(capsys.readouterr())
    assert ended.value.code == 2 and "Traceback" not in said and "sampled" not in said
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_target_that_was_known_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed = enter("repeat-pairs", monkeypatch)
    main(["data", "check", *typed, "dataset.repeats=all"])
    assert "6 of 6 held-out items were used before by the same user" in capsys.readouterr().out


def test_every_case_is_tried() -> None:
    root = shared_root()
    if root is None:
        pytest.skip("needs shared cases under FEDREC_SHARED")
    there = {folder.name for folder in (root / "cases").iterdir() if folder.is_dir()}
    assert there == READ.keys() | SETTINGS.keys() | REFUSED.keys() | TOLD.keys()
