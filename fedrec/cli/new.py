"""`fedrec new model NAME`: a small package with a model of one's own, its yaml, and a test that passes."""

import keyword
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.grammar import Command, Group, examples
from fedrec.errors import FedrecError

EXAMPLES = examples("fedrec new model my_model", "fedrec new model my_model --into parts")
app = typer.Typer(
    name="new",
    cls=Group,
    help="Start a part of your own: a package with a model, its yaml and a test.",
    epilog=EXAMPLES,
)

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
TAKEN = {"conf", "fedrec", "model", "tests"}

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1.0"
dependencies = ["fedrec"]

# Once this is installed, fedrec lists model={name}; --allow {name} lets it run.
[project.entry-points."fedrec.models"]
{name} = "{name}.conf.model:{name}.yaml"

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""
INIT = '"""{title}: a model for fedrec."""\n'
MODEL = '''"""{title}: a private user vector times shared item vectors, to be made into a model of your own.

Shapes: B examples, 1+k items of each (a positive, then its k negatives), V items, d dimensions.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.models.base import TrainableRecommender, bce


class {title}(TrainableRecommender):
    """logit = user . item; `shared` lists what may leave a device, everything else stays there."""

    name: ClassVar[str] = "{name}"  # what results call it
    shared = by_item = frozenset({{"item.weight"}})  # by_item: one row an item
    stackable = True  # devices train many at a time: forward takes any leading dimensions

    def __init__(self, catalogue: Catalogue, *, dim: int = 16, scale: float = 0.1) -> None:
        super().__init__()
        self.items = len(catalogue)
        self.user = nn.Embedding(1, dim)
        self.item = nn.Embedding(len(catalogue), dim)
        self.criterion, self.private_std = bce, scale
        nn.init.normal_(self.item.weight, std=scale)

    def forward(self, items: Tensor) -> Tensor:
        """Return logits [..., 1+k] for items [..., 1+k]."""
        user = self.user(self.user_rows(items))  # [..., d]
        return (self.item(items) @ user.unsqueeze(-1)).squeeze(-1)

    def scores(self, history: Tensor) -> Tensor:
        """Return a score for every item [V], on the device; its history has shaped the user vector."""
        return torch.mv(self.item.weight, self.user.weight[0])
'''
YAML = """# @package _global_
# fedrec simulate model={name} --allow {name}; without installing it, --config-dir {name}/conf as well.
defaults:
  - override /algorithm: fedadam   # how devices and server fit it; a command line still wins
model:
  _target_: {name}.model.{title}
  _partial_: true
  dim: 16
  scale: 0.1
rounds: 30
"""
TEST = '''"""The promises that every model of fedrec keeps, and a small run."""

from pathlib import Path

import fedrec.testing
import {name}
from {name}.model import {title}


class Test{title}(fedrec.testing.ModelContract):
    make = {title}


def test_a_small_run_ends_with_figures() -> None:
    conf = Path({name}.__file__).parent / "conf"
    metrics = fedrec.testing.run_small("model={name}", config_dirs=[conf], allow=["{name}"])
    assert metrics["model"] == "{name}" and 0 <= metrics["test"]["full"]["ndcg@10"] <= 1
'''


def check_name(name: str) -> str:
    """Return the name of a package to be; one that can't be imported, or hides another, is an error."""
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        near = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
        hint = f", such as {near}" if NAME.fullmatch(near) and not keyword.iskeyword(near) else ""
        raise FedrecError(f"fedrec new model {name}: a name of small letters, digits and underscores is expected{hint}")
    if name in TAKEN or name in sys.stdlib_module_names:
        raise FedrecError(f"fedrec new model {name}: that name is taken; try my_{name}")
    return name


def new_model(name: str, into: Path) -> list[Path]:
    """Write a package of that name in a folder of that name under `into`; return the files. None is overwritten."""
    root, title = into / check_name(name), "".join(part.capitalize() for part in name.split("_"))
    if root.exists():
        raise FedrecError(f"{root} exists already: choose another name, or --into another folder")
    files = {
        root / "pyproject.toml": PROJECT,
        root / name / "__init__.py": INIT,
        root / name / "model.py": MODEL,
        root / name / "conf" / "model" / f"{name}.yaml": YAML,
        root / "tests" / f"test_{name}.py": TEST,
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name, title=title))
    return list(files)


@app.callback()
def new() -> None:
    """Start a part of your own: a package with a model, its yaml and a test."""


@app.command("model", cls=Command, epilog=EXAMPLES)
def model(
    name: Annotated[str, typer.Argument(help="of the package and of the choice model=NAME, e.g. my_model")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="where its folder is made")] = Path(),
) -> None:
    """Write a model of your own: a package with the model, its yaml and a test that passes."""
    files = new_model(name, into)
    folder = into / name
    print("\n".join(str(path) for path in files))
    print(f"\nTry it:  cd {folder} && python -m pytest")
    print(f"Use it:  pip install -e {folder} && fedrec simulate model={name} --allow {name}")
