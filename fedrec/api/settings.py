"""From what a program hands over to settings: names and overrides, frames, classes and objects.

All of it becomes overrides as on the command line; a frame, a class and an object are known by a name in this process.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from os import PathLike, fspath
from typing import Any, cast

import yaml

from fedrec.data.dataset import Dataset
from fedrec.data.datasets.frame import HeldRows, hold, is_column, is_frame, read_frame
from fedrec.errors import FedrecError
from fedrec.experiment.automatic import load_chosen
from fedrec.experiment.experiment import load_dataset as loaded_dataset
from fedrec.experiment.instantiate import allow_class, call_or_refuse
from fedrec.experiment.overrides import Conf
from fedrec.experiment.settings import EXPERIMENT_KEYS, Schema, Settings, load

COLUMNS = ("user", "item", "time", "value", "event")
GROUPS = EXPERIMENT_KEYS[:6]
PLAIN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_./@-]*")
WORDS = ("true", "false", "null", "nan", "inf")
# What a model of one's own takes its algorithm and its rounds from, where it is no kin of a model in conf/.
KIN = {
    "fedrec.models.sequential.SequentialRecommender": "sasrec",
    "fedrec.models.base.TrainableRecommender": "mf",
    "fedrec.models.base.Recommender": "",
}


@dataclass(frozen=True)
class Part:
    """A class that a program handed over for a group: its full name, its nearest kin in conf/, and its fields."""

    kind: type
    base: str
    fields: Mapping[str, Any]

    def is_shipped(self, group: str) -> bool:
        """Say whether the class is one that comes with fedrec, with plain settings: overrides say all of it."""
        nested = any(isinstance(value, dict) for value in self.fields.values())
        return bool(self.base) and raw_node(group, self.base)["_target_"] == full_name(self.kind) and not nested

    def node(self, base: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the node of the document, given the kin's as it was resolved and as its file has it.

        A class with a constructor of its own has defaults of its own; what its kin takes from other groups, it does.
        """
        parameters = inspect.signature(self.kind).parameters
        own = "__init__" in vars(self.kind) and not is_dataclass(self.kind)
        taken = {key: value for key, value in base.items() if not own or str(raw.get(key)).startswith("${")}
        kept = {key: value for key, value in taken.items() if key in parameters}
        partial_ = {"_partial_": True} if "_partial_" in base else {}
        return {**kept, **self.fields, "_target_": allow_class(self.kind), **partial_}


Parts = Mapping[tuple[str, str], Part]


@dataclass(frozen=True)
class Request:
    """What a call asks for: overrides as on the command line, and what some of their names stand for here."""

    overrides: tuple[str, ...]
    parts: Parts = field(default_factory=dict[tuple[str, str], Part])
    held: HeldRows | None = None

    @property
    def plain(self) -> list[str]:
        """The overrides that the command line knows too."""
        return [text for text in self.overrides if tuple(text.split("=", 1)) not in self.parts]

    def settings(self, overrides: Sequence[str] | None = None) -> Settings:
        """Return the settings of the request, or of other overrides with the same names."""
        asked = self.overrides if overrides is None else overrides
        return load_chosen(asked, lambda given: compose(given, self.parts))


def load_settings(*overrides: Any, **settings: Any) -> Settings:
    """Return the resolved settings of a run, without running it: the arguments are those of `simulate`.

    >>> load_settings("privacy.epsilon=4", model="ease", rounds=2).document["privacy"]["epsilon"]
    4
    """
    return gather(overrides, settings).settings()


def load_dataset(*overrides: Any, **settings: Any) -> Dataset:
    """Load a data set by name, by overrides, or from a frame: its interactions, its catalogue, its split.

    A first text without "=" is the data set's name: `load_dataset("ml-100k", path=...)`; settings are the data set's.

    >>> len(load_dataset("synthetic", users=50).devices)
    50
    """
    named = [f"dataset={one}" if isinstance(one, str) and "=" not in one else one for one in overrides]
    columns = (*COLUMNS, "title", "dataset")
    inner = {key if key in columns or "." in key else f"dataset.{key}": value for key, value in settings.items()}
    request = gather(named, inner)
    return loaded_dataset(compose(request.overrides, request.parts).experiment)


