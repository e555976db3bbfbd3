"""What can be set, read from `conf/` by yaml alone: keys, choices, defaults, and where each value comes from.

A typo is answered from here, before Hydra or torch is imported. Hydra composes; a test holds this reading to it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.paths import conf_dir

OVERRIDE = re.compile(r"(?P<mark>~|\+{0,2})(?P<key>[^\s=@+~]+)(?P<package>@[^=]*)?(?:=(?P<value>.*))?", re.DOTALL)
GLOBAL = re.compile(r"^# *@package +_global_ *$", re.MULTILINE)
# A comma outside brackets and quotes.
COMMA = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|(,)""")
# Settings whose value is a text of somebody else's making, taken as it is written: paths, columns, queries.
PATH = re.compile(r"(\w+\.)*(path|\w+_path|histories)")
VERBATIM = re.compile(
    rf"{PATH.pattern}|dataset\.(columns\.\w+|query|events|separator|list_separator|quote|escape|decimal|time_format)"
)
AUTO = "auto"  # the model that suits the data, chosen when they are there
HOW_TO_CLIP = ("whole", "split")
ENTRY_POINTS = {
    "model": "fedrec.models",
    "algorithm": "fedrec.algorithms",
    "dataset": "fedrec.datasets",
    "privacy": "fedrec.mechanisms",
}
SWEEP = "a sweep is a study: fedrec study PLAN --values 1,2 (fedrec study --help)"
# What a statistic has no use for (its own bound is the clip, and nothing is trained), and what DP-SGD replaces.
TRAINING_ONLY = ("clip", "clipping", "dense_share", "sample_rate", "local_steps", "denominator", "target", "bit_share")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first reads ten times as fast
BY_DP_SGD = {"epochs": "local_steps", "batch_size": "sample_rate", "denominator": "denominator"}


@dataclass(frozen=True, slots=True)
class Override:
    """One `key=value` of a command; `mark` is Hydra's: "+" adds, "~" takes away."""

    text: str
    mark: str
    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Override":
        """Read an override; a text that is none is an error that names what it could have meant."""
        found = OVERRIDE.fullmatch(text)
        if found is None or (found["value"] is None and found["mark"] != "~"):
            raise FedrecError(f"{text}: key=value is expected, such as rounds=5{_meant(text)}")
        return cls(text, found["mark"], found["key"], (found["value"] or "").strip())

    @property
    def verbatim(self) -> bool:
        """Whether the value is a text that stands for itself, whatever it is made of."""
        return self.mark != "~" and VERBATIM.fullmatch(self.key) is not None and self.value not in ("", "null")

    @property
    def content(self) -> str:
        """The value without the quotes around it, in a path with ~ expanded; of other settings, the value."""
        if not self.verbatim:
            return self.value
        path, value = PATH.fullmatch(self.key), self.value
        if not (path and Path(value).exists()):
            value = unquoted(value)
        return str(Path(value).expanduser()) if path and value.startswith("~") and not Path(value).exists() else value

    @property
    def composed(self) -> str:
        """The override as Hydra is to read it."""
        return f"{self.mark}{self.key}={quoted(self.content)}" if self.verbatim else self.text

    @property
    def choice(self) -> str:
        """The value as the name of a choice, without quotes."""
        return self.value.strip("'\"")


