"""`fedrec new model NAME` writes a package whose own test passes, and that runs like a built-in model."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fedrec.cli.main import main
from fedrec.cli.new import new_model
from fedrec.errors import FedrecError

ROOT = Path(__file__).parents[3]


def test_its_own_test_passes(tmp_path: Path) -> None:
    files = new_model("corner_shop", tmp_path)
    assert all(path.is_file() for path in files) and files[0].parent == tmp_path / "corner_shop"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=files[0].parent, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout  # eight promises of a model, and a small run


def test_its_test_would_notice_a_model_that_breaks_its_promises(tmp_path: Path) -> None:
    files = new_model("corner_shop", tmp_path)
    model = next(path for path in files if path.name == "model.py")
    model.write_text(model.read_text().replace("return torch.mv(", "return 0.5 * torch.nan * torch.mv("))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "scores_every"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=files[0].parent, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "test_scores_every_item_with_a_number" in done.stdout


def test_the_names_are_filled_in_everywhere(tmp_path: Path) -> None:
    project, init, model, choice, test = new_model("corner_shop", tmp_path)
    for path in (init, model, test):
        ast.parse(path.read_text())
        assert "{" not in path.read_text().replace('{"', "")
    points = tomllib.loads(project.read_text())["project"]["entry-points"]["fedrec.models"]
    assert points == {"corner_shop": "corner_shop.conf.model:corner_shop.yaml"}
    node = yaml.safe_load(choice.read_text())
    assert node["model"]["_target_"] == "corner_shop.model.CornerShop"
    assert choice == tmp_path / "corner_shop" / "corner_shop" / "conf" / "model" / "corner_shop.yaml"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MyModel", "such as my_model"),
        ("my-model", "such as my_model"),
        ("2nd", "is expected"),
        ("../up", "such as up"),
        ("class", "is expected"),
        ("", "is expected"),
        ("json", "that name is taken; try my_json"),
        ("fedrec", "that name is taken"),
        ("model", "try my_model"),
    ],
)
def test_a_name_that_can_not_be_imported_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        new_model(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_the_command_says_what_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["new", "model", "corner_shop", "--into", str(tmp_path)])
    said = capsys.readouterr().out
    assert "model.py" in said and "fedrec simulate model=corner_shop --allow corner_shop" in said
    with pytest.raises(SystemExit) as ended:
        main(["new", "model", "corner_shop", "--into", str(tmp_path)])
    assert ended.value.code == 2 and "exists already" in capsys.readouterr().err