def gather(given: Iterable[Any], settings: Mapping[str, Any]) -> Request:
    """Return what the arguments of a call ask for: overrides, mappings of settings, at most one frame; keywords."""
    texts, frames, named = list[str](), list[Any](), dict[str, Any]()
    for one in given:
        if isinstance(one, str):
            texts.append(one)
        elif is_frame(one) and not is_settings(one):
            frames.append(one)
        elif isinstance(one, Mapping):
            named |= cast("Mapping[str, Any]", one)
        else:
            raise FedrecError(f"{type(one).__name__}: an override such as 'rounds=10', or one data frame, is expected")
    named |= settings
    if is_frame(named.get("dataset")):
        frames.append(named.pop("dataset"))
    columns = {part: named.pop(part) for part in (*COLUMNS, "title") if part in named}
    if len(frames) > 1:
        raise FedrecError(f"{len(frames)} data frames were given: one holds all interactions")
    held, own = of_frame(frames, columns)
    parts = dict[tuple[str, str], Part]()
    for key, value in named.items():
        texts += of_setting(key, value, parts)
    return Request((*own, *texts), parts, held)


def is_settings(value: Any) -> bool:
    """Say whether a mapping is one of settings, by its names."""
    known = {*GROUPS, *Schema.__dataclass_fields__}
    return isinstance(value, Mapping) and any(str(key).partition(".")[0] in known for key in cast(Any, value))


def of_frame(frames: Sequence[Any], columns: dict[str, Any]) -> tuple[HeldRows | None, list[str]]:
    """Return the rows that were handed over, remembered in this process, and the overrides that name them.

    Columns that are arrays themselves are a frame of their own.
    """
    arrays = {part: value for part, value in columns.items() if not isinstance(value, str) and is_column(value)}
    if not frames and arrays:
        frames, columns = [arrays], {**columns, **{part: part for part in arrays}}
    if not frames:
        if columns:
            raise FedrecError(f"{next(iter(columns))}= names a column of a data frame, and none was given")
        return None, []
    for part, name in columns.items():
        if name is not None and not isinstance(name, str):
            raise FedrecError(f"{part}={name!r}: the name of a column is expected")
    title = columns.pop("title", None)
    held, mapping = read_frame(frames[0], columns, title)
    named = {f"dataset.columns.{part}": getattr(mapping, part) for part in COLUMNS}
    named |= {"dataset.title": title, "dataset.content": hold(held)}
    return held, ["dataset=frame", *pairs(named)]


def of_setting(key: str, value: Any, parts: dict[tuple[str, str], Part]) -> list[str]:
    """Return the overrides of one setting: a value, a mapping of the settings below it, a class or an object."""
    if isinstance(value, Mapping):
        below = cast("Mapping[str, Any]", value)
        return [text for name, one in below.items() for text in of_setting(f"{key}.{name}", one, parts)]
    if key in GROUPS and not isinstance(value, str):
        part = to_part(key, value)
        if part.is_shipped(key):
            raw = raw_node(key, part.base)
            changed = {f"{key}.{name}": one for name, one in part.fields.items() if name in raw and one != raw[name]}
            return [f"{key}={part.base}", *pairs(changed)]
        parts[key, part.kind.__name__] = part
        return [f"{key}={part.kind.__name__}"]
    return pairs({key: value})


