"""The notebooks run from top to bottom, in small form, in a kernel of their own."""

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "first_run": {"DATASET": "synthetic", "EPSILON": 8, "LIKES": ["item 1"]},
    "privacy_accuracy": {"DATASET": "synthetic", "MODELS": ["popularity"], "EPSILONS": [8], "SEEDS": [0]},
    "own_model": {"DATA": {"dataset": "synthetic"}, "ROUNDS": 2},
}


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'fedrec[dev]'")
    return nbformat.read(path, as_version=4)


def test_every_notebook_has_its_small_form() -> None:
    assert [path.stem for path in BOOKS] == sorted(SMALL)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_lies_without_outputs_and_says_what_it_does(path: Path) -> None:
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'fedrec[dev]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'fedrec[dev]'")
    book = read(path)
    chosen = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    given = SMALL[path.stem]
    assert {line.partition(" = ")[0] for line in chosen.source.splitlines()} == set(given)
    chosen.source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    client.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    html = " ".join(str(output.data.get("text/html", "")) for output in shown if "data" in output)
    assert html.count("<progress") >= 1 and "<table" in html
    assert not [output for output in shown if output.output_type == "stream" and output.name == "stderr"]
    assert (tmp_path / "runs").is_dir()