@dataclass(frozen=True)
class Conf:
    """The settings' groups and defaults: the folders' yaml files, a later folder's choices beside fedrec's own."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, *more: Path) -> "Conf":
        """Return fedrec's own settings, with the folders of somebody's own beside them."""
        return cls((conf_dir(), *more))

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The choices of each group."""
        found = dict[str, set[str]]()
        for folder in self.folders:
            for path in folder.glob("*/*.yaml"):
                found.setdefault(path.parent.name, set()).add(path.stem)
        return {group: sorted(found[group]) for group in sorted(found)}

    @cached_property
    def defaults(self) -> dict[str, str | None]:
        """The choice of each group where nothing else is asked for, in the order in which they are composed."""
        node = _read(self.folders[0] / "config.yaml")
        return {
            group: choice for entry in node["defaults"] if isinstance(entry, dict) for group, choice in entry.items()
        }

    @property
    def run_level(self) -> dict[str, Any]:
        """The settings that belong to no group, with their defaults."""
        return {key: value for key, value in _read(self.folders[0] / "config.yaml").items() if key != "defaults"}

    def path(self, group: str, choice: str) -> Path:
        """Return the file of a choice."""
        paths = [folder / group / f"{choice}.yaml" for folder in self.folders]
        return next((path for path in paths if path.is_file()), paths[0])

    def choose(self, given: Mapping[str, str]) -> dict[str, str | None]:
        """Return the choice of every group: the given one, else what an experiment or a model brings, else the default.

        As Hydra does: the last group of the defaults speaks first.
        """
        found: dict[str, str | None] = dict(given)
        for group, default in reversed(self.defaults.items()):
            choice = found.setdefault(group, default)
            node = _read(self.path(group, choice)) if choice else {}
            for key, value in ((k, v) for entry in node.get("defaults", []) for k, v in entry.items()):
                found.setdefault(key.removeprefix("override /").partition("@")[0], value)
        return {group: found[group] for group in self.defaults}

    def layers(self, given: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is composed, each file's name under conf/ and its settings; a later one wins."""
        yield "config.yaml", self.run_level
        yield from (self.layer(group, choice) for group, choice in self.choose(given).items() if choice is not None)

    def layer(self, group: str, choice: str) -> tuple[str, dict[str, Any]]:
        """Return the name of a choice's file under conf/ and its settings."""
        path = self.path(group, choice)
        node = {key: value for key, value in _read(path).items() if key != "defaults"}
        where = f"{group}/{choice}.yaml" if path.is_relative_to(self.folders[0]) else str(path)
        return where, node if GLOBAL.search(path.read_text()) else {group: node}

    def origins(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return where the value of each key comes from: a file under conf/, or an override."""
        parsed = [Override.parse(text) for text in overrides]
        given = {one.key: one.content for one in parsed if one.key in self.groups}
        found = {key: _told(where, value) for where, node in self.layers(given) for key, value in items(node)}
        return found | {one.key: f"override {one.text}" for one in parsed if one.key not in self.groups}

    def check(self, overrides: Sequence[str]) -> None:
        """Name the nearest valid key or choice for every override that does not exist.

        A choice that an installed package offers is one too; what can be set in it, and in a model that the data
        decide, is not known from here.
        """
        parsed = [Override.parse(text) for text in overrides]
        chosen, offered = dict[str, str](), set[str]()
        for one in parsed:
            if not one.verbatim and any(found[1] for found in COMMA.finditer(one.value)):
                quoted = f"""'{one.key}="{one.value}"'"""
                raise FedrecError(f"{one.text}: one value is expected; {SWEEP}; a comma of the value's own: {quoted}")
            if one.key not in self.groups or one.mark == "~" or one.choice == "null":
                continue
            if one.choice in self.groups[one.key]:
                chosen[one.key] = one.choice
            elif one.choice in (others := find_offered(one.key)):
                offered.add(one.key)
            else:
                raise FedrecError(f"{one.text} does not exist.{suggest(one.choice, [*self.groups[one.key], *others])}")
        if self.choose(chosen)["model"] == AUTO:
            offered |= {"model", "algorithm"}
        nodes = [node for _, node in self.layers(chosen)]
        known = {key for node in nodes for key in flat(node)}
        for one in parsed:
            _check_clip(one, known, nodes)
            free = one.mark == "+" or one.key.partition(".")[0] in ("hydra", *offered)
            if one.key not in known and one.key not in self.groups and not free:
                raise FedrecError(f"{one.key} does not exist.{suggest(one.key, known)}")


def find_offered(group: str) -> set[str]:
    """Return the choices of a group that installed packages offer by entry points; none of them is loaded."""
    from importlib.metadata import entry_points  # 50 ms, which most commands don't need

    return {point.name for point in entry_points(group=ENTRY_POINTS[group])} if group in ENTRY_POINTS else set()


def find_overruled(experiment: Any, overrides: Sequence[str]) -> list[str]:
    """Return a line for each override that is read and then has no effect, because another setting decides it.

    `experiment` is the Experiment that the overrides describe.
    """
    given = {one.key: one for one in map(Override.parse, overrides)}
    algorithm, mechanism, document = experiment.algorithm, experiment.mechanism, experiment.node()
    name, lines = algorithm.name, list[str]()
    if "rounds" in given and experiment.rounds != document["rounds"]:
        lines.append(f"{given['rounds'].text} is not used: algorithm {name} plays {_rounds(experiment.rounds)}, always")
    if not algorithm.trains:
        lines += [
            f"{given[key].text} is not used: algorithm {name} trains nothing, and its statistic brings its own bound"
            for key in (f"privacy.{field}" for field in TRAINING_ONLY)
            if key in given
        ]
    elif mechanism.trains_by_dp_sgd:
        lines += [
            f"{given[f'algorithm.{field}'].text} is not used: with this privacy, privacy.{instead} decides"
            for field, instead in BY_DP_SGD.items()
            if f"algorithm.{field}" in given
        ]
    if mechanism.clipping == "whole" and "privacy.dense_share" in given and algorithm.trains:
        lines.append(f"{given['privacy.dense_share'].text} is not used without privacy.clipping=split")
    return lines


def flat(node: Mapping[str, Any]) -> set[str]:
    """Return the dotted names of everything in a configuration, branches included."""
    return {key for key, _ in items(node)}


def items(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in a configuration with its dotted name, branches before what is in them."""
    for key, value in node.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from items(cast(dict[str, Any], value), f"{prefix}{key}.")


def _told(where: str, value: Any) -> str:
    """Return where a value comes from, with what it is taken over from."""
    return f"{where}: {value}" if isinstance(value, str) and value.startswith("${") else where


def _read(path: Path) -> dict[str, Any]:
    try:
        node = yaml.load(path.read_text(), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FedrecError(f"{path}: {str(error).splitlines()[0]}") from error
    if not isinstance(node, dict):
        raise FedrecError(f"{path}: settings are expected, key: value on each line")
    return cast(dict[str, Any], node)


def _meant(text: str) -> str:
    """Return a hint for a text without "=": a choice's group, or how lists are written."""
    if re.fullmatch(r"[-+.\de]+", text):
        return "; lists are written with commas, such as --seeds 0,1,2"
    groups = [group for group, choices in Conf.of().groups.items() if text in choices]
    return f". Did you mean '{groups[0]}={text}'?" if groups else ""


def _check_clip(one: Override, known: set[str], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Tell the norm and the way of clipping apart, and refuse a way that the chosen mechanism has not."""
    if one.key == "privacy.clip" and one.value in HOW_TO_CLIP:
        raise FedrecError(
            f"{one.text}: the clip is a number, the largest norm; how to clip is privacy.clipping={one.value}"
        )
    if one.key == "privacy.clipping" and one.key not in known:
        target = next(node["privacy"]["_target_"] for node in nodes if "_target_" in node.get("privacy", {}))
        raise RefusedError(
            f"{one.text}: {target.rsplit('.', 1)[-1]} bounds an example's gradient as a whole, or nothing; clips apart "
            "go with privacy=user, user_adaptive, user_local, user_secure or banded"
        )


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def quoted(text: str) -> str:
    """Return a text as the value of an override, which Hydra and OmegaConf read as that text."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # else a reference to another setting
    plain = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), plain)
    return f"'{plain}'"


def unquoted(text: str) -> str:
    """Return a text without the quotes that somebody put around it for Hydra's sake; any other as it is."""
    found = re.fullmatch(r"""(['"])((?:\\.|(?!\1)[^\\])*)\1""", text, re.DOTALL)
    if found is None:
        return text
    before = rf"(\\+)(?={found[1]}|$)"
    bare = re.sub(before, lambda one: one[1][: len(one[1]) // 2], found[2])
    return re.sub(r"(\\*)\\\$\{", lambda one: one[1][: len(one[1]) // 2] + "${", bare)
