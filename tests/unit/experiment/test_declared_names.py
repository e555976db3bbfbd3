"""What results call a model, an algorithm and a mechanism is declared by the class, not read off its file."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrec.experiment.instantiate import resolve_class

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
