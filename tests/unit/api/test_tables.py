"""Tables without pandas, the examples of docstrings, and the pictures of rounds."""

import doctest
import importlib
from importlib import util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrec.api import tables
from fedrec.api.tables import Table, draw_rounds, make_table, shown

MODULES = ("fedrec", "fedrec.api.runs", "fedrec.api.settings", "fedrec.api.studies", "fedrec.api.tables")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0


def test_a_table_is_pandas_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"round": [1, 2], "loss": [0.5, None]}
    assert isinstance(make_table(columns), pd.DataFrame)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    table = make_table(columns)
    assert isinstance(table, Table) and table.columns == ["round", "loss"] and len(table) == 2
    assert list(table)[1] == {"round": 2, "loss": None}
    with pytest.raises(KeyError, match=r"no column 'lss'.*'loss'"):
        table["lss"]
    assert util.find_spec("pandas") is not None


def test_a_table_shows_its_first_rows() -> None:
    table = Table({"round": range(1, 31), "<b>": [0.123456] * 30})
    lines = repr(table).splitlines()
    assert lines[0].split() == ["round", "<b>"] and lines[1].split() == ["1", "0.1235"]
    assert len(lines) == tables.SHOWN_ROWS + 2 and lines[-1] == "... 30 rows"
    html = table._repr_html_()
    assert "<th>&lt;b&gt;</th>" in html and html.count("<tr>") == tables.SHOWN_ROWS + 1


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (float("nan"), ""), (0.123456, "0.1235"), (12, "12"), ("a", "a")]
)
def test_cells_have_digits_that_mean_something(value: Any, text: str) -> None:
    assert shown(value) == text


def test_rounds_without_a_figure_have_no_panel() -> None:
    rounds = {"round": [1, 2], "validation": [None, None], "loss": [0.5, 0.4], "epsilon": [1.0, 2.0]}
    figure = draw_rounds(rounds, "a run").figure
    assert [axes.get_title() for axes in figure.axes] == ["mean training loss", "epsilon spent so far"]
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[0.5, 0.4], [1.0, 2.0]]
