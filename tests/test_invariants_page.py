"""The page of invariants names tests that exist, and whoever cites an invariant cites one that is on it."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "development" / "invariants.md").read_text()
ROWS = dict(re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", PAGE, re.MULTILINE))
CITED = re.compile(r"\binvariants? ((?:[MIPES]\d+)(?:(?:, | and | to )[MIPES]\d+)*)", re.IGNORECASE)


def sources() -> Iterator[Path]:
    return (path for room in ("fedrec", "tests", "simulations") for path in sorted((ROOT / room).rglob("*.py")))


def cited_in(text: str) -> set[str]:
    return {number for found in CITED.findall(text) for number in re.findall(r"[MIPES]\d+", found)}


def test_invariants_are_numbered_without_gaps() -> None:
    for kind, count in {"M": 18, "I": 25, "P": 29, "E": 3, "S": 1}.items():
        assert [number for number in ROWS if number[0] == kind] == [f"{kind}{n}" for n in range(1, count + 1)]


def test_every_test_that_the_page_names_exists() -> None:
    defined = {name for path in sources() for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)}
    named = {number: re.findall(r"`(test_\w+)`", row) for number, row in ROWS.items()}
    assert {name for names in named.values() for name in names} <= defined
    assert all(names for number, names in named.items() if number[0] in "MIES")


def test_every_invariant_that_is_cited_is_on_the_page() -> None:
    assert cited_in("Invariants I5, M6 and P2: as in invariant E9") == {"I5", "M6", "P2", "E9"}
    cited = {path: cited_in(path.read_text()) for path in sources() if path != Path(__file__)}
    assert not {path: numbers for path, numbers in cited.items() if numbers - ROWS.keys()}
