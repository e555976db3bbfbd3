"""Imports point down an ordered list of layers, and what is banned is banned everywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for room in ("fedrec", "server", "client", "simulations") for p in (ROOT / room).rglob("*.py"))
ONLY_IN = {
    "hydra": {"fedrec/experiment/settings.py"},
    "omegaconf": {"fedrec/experiment/settings.py"},
    "opacus": {"fedrec/training/dp_sgd.py"},
    "pickle": {"simulations/convert_ml_latest_small.py"},
}


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
    for module, allowed in ONLY_IN.items():
        assert where in allowed or not any(under(name, module) for name in names), f"{where} imports {module}"


def test_the_rule_would_notice() -> None:
    assert under("flwr.app", "flwr") and not under("flwr_datasets", "flwr")
    assert "flwr.clientapp" in set(imported(ROOT / "client" / "app.py"))
