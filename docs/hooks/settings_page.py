"""Write the settings reference from `conf/`: a comment in a yaml file is the description of what it stands beside.

A key without a comment takes the one of the same key in another file of its group, so that each is described once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

GROUPS = ("dataset", "model", "algorithm", "privacy", "cohort", "evaluation", "experiment")
HIDDEN = ("_target_", "_partial_", "defaults")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a yaml file: its dotted name under the group, its value as written, and its comment."""

    key: str
    default: str
    comment: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One yaml file of a group: the comment at its head, the class that it builds, and its settings."""

    name: str
    summary: str
    target: str
    settings: tuple[Setting, ...]


def read_choice(path: Path, group: str) -> Choice:
    """Read one yaml file of a group."""
    text = path.read_text()
    lines = text.splitlines()
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        return Choice(path.stem, "", "", ())
    found = dict(_walk(root, ""))
    prefix = f"{group}." if f"{group}._target_" in found else ""
    target = found.get(f"{prefix}_target_")
    settings = tuple(
        Setting(key.removeprefix(prefix), _value(node, text), _comment(lines[node.end_mark.line], node))
        for key, node in found.items()
        if key.rpartition(".")[2] not in HIDDEN and not key.startswith("defaults")
    )
    return Choice(path.stem, _head(lines), target.value if target else "", settings)


def read_group(conf: Path, group: str) -> list[Choice]:
    """Read all choices of a group, comments shared among them."""
    choices = [read_choice(path, group) for path in sorted((conf / group).glob("*.yaml"))]
    said = {setting.key: setting.comment for choice in choices for setting in choice.settings if setting.comment}
    return [
        Choice(choice.name, choice.summary, choice.target, tuple(_described(s, said) for s in choice.settings))
        for choice in choices
    ]


def render_run(conf: Path) -> str:
    """Return the page of what belongs to no group."""
    choice = read_choice(conf / "config.yaml", "run")
    rows = _table([setting for setting in choice.settings if setting.key not in GROUPS], "")
    return f"# Settings\n\n{RUN_TEXT}\n\n## Of a run\n\n{rows}\n"


def render_group(conf: Path, group: str) -> str:
    """Return the page of one group: what all choices have, then each choice with what it has besides."""
    choices = read_group(conf, group)
    common = _common(choices)
    parts = [f"# `{group}`", TEXTS[group], _overview(group, choices)]
    if common:
        parts += ["## Settings that every choice has", _table(list(common), f"{group}.")]
    for choice in choices:
        own = [setting for setting in choice.settings if setting not in common]
        prefix = "" if group == "experiment" else f"{group}."
        parts += [f"## `{group}={choice.name}`", choice.summary, _target(choice), _table(own, prefix)]
    return "\n\n".join(part for part in parts if part) + "\n"


def undescribed(conf: Path) -> list[str]:
    """Return the settings that no comment describes."""
    run = [s.key for s in read_choice(conf / "config.yaml", "run").settings if not s.comment and s.key not in GROUPS]
    groups = (group for group in GROUPS if group != "experiment")
    found = [(group, s.key) for group in groups for c in read_group(conf, group) for s in c.settings if not s.comment]
    return run + sorted({f"{group}.{key}" for group, key in found if not key.startswith(GROUPS) and key != "rounds"})


def _walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _walk(value, f"{name}.")
        else:
            yield name, value


def _value(node: yaml.Node, text: str) -> str:
    return text[node.start_mark.index : node.end_mark.index].strip()


def _comment(line: str, node: yaml.Node) -> str:
    return line[node.end_mark.column :].partition("#")[2].strip()


def _head(lines: list[str]) -> str:
    """Return the comment lines before the first key, but for Hydra's own."""
    head = list[str]()
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            head.append(line.removeprefix("#").strip())
    return " ".join(head)


def _described(setting: Setting, said: dict[str, str]) -> Setting:
    last = setting.key.rpartition(".")[2]
    return Setting(setting.key, setting.default, setting.comment or said.get(setting.key) or said.get(last, ""))


def _common(choices: list[Choice]) -> tuple[Setting, ...]:
    if len(choices) < 2:
        return ()
    return tuple(s for s in choices[0].settings if all(s in choice.settings for choice in choices[1:]))


def _overview(group: str, choices: list[Choice]) -> str:
    if len(choices) < 2:
        return ""
    rows = [f"| [`{group}={c.name}`](#{_anchor(group, c.name)}) | {c.summary} |" for c in choices]
    return "\n".join(["| choice | |", "|---|---|", *rows])


def _anchor(group: str, name: str) -> str:
    return f"{group}{name}"


def _target(choice: Choice) -> str:
    return f"Builds `{choice.target}`." if choice.target else ""


def _table(settings: list[Setting], prefix: str) -> str:
    if not settings:
        return ""
    rows = [f"| `{prefix}{s.key}` | `{s.default}` | {s.comment.replace('|', chr(92) + '|')} |" for s in settings]
    return "\n".join(["| key | default | what it is |", "|---|---|---|", *rows])


RUN_TEXT = """Every command that runs something takes the same settings: `key=value` sets one, `group=choice` picks a
file of `conf/`. A key that does not exist is refused with the nearest one that does.

```sh
fedrec simulate model=mf privacy=user privacy.epsilon=4 rounds=20
fedrec config model=mf privacy=user        # all settings of that run, and where each came from
```

A group's page lists its choices and what each can be told: [dataset](dataset.md), [model](model.md),
[algorithm](algorithm.md), [privacy](privacy.md), [cohort](cohort.md), [evaluation](evaluation.md) and
[experiment](experiment.md). These pages are made from the files and comments in `conf/`.

Values are written as in YAML: `null`, `true`, `[a, b]`. In a shell, quote what holds brackets or spaces. A number may
be written `1e-5`. Files of your own are found with `--config-dir DIR` ([your own model](../../how_to/own_model.md)).

**Precedence.** `conf/config.yaml`, then the chosen files (a model brings its algorithm and its number of rounds), then
what is written on the command line."""

TEXTS = {
    "dataset": "What is trained on. `fedrec data list` shows which sets are here, and how to get the others; "
    "`fedrec data check dataset=NAME` says what was found in one. See [your own data](../../how_to/own_data.md).",
    "model": "What ranks items on the device. Each model brings an algorithm and a number of rounds that fit it. "
    "See [your own model](../../how_to/own_model.md).",
    "algorithm": "What a device contributes, and what the server makes of the sum. A model brings its own; "
    "`algorithm=` chooses another, where the two go together.",
    "privacy": "What is hidden, from whom, and who has to be trusted. "
    "[Mechanisms](../../privacy/mechanisms.md) says what each promises.",
    "cohort": "Which devices take part in a round.",
    "evaluation": "How models are measured.",
    "experiment": "A whole scenario by one word; everything in it can be chosen otherwise.",
}
