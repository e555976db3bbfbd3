"""What a study is: a list of overrides for every trial, and what its table and picture show."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from fedrec.errors import FedrecError, suggest
from fedrec.evaluation.config import BASELINES

METRICS = ("full_ndcg@10", "full_hr@10", "sampled_ndcg@10", "sampled_hr@10")
REFERENCES = tuple(name for name in BASELINES if name not in ("private_popularity", "no_privacy"))
SCALES = ("log", "linear")
NAME = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a study; `value` is that of the varied setting, None where the trial goes without."""

    method: str
    value: float | None
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        value = "without" if self.value is None else f"{self.value:g}"
        return f"{NAME.sub('-', self.method).strip('-')}-{value}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """Every method at every value of the setting `vary` with every seed, and, where `without` is given, once more.

    `methods` name lists of overrides, `overrides` come before them in every trial and `given`, from the command line,
    after them. `without` replaces the groups that it chooses (`privacy=none`) and all settings of theirs.
    `references` are pooled or local baselines, drawn as lines. `metric`, `scale` and `label` are those of the picture.
    """

    name: str
    title: str
    methods: Mapping[str, tuple[str, ...]]
    vary: str
    values: tuple[float, ...]
    label: str
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    references: tuple[str, ...] = ("popularity", "local")
    metric: str = "full_ndcg@10"
    scale: str = "log"

    def __post_init__(self) -> None:
        """Refuse what can't be run or drawn."""
        if not self.methods or not self.seeds or not (self.values or self.without):
            raise FedrecError(f"study {self.name}: at least one method, one seed and one of values or without expected")
        for kind, given, known in (
            ("references", self.references, REFERENCES),
            ("metric", (self.metric,), METRICS),
            ("scale", (self.scale,), SCALES),
        ):
            for word in given:
                if word not in known:
                    raise FedrecError(f"study {self.name}: {kind} names '{word}'.{suggest(word, known)}")
        if self.scale == "log" and any(value <= 0 for value in self.values):
            raise FedrecError(f"study {self.name}: values {self.values} on a log scale must be above 0; scale: linear")
        names = [trial.name for trial in self.trials()]
        if len(set(names)) < len(names):
            raise FedrecError(f"study {self.name}: two trials have one name: {', '.join(sorted(names))}")

    def trials(self) -> list[Trial]:
        """Return all trials, a whole picture's worth of one seed before the next."""
        values = (*((None,) if self.without else ()), *self.values)
        return [
            Trial(method, value, seed, self._overrides(method, value, seed))
            for seed in self.seeds
            for value in values
            for method in self.methods
        ]

    def shared(self) -> tuple[str, ...]:
        """Return the overrides of the references: those that all trials share."""
        return (*self.overrides, *self.given)

    def selected(self, methods: list[str] | None, values: list[float] | None, seeds: list[int] | None) -> "Study":
        """Return the study with fewer methods, or with other values and seeds."""
        for name in methods or ():
            if name not in self.methods:
                raise FedrecError(f"--methods {name}: study {self.name} has none.{suggest(name, self.methods)}")
        return replace(
            self,
            methods={name: self.methods[name] for name in methods} if methods else self.methods,
            values=tuple(values) if values is not None else self.values,
            seeds=tuple(seeds) if seeds else self.seeds,
        )

    @property
    def without_label(self) -> str:
        """Return what the trials without the varied setting are called."""
        return "no privacy" if self.without == ("privacy=none",) else " ".join(self.without)

    def to_json(self) -> str:
        """Return the study as JSON that `of` reads back."""
        return json.dumps({**asdict(self), "methods": dict(self.methods)}, indent=2)

    def _overrides(self, method: str, value: float | None, seed: int) -> tuple[str, ...]:
        chosen = (*self.overrides, *self.methods[method], *self.given)
        if value is None:
            groups = {override.partition("=")[0] for override in self.without}
            chosen = (*(one for one in chosen if re.split("[.=]", one.lstrip("+~"))[0] not in groups), *self.without)
        else:
            chosen = (*chosen, f"{self.vary}={value:g}")
        return (*chosen, f"seed={seed}", "evaluation.baselines=[]")


def of(node: Mapping[str, Any], where: str) -> Study:
    """Return the study that a mapping describes; what it lacks or has too much is an error that names `where`."""
    known = Study.__dataclass_fields__
    for key in node:
        if key not in known:
            raise FedrecError(f"{where}: {key} does not exist.{suggest(key, known)}")
    for key in ("title", "methods", "vary", "values", "label"):
        if key not in node:
            raise FedrecError(f"{where}: {key} is missing; a study needs title, methods, vary, values and label")
    if not isinstance(node["methods"], dict):
        raise FedrecError(f"{where}: methods must map names to lists of overrides")
    fields: dict[str, Any] = {key: _listed(key, value, where) for key, value in node.items() if key != "methods"}
    methods = cast(dict[str, Any], node["methods"])
    fields["methods"] = {str(name): _listed("overrides", value or [], where) for name, value in methods.items()}
    return Study(**fields)


def _listed(key: str, value: Any, where: str) -> Any:
    """Return a value of the kind that the field takes: lists as tuples, of numbers or of text."""
    kinds = {"values": float, "seeds": int, "overrides": str, "given": str, "without": str, "references": str}
    if key not in kinds:
        return str(value)
    if not isinstance(value, list):
        raise FedrecError(f"{where}: {key} must be a list, such as [{value}]")
    try:
        return tuple(kinds[key](one) for one in cast(list[Any], value))
    except (TypeError, ValueError) as error:
        raise FedrecError(f"{where}: {key}={value}: a list of {kinds[key].__name__} expected") from error


def shipped() -> dict[str, Path]:
    """Return the plans that come with fedrec, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "plans").glob("*.yaml"))}


def find(name: str) -> Study:
    """Return the study of a yaml file, or one of those that come with fedrec by its name."""
    path = shipped().get(name, Path(name))
    if not path.is_file():
        raise FedrecError(
            f"study {name}: neither a yaml file nor one that comes with fedrec.{suggest(name, shipped())}"
        )
    try:
        node = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FedrecError(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(node, dict):
        raise FedrecError(f"{path}: a mapping with title, methods, vary, values and label is expected")
    return of({"name": path.stem, **cast(dict[str, Any], node)}, str(path))
