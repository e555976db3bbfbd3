"""Imports point one way, and what is banned is banned everywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for room in ("fedrec", "server", "client", "simulations") for p in (ROOT / room).rglob("*.py"))
MAY_NOT = {
    "fedrec": {"flwr", "server", "client", "simulations", "tests", "ray"},
    "server": {"client", "simulations", "tests", "hydra"},
    "client": {"server", "simulations", "tests", "hydra"},
    "simulations": {"tests"},
    "fedrec/data": {"torch", "hydra", "fedrec.models", "fedrec.algorithms", "fedrec.privacy", "fedrec.training"},
    "fedrec/models": {"fedrec.algorithms", "fedrec.training", "fedrec.evaluation", "fedrec.experiment"},
    "fedrec/privacy": {"fedrec.algorithms", "fedrec.training", "fedrec.evaluation", "fedrec.experiment"},
    "fedrec/consent": {"torch", "numpy", "scipy", "dp_accounting", "hydra", "fedrec.models", "fedrec.experiment"},
    "fedrec/evaluation": {"fedrec.experiment", "fedrec.report", "fedrec.privacy", "fedrec.algorithms"},
    "fedrec/training": {"fedrec.experiment", "fedrec.report", "fedrec.evaluation"},
    "fedrec/algorithms": {"fedrec.experiment", "fedrec.report", "fedrec.evaluation"},
}
ONLY_IN = {
    "hydra": {"fedrec/config.py"},
    "omegaconf": {"fedrec/config.py"},
    "opacus": {"fedrec/privacy/dpsgd.py"},
    "pickle": {"simulations/convert_ml_latest_small.py"},
}
UPWARD = {"fedrec/cli.py"}  # the command brings the apps and the library together, in one function


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def under(name: str, banned: str) -> bool:
    return name == banned or name.startswith(banned + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    where, names = path.relative_to(ROOT).as_posix(), set(imported(path))
    for room, banned in MAY_NOT.items():
        if where.startswith(room + "/") and where not in UPWARD:
            assert not [name for name in names for bad in banned if under(name, bad)], where
    for module, allowed in ONLY_IN.items():
        assert where in allowed or not any(under(name, module) for name in names), f"{where} imports {module}"


def test_the_rule_would_notice() -> None:
    assert under("flwr.app", "flwr") and not under("flwr_datasets", "flwr")
    assert "flwr.clientapp" in set(imported(ROOT / "client" / "app.py"))


def test_the_upward_call_stays_in_one_function() -> None:
    tree = ast.parse((ROOT / "fedrec" / "cli.py").read_text())
    for name in ("put_app_on_path", "import_module"):
        found = {
            function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Name | ast.Attribute) and getattr(node, "id", getattr(node, "attr", "")) == name
        }
        assert found == {"upward"}, name
    upward = ("client", "server", "simulations")
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in named if name.split(".")[0] in upward]
