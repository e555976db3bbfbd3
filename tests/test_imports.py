"""Imports point down one ordered list of layers, and what is banned is banned everywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for room in ("fedrec", "server", "client", "simulations") for p in (ROOT / room).rglob("*.py"))
LAYERS = (
    "errors rng messages paths ops", "data", "storage", "privacy", "secure", "models", "evaluation", "training",
    "algorithms",
    "experiment", "numpy_engine", "federated recommend", "audit", "report", "simulation", "study flower",
    "device server", "api cli testing", "__init__ __main__",
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms.split()}
ONLY_IN = {
    "hydra": ("fedrec/experiment/settings.py",),
    "omegaconf": ("fedrec/experiment/settings.py",),
    "opacus": ("fedrec/training/dp_sgd.py",),
    "pickle": ("simulations/convert_ml_latest_small.py",),
    "flwr": ("fedrec/flower/", "fedrec/device/client_app.py", "client/", "server/", "simulations/"),
    "server": ("server/",),
    "client": ("client/", "simulations/benchmarks/"),
    "simulations": ("simulations/",),
    "tests": (),
}  # fmt: skip
NO_TORCH = ("numpy_engine", "device", "secure", "storage", "messages", "ops", "data", "errors", "rng", "paths")


def imported(path: Path, lazily: bool = True) -> Iterator[str]:
    """Yield what a file imports, for type checking alone left out; without `lazily`, inside functions left out too."""
    tree = ast.parse(path.read_text())
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef) if not lazily else ()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, skipped) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {
                node.module,
                *(f"{node.module}.{alias.name}" for alias in node.names if node.module == "fedrec"),
            }
        waiting.extend(ast.iter_child_nodes(node))


def under(name: str, banned: str) -> bool:
    return name == banned or name.startswith(banned + ".")


def room_of(dotted: str) -> str:
    return dotted.split(".")[1] if dotted.startswith("fedrec.") else ""


def upward(where: str, names: set[str]) -> list[str]:
    """Return the imports of `where` that are of its own layer (but not its room) or of a higher one."""
    room = Path(where).parts[1].removesuffix(".py")
    found = {name: room_of(name) for name in names if room_of(name) in LEVEL}
    ground = LAYERS[0].split()
    return [n for n, r in found.items() if r != room and LEVEL[r] >= LEVEL[room] and not {r, room} <= set(ground)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    where, names = path.relative_to(ROOT).as_posix(), set(imported(path))
    for module, allowed in ONLY_IN.items():
        assert where.startswith(allowed or ("nowhere",)) or not [n for n in names if under(n, module)], module
    if where.startswith("fedrec/"):
        assert Path(where).parts[1].removesuffix(".py") in LEVEL, "a room that no layer names"
        assert upward(where, names) == []
        if Path(where).parts[1].removesuffix(".py") in NO_TORCH:
            assert not [n for n in imported(path, lazily=False) if under(n, "torch")]


def test_the_rule_would_notice() -> None:
    assert under("flwr.app", "flwr") and not under("flwr_datasets", "flwr")
    assert "flwr.clientapp" in set(imported(ROOT / "client" / "app.py"))
    assert upward("fedrec/data/x.py", {"fedrec.models.mf"}) and upward("fedrec/study/x.py", {"fedrec.flower.transport"})
    assert not upward("fedrec/models/x.py", {"fedrec.data.dataset", "fedrec.models.mf", "fedrec.errors"})