def pairs(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as overrides."""
    return [f"{key}={to_text(value)}" for key, value in settings.items()]


def to_text(value: Any) -> str:
    """Return a value as an override writes it."""
    value = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(to_text(one) for one in cast(Sequence[Any], value))}]"
    if not isinstance(value, str | PathLike):
        raise FedrecError(f"{value!r}: a number, a text, a list or null is expected as a setting")
    text = str(fspath(cast("str | PathLike[str]", value)))
    if PLAIN_TEXT.fullmatch(text) and text.lower() not in WORDS:
        return text
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def to_part(group: str, value: Any) -> Part:
    """Return the class, and the fields, that a class, a partial of one, or an object stands for."""
    called = cast("partial[Any]", value) if isinstance(value, partial) else partial(value) if callable(value) else None
    kind = called.func if called is not None else None
    if called is not None and inspect.isclass(kind) and group == "model":
        return Part(kind, find_kin(group, kind), called.keywords)
    made = call_or_refuse(group, called) if called is not None and is_dataclass(kind) else value
    if not is_dataclass(made) or isinstance(made, type):
        example = "MyModel or partial(MyModel, dim=8)" if group == "model" else "fedrec.UserLevel(epsilon=8)"
        raise FedrecError(f"{group}={value!r}: a name, a class or its settings are expected, such as {example}")
    chosen = {f.name: plain(getattr(made, f.name)) for f in fields(made) if f.init}
    return Part(type(made), find_kin(group, type(made)), chosen)


def plain(value: Any) -> Any:
    """Return a field's value as JSON has it; an object of settings becomes a node of its own."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"_target_": allow_class(type(value)), **inner}
    return [plain(one) for one in cast(Sequence[Any], value)] if isinstance(value, tuple | list) else value


def find_kin(group: str, kind: type) -> str:
    """Return the choice of conf/ whose class is the nearest ancestor, or where there is none, what stands for it."""
    lineage, conf = [full_name(one) for one in inspect.getmro(kind)], Conf.of()
    for name in lineage:
        found = [choice for choice in conf.groups[group] if raw_node(group, choice)["_target_"] == name]
        if found:
            return getattr(kind, "name", "") if getattr(kind, "name", "") in found else found[0]
    if group == "model":
        for name in lineage:
            if name in KIN:
                return KIN[name]
        raise FedrecError(f"model={kind.__name__}: a subclass of fedrec.models.base.Recommender is expected")
    return "none" if group == "privacy" else ""


def full_name(kind: type) -> str:
    """Return what documents call a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def raw_node(group: str, choice: str) -> Mapping[str, Any]:
    """Return a choice's node as its file has it."""
    read = cast(dict[str, Any], yaml.safe_load(Conf.of().path(group, choice).read_text()))
    return read.get(group, read)


def compose(overrides: Sequence[str], parts: Parts) -> Settings:
    """Return the settings of overrides in which some names of choices stand for classes of this program."""
    split = [text.partition("=") for text in overrides]
    own = {key: parts[key, value] for key, _, value in split if (key, value) in parts}
    outer, inner = list[str](), list[tuple[str, str, str]]()
    for text, (key, _, value) in zip(overrides, split, strict=True):
        group, _, name = key.partition(".")
        if group in own and name:
            inner.append((group, name, value))
        elif (key, value) not in parts:
            outer.append(text)
    outer += [f"{group}={kin}" for group, part in own.items() if (kin := base_of(group, part, outer))]
    document = dict(load(outer).document)
    for group, part in own.items():
        document[group] = part.node(document[group], raw_node(group, part.base) if part.base else {})
    for group, name, value in inner:
        set_field(document[group], name.split("."), yaml.safe_load(value))
    return Settings(document)


def base_of(group: str, part: Part, overrides: Sequence[str]) -> str:
    """Return the choice that a class is composed as; a model that is no kin of any needs an algorithm."""
    if group == "model" and not part.base:
        if not any(text.startswith("algorithm=") for text in overrides):
            raise FedrecError(
                f"model={part.kind.__name__} is neither trained nor kin of a model that comes with fedrec: say "
                "algorithm=..., which decides what devices contribute"
            )
        return "popularity"
    return part.base


def set_field(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a field of a node, or of a node inside it."""
    for name in path[:-1]:
        node = node.setdefault(name, {})
    node[path[-1]] = value
