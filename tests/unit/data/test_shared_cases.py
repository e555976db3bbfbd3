"""Files that people may bring, each with the right outcome beside it: run where FEDREC_SHARED has them."""

import shlex
from collections.abc import Callable

import pytest

from fedrec.cli.data import named
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


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """`case(name, more settings)` reads a case as its README runs it: rows, last items and clock."""

    def run(name: str, *more: str) -> dict[str, object]:
        root = shared_root()
        if root is None or not (root / "cases" / name).is_dir():
            pytest.skip(f"needs shared cases: {name} under FEDREC_SHARED")
        folder = root / "cases" / name
        line = next(one for one in (folder / "README").read_text().splitlines() if one.startswith("Run: "))
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder))
        typed = shlex.split(line.partition("data check ")[2])
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
