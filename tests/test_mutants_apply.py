"""Every planted fault still fits the tree, and names tests that are there."""

import json
from pathlib import Path

import pytest

from tests.mutants.run import ROOT, Mutant, apply, copied, mutants, read

MUTANTS = mutants()
KINDS = json.loads((Path(__file__).parent / "mutants" / "kinds.json").read_text())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("tree"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_and_names_its_tests(mutant: Mutant, tree: Path) -> None:
    assert apply(mutant, tree, "--check") == ""
    assert mutant.plants
    files = [argument for argument in mutant.tests if argument.startswith("tests/")]
    assert files and all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize(("kind", "cells"), KINDS.items())
def test_every_kind_of_fault_is_planted_in_every_mechanism(kind: str, cells: dict[str, list[str] | str]) -> None:
    """A cell names patches that plant the kind there, or says why it can't be planted."""
    mechanisms = {path.stem for path in (ROOT / "conf" / "privacy").glob("*.yaml")} - {"none"}
    assert cells.keys() == mechanisms
    for cell in cells.values():
        planted = cell if isinstance(cell, list) else []
        assert cell and set(planted) <= {mutant.name for mutant in MUTANTS}, kind


def test_a_patch_that_does_not_fit_is_noticed(tree: Path, tmp_path: Path) -> None:
    text = MUTANTS[0].path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("-") and not line.startswith("---"))
    (tmp_path / "broken.patch").write_text(text.replace(line, f"{line} and more"))
    assert "does not apply" in apply(read(tmp_path / "broken.patch"), tree, "--check")
    (tmp_path / "bare.patch").write_text(text.partition("\n")[2])
    with pytest.raises(ValueError, match="begins with"):
        read(tmp_path / "bare.patch")


def test_applying_changes_the_copy_alone(tmp_path: Path) -> None:
    mutant = MUTANTS[0]
    file = next(line for line in mutant.path.read_text().splitlines() if line.startswith("--- a/"))[6:]
    other = copied(tmp_path)
    assert apply(mutant, other) == "" and (other / file).read_text() != (ROOT / file).read_text()
