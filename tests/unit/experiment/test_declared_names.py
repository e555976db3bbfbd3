"""What results call a model, an algorithm and a mechanism is declared by the class, not read off its file."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrec.device.consent import request
from fedrec.experiment import instantiate
from fedrec.experiment.instantiate import resolve_class
from fedrec.numpy_engine import experiment

CONF = Path(__file__).parents[3] / "conf"
EXPECTED = {"fedsgd": "fedavg"}  # one class, two choices
CHOICES = [(g, f) for g in ("model", "algorithm", "privacy") for f in sorted((CONF / g).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "path"), CHOICES, ids=lambda value: getattr(value, "stem", value))
def test_every_choice_declares_the_name_that_results_give(group: str, path: Path) -> None:
    node: dict[str, Any] = yaml.safe_load(path.read_text())
    target = (node["model"] if group == "model" else node)["_target_"]
    declared = vars(resolve_class(target, group)).get(
        "name"
    )  # its own, not inherited: two parts never share a name unsaid
    assert declared == EXPECTED.get(path.stem, path.stem)


def tables() -> dict[str, list[str]]:
    """Return the names of classes that are written as text, so that nothing need be imported to compare them."""
    return {
        "aliases": sorted(set(instantiate.ALIASES.values())),
        "old fields": sorted(instantiate.OLD_FIELDS),
        "mechanisms that a device knows": [f"fedrec.privacy.mechanisms.{name}" for name in request.KNOWN],
        "algorithms of equal shares": [f"fedrec.algorithms.{name}" for name in request.EQUAL_SHARE],
        "algorithms without torch": list(experiment.TRAINING),
        "models without torch": list(experiment.MODELS),
    }


@pytest.mark.parametrize("kind", sorted(tables()))
def test_every_class_that_is_named_as_text_exists_under_that_name(kind: str) -> None:
    for name in tables()[kind]:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert f"{found.__module__}.{found.__qualname__}" == name
        assert instantiate.canonical(name) == name, "and it is the newest name"
