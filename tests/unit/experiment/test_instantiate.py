"""What is built from a configuration: our classes, and those of packages that a person allowed; nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.instantiate import (
    ALIASES,
    allow,
    allow_only,
    allowed,
    canonical,
    canonical_document,
    check_allowed,
    check_package,
    environment,
    foreign_targets,
    instantiate,
    resolve_class,
)
from fedrec.experiment.settings import load
from tests.support.own_package import NAME, importable, imported, write_package
from tests.support.tiny import FREE, catalogue

ROOT = Path(__file__).parents[3]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("SHOP_RAN", raising=False)
    monkeypatch.delenv("SHOP_IMPORTED", raising=False)
    with importable(write_package(tmp_path)) as root:
        yield root


def model(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{NAME}.{name}", "_partial_": True, **settings}


def document(**changes: Any) -> str:
    return json.dumps({**load([*FREE, "model=mf"]).experiment.node(), **changes})


def test_a_package_is_built_from_once_a_person_allows_it(package: Path) -> None:
    with pytest.raises(RefusedError, match=f"{NAME}.model.ShopMf is not one of fedrec's own.*--allow {NAME}"):
        Experiment.from_json(document(model=model("model.ShopMf", dim=3)))
    assert not imported()
    allow(NAME)
    made = Experiment.from_json(document(model=model("model.ShopMf", dim=3))).build_model(catalogue())
    assert made.name == NAME and made.shared_arrays()["item.weight"].shape == (12, 3)


def test_what_a_document_says_of_leave_is_not_believed(package: Path) -> None:
    with pytest.raises(RefusedError, match="is not one of fedrec's own"):
        Experiment.from_json(document(model=model("model.ShopMf"), allow=[NAME, "*", ""]))
    assert not imported() and not allowed()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{NAME}.parts.os", "is no class of"),
        (f"{NAME}.parts.os.system", "can't be imported here"),
        (f"{NAME}.parts.run", "is no class of"),
        (f"{NAME}.parts.Recommender", "is no class of"),  # ours, and only passing through
        (f"{NAME}.parts.dataclass", "is no class of"),
        (f"{NAME}.parts.Plain", "is no fedrec.models.base.Recommender: derive the class from it"),
        (f"{NAME}.parts.Halved", "is no fedrec.models.base.Recommender"),
        (f"{NAME}.parts.Popularr", r"is no class of shop_mf.parts. Did you mean 'Popular'"),
        (f"{NAME}.nothing.Model", "can't be imported here"),
        (f"{NAME}.__main__.Model", "is not one of fedrec's own"),
        (f"{NAME}", "is not one of fedrec's own"),
        (f"{NAME}2.parts.Popular", f"--allow {NAME}2"),
        (f"x.{NAME}.parts.Popular", "--allow x"),
        (f"{NAME}..parts.Popular", "is not one of fedrec's own"),
        ("os.system", "is not one of fedrec's own"),
        ("subprocess.Popen", "is not one of fedrec's own"),
        ("fedrec.cli.main.main", "is not one of fedrec's own"),
        ("fedrec.ops.processes.start", "is not one of fedrec's own"),
        ("", "is not one of fedrec's own"),
    ],
)
def test_a_hostile_target_is_neither_called_nor_built(package: Path, target: str, said: str) -> None:
    allow(NAME)
    with pytest.raises(FedrecError, match=said):
        Experiment.from_json(document(model={"_target_": target, "_partial_": True, "command": "true"}))
    assert "SHOP_RAN" not in os.environ


@pytest.mark.parametrize(
    ("group", "name", "said"),
    [
        ("dataset", "Plain", "lacks load"),
        ("algorithm", "Plain", "lacks init, broadcast"),
        ("privacy", "Plain", "lacks calibrated"),
        ("privacy", "Halved", "lacks calibrated"),
        ("cohort", "Plain", "always fedrec's own"),
        ("evaluation", "Plain", "always fedrec's own"),
    ],
)
def test_a_class_stands_only_where_its_kind_belongs(package: Path, group: str, name: str, said: str) -> None:
    allow(NAME)
    with pytest.raises(FedrecError, match=said):
        Experiment.from_json(document(**{group: {"_target_": f"{NAME}.parts.{name}", "command": "true"}}))
    assert "SHOP_RAN" not in os.environ


@pytest.mark.parametrize("key", ["dim", "loss", "warm_start"])
def test_no_object_is_built_where_a_plain_value_belongs(package: Path, key: str) -> None:
    allow(NAME)
    hidden = {"_target_": f"{NAME}.parts.Plain", "command": "true"}
    node = {"_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, key: hidden}
    with pytest.raises(FedrecError, match=rf"model\.{key} takes a plain value"):
        Experiment.from_json(document(model=node))
    node = {"_target_": "fedrec.models.transitions.ItemTransitionModel", "_partial_": True, "near": hidden}
    with pytest.raises(FedrecError, match="a Window is expected here"):
        Experiment.from_json(document(model=node))
    assert "SHOP_RAN" not in os.environ


def test_the_parts_of_every_kind_are_built(package: Path) -> None:
    allow(NAME)
    made = Experiment.from_json(
        document(
            dataset={"_target_": f"{NAME}.parts.Shop"},
            algorithm={"_target_": f"{NAME}.parts.Halved"},
            privacy={"_target_": f"{NAME}.parts.Promise", "epsilon": 4.0},
        )
    )
    assert made.names() == {"model": "mf", "algorithm": "halved", "mechanism": "promise"}
    assert made.dataset.load().interactions.users == 40
    with pytest.raises(FedrecError, match=r"privacy.epsilom does not exist. Did you mean 'epsilon'"):
        Experiment.from_json(document(privacy={"_target_": f"{NAME}.parts.Promise", "epsilom": 4.0}))


def test_a_device_has_a_list_of_its_own_whatever_its_process_allows(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(NAME)
    monkeypatch.setenv("FEDREC_ALLOW", NAME)
    text = document(model=model("model.ShopMf"))
    with allow_only([]):
        assert allowed() == frozenset()
        with pytest.raises(
            RefusedError, match=rf"this device does not allow {NAME}.*\[packages\] allow = \[.{NAME}.\]"
        ):
            check_allowed(json.loads(text))
        with pytest.raises(RefusedError, match="this device does not allow"):
            Experiment.from_json(text)
        with allow_only([NAME]):
            check_allowed(json.loads(text))
    assert allowed() == {NAME} and not imported()


def test_leave_reaches_processes_that_this_one_starts(package: Path) -> None:
    assert environment() == {}
    allow(NAME, "other.part")
    assert environment() == {"FEDREC_ALLOW": f"other.part,{NAME}"}
    said = "from fedrec.experiment.instantiate import allowed; print(sorted(allowed()))"
    variables = {**os.environ, **environment(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", said], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["other.part", NAME])


def test_part_of_a_package_can_be_allowed_alone(package: Path) -> None:
    allow(f"{NAME}.model")
    assert resolve_class(f"{NAME}.model.ShopMf", "model").__name__ == "ShopMf"
    with pytest.raises(RefusedError, match="--allow"):
        resolve_class(f"{NAME}.parts.Popular", "model")


@pytest.mark.parametrize(
    "name",
    ["", "*", "my-package", "a/b", ".a", "a.", "__builtins__", "fedrec", "fedrec.cli", "os", "importlib.metadata"],
)
def test_what_is_no_package_of_ones_own_can_not_be_allowed(name: str) -> None:
    with pytest.raises(FedrecError, match="--allow"):
        check_package(name)
    with pytest.raises(FedrecError):
        allow(name)
    assert name not in allowed()


def test_a_package_that_breaks_is_named(package: Path) -> None:
    (package / NAME / "broken.py").write_text("raise ValueError('no good')\n")
    allow(NAME)
    with pytest.raises(FedrecError, match=rf"model._target_={NAME}.broken.M: {NAME}.broken can't be imported.*no good"):
        resolve_class(f"{NAME}.broken.M", "model")


def test_foreign_targets_are_found_wherever_they_stand_and_old_names_are_ours() -> None:
    node = {"model": {"_target_": "a.B", "parts": [{"_target_": "c.D"}]}, "privacy": {"_target_": "x"}}
    node |= {"algorithm": {"_target_": "fedrec.algorithms.order.OrderSums"}}
    assert dict(foreign_targets(node)) == {"model": "a.B", "model.parts[0]": "c.D", "privacy": "x"}


def test_every_alias_names_a_class_and_no_class_of_today() -> None:
    for old, new in ALIASES.items():
        group = new.split(".")[1]
        assert resolve_class(old, group) is resolve_class(new, group) and canonical(old) == new == canonical(new)


def test_documents_compare_by_the_names_of_today() -> None:
    old = {"privacy": {"_target_": "fedrec.privacy.user.UserLevel"}, "rounds": 2, "list": [1, {"_target_": "x.Y"}]}
    new = {
        "privacy": {"_target_": "fedrec.privacy.mechanisms.user.UserLevel"},
        "rounds": 2,
        "list": [1, {"_target_": "x.Y"}],
    }
    assert canonical_document(old) == canonical_document(new) == new and old["privacy"] != new["privacy"]


def test_types_that_cannot_be_read_are_an_error_that_names_the_class(package: Path) -> None:
    (package / NAME / "typed.py").write_text(
        "from fedrec.models.popularity import Popularity\n\n\nclass Odd(Popularity):\n    name = 'odd'\n\n"
        "    def __init__(self, catalogue: 'Missing', dim: int = 2) -> None:\n        super().__init__(catalogue)\n"
    )
    allow(NAME)
    with pytest.raises(FedrecError, match="Odd: its types can't be read"):
        instantiate(model("typed.Odd", dim=2), "model")


@dataclass(frozen=True)
class Local:
    """A class of a test, which nobody allowed."""

    def load(self) -> None:
        """Load nothing."""


def test_a_class_of_this_very_file_needs_leave_too() -> None:
    target = f"{Local.__module__}.Local"
    with pytest.raises(RefusedError, match="--allow tests"):
        resolve_class(target, "dataset")
