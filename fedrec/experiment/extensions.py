"""Parts of the user's own: packages allowed by name, folders laid out like conf/, and entry points of packages.

An entry point of the group `fedrec.models`, `fedrec.algorithms`, `fedrec.datasets` or `fedrec.mechanisms` offers a
choice of that name: `my_package.models:MyModel` names a class, `my_package.conf.model:my_model.yaml` a yaml beside the
package's code. To be installed is not to be allowed: a choice is listed without its package being imported, and refused
until somebody allows the package by name. All of it travels as overrides, `allow=PACKAGE` and `config_dir=FOLDER`, so
that it reaches the workers of a study and the apps of `flwr run` too.
"""

import inspect
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.experiment.instantiate import SCALARS, allow, allowed, check_package, package_of, resolve_class
from fedrec.experiment.overrides import ENTRY_POINTS, Override
from fedrec.paths import conf_dir

ALLOW, CONFIG_DIR = "allow=", "config_dir="
OURS = "fedrec"


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a command was given beside overrides: folders searched after ours, and packages that may be built from."""

    config_dirs: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        """Return the same as overrides, which `split_overrides` reads."""
        return [*(f"{CONFIG_DIR}{folder}" for folder in self.config_dirs), *(f"{ALLOW}{name}" for name in self.allow)]


def as_overrides(config_dirs: Iterable[str | Path] = (), packages: Iterable[str] = ()) -> list[str]:
    """Return `--config-dir` and `--allow` of a command line as overrides, which go with the others wherever they go."""
    return Extensions(
        tuple(check_folder(Path(folder)) for folder in config_dirs), tuple(check_package(name) for name in packages)
    ).overrides()


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], Extensions]:
    """Return the overrides that are settings, and what the others, `allow=` and `config_dir=`, name: lists add up."""
    rest, folders, packages = list[str](), list[Path](), list[str]()
    for text in overrides:
        if text.startswith(ALLOW):
            packages += [check_package(name) for name in _listed(text.removeprefix(ALLOW))]
        elif text.startswith(CONFIG_DIR):
            folders.append(check_folder(Path(text.removeprefix(CONFIG_DIR))))
        else:
            rest.append(text)
    return rest, Extensions(tuple(dict.fromkeys(folders)), tuple(dict.fromkeys(packages)))


def _listed(text: str) -> list[str]:
    return [part.strip(" '\"") for part in text.strip("[]").split(",") if part.strip()]


def check_folder(folder: Path) -> Path:
    """Return a folder as an absolute path; one that is not laid out like conf/ is an error."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    if not folder.is_dir():
        raise FedrecError(f"--config-dir {folder}: no such folder")
    inside = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    if not set(inside) & set(groups):
        near = next((suggest(name, groups) for name in inside), "")
        raise FedrecError(f"--config-dir {folder}: one of the folders {', '.join(groups)} is expected in it.{near}")
    if set(str(folder.resolve())) & set("'\"\\$"):
        raise FedrecError(f"--config-dir {folder}: a path without quotes, backslashes and dollar signs is expected")
    return folder.resolve()


@cache
def installed(group: str) -> EntryPoints:
    """Return the entry points of installed packages in a group of theirs; none is loaded. The cache can be cleared."""
    return entry_points(group=group)


def entry_points_of(group: str) -> dict[str, EntryPoint]:
    """Return the entry points that installed packages offer for a group of conf/, by name."""
    found = installed(ENTRY_POINTS[group]) if group in ENTRY_POINTS else ()
    return {point.name: point for point in found}


def package_name(point: EntryPoint) -> str:
    """Return the package that an entry point belongs to, which is what a person allows."""
    return point.module.partition(".")[0]


def is_allowed(point: EntryPoint) -> bool:
    """Return whether the code of an entry point may be loaded here."""
    return package_of(f"{point.module}._", allowed()) is not None


def choices(group: str, folders: Iterable[Path] = ()) -> dict[str, str]:
    """Return what can be chosen in a group, and where it comes from: "fedrec", a folder, or a package by its name."""
    found = {name: package_name(point) for name, point in entry_points_of(group).items()}
    for folder in (*reversed(list(folders)), conf_dir()):
        origin = OURS if folder == conf_dir() else str(folder)
        found |= dict.fromkeys(sorted(path.stem for path in (folder / group).glob("*.yaml")), origin)
    return found


def check_choice(group: str, name: str, extensions: Extensions) -> None:
    """Raise where a choice is an installed package's that nobody allowed, or a folder's that ours hides."""
    if "." in group:
        return
    origin = choices(group, extensions.config_dirs).get(name)
    hidden = [str(path) for folder in extensions.config_dirs if (path := folder / group / f"{name}.yaml").exists()]
    if origin == OURS and hidden:
        raise FedrecError(f"{group}={name} is fedrec's own, and {hidden[0]} would never be read: give it another name")
    point = entry_points_of(group).get(name)
    if point is not None and origin == package_name(point) and not is_allowed(point):
        raise RefusedError(
            f"{group}={name} comes with the package {origin}, whose code you have not allowed: --allow {origin}"
        )


@contextmanager
def search_path(overrides: Sequence[str], extensions: Extensions) -> Generator[list[Path]]:
    """Allow the packages, check what is chosen of them, and give the folders that are searched after conf/, in order.

    The last of them exists inside the context alone: it holds the choices of installed packages that are allowed.
    """
    allow(*extensions.allow)
    for one in map(Override.parse, overrides):
        check_choice(one.key, one.value, extensions)
    with tempfile.TemporaryDirectory() as name:
        folders = list(extensions.config_dirs)
        if any([write_entry_points(group, Path(name)) for group in ENTRY_POINTS]):
            folders.append(Path(name))
        yield folders


def write_entry_points(group: str, folder: Path) -> bool:
    """Write a yaml for every choice of this group that an allowed package offers; return whether there was one."""
    written = False
    for name, point in entry_points_of(group).items():
        if not is_allowed(point):
            continue
        path = folder / group / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml_of(group, point))
        written = True
    return written


def yaml_of(group: str, point: EntryPoint) -> str:
    """Return the yaml of an entry point: the file that it names, or one made from its class's own defaults."""
    if point.value.endswith(".yaml"):
        return _yaml_file(point).read_text()
    node = class_node(group, point.value.replace(":", "."))
    return f"# @package _global_\n{yaml.safe_dump({'model': node})}" if group == "model" else yaml.safe_dump(node)


def class_node(group: str, target: str) -> dict[str, Any]:
    """Return the configuration of a class: each constructor parameter with a plain default, at that default."""
    found = resolve_class(target, group)
    plain = {
        name: parameter.default
        for name, parameter in inspect.signature(found).parameters.items()
        if type(parameter.default) in SCALARS
    }
    return {"_target_": target, **({"_partial_": True} if group == "model" else {}), **plain}


def _yaml_file(point: EntryPoint) -> Path:
    """Return the file of "package.folder:name.yaml", found beside the package's code without importing any of it."""
    module, _, file = point.value.partition(":")
    first, *folders = module.split(".")
    spec = find_spec(first)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(place, *folders, file)).is_file():
            return path
    raise FedrecError(f"the entry point {point.name} names {point.value}, and {module} has no file {file}")
