"""The pages of docs/results show what results/*.json holds, and every table says where it comes from."""

import json
import re
from typing import Any

import pytest

from simulations.results_pages import BLOCK, PAGES, RESULTS, format_cell, render

FILES = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
TABLES = [(file, name) for file, document in FILES.items() for name in document["tables"]]
SHOWN = [(found[2], found[3]) for page in sorted(PAGES.glob("*.md")) for found in BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_a_page_shows_what_the_json_holds(page: Any) -> None:
    assert render(page.read_text()) == page.read_text(), "python -m simulations.results_pages writes it anew"


def test_every_table_is_shown_once() -> None:
    assert sorted(SHOWN) == sorted(TABLES) and len(TABLES) > 20


@pytest.mark.parametrize(("file", "name"), TABLES)
def test_a_table_says_commit_date_command_and_machine(file: str, name: str) -> None:
    table = FILES[file]["tables"][name]
    assert table["commands"] and FILES[file]["machine"]
    assert table["recorded"]
    for entry in table["recorded"]:
        assert re.fullmatch(r"[0-9a-f]{7}", entry["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("popularity", "popularity"),
        ({"value": 0.107}, "0.1070"),
        ({"value": 0.5, "users": [0.4, 0.6], "mark": "bold"}, "**0.5000** (0.4000 to 0.6000)"),
        ({"value": 0.5, "users": [0.4, 0.6], "seed_deviation": 0.01}, "0.5000 (0.4000 to 0.6000; 0.0100)"),
        ({"value": 0.5, "digits": 2, "seeds": 0.01}, "0.50 +- 0.01"),
        ({"value": -0.0003, "users": [-0.0025, -0.0], "signed": True}, "-0.0003 (-0.0025 to -0.0000)"),
        ({"values": [0.14, 0.077], "digits": [2, 3]}, "0.14 / 0.077"),
    ],
)
def test_cells(cell: Any, text: str) -> None:
    assert format_cell(cell, 4) == text


def test_a_number_that_was_changed_by_hand_is_noticed() -> None:
    page = (PAGES / "ml_1m.md").read_text()
    block = next(BLOCK.finditer(page))
    changed = re.sub(r"0\.(\d)", lambda found: f"0.{9 - int(found[1])}", block[0], count=1)
    assert changed != block[0] and render(page.replace(block[0], changed)) == page
