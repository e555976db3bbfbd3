"""What a person checks before a run on a data set: how it was read, what is in it, and what can be done with it."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.data.dataset import Dataset
from fedrec.data.facts import Facts, plural
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.instantiate import instantiate
from fedrec.experiment.overrides import AUTO, Conf
from fedrec.experiment.rehearsal import check_tested
from fedrec.experiment.settings import Settings, with_model
from fedrec.models.base import Recommender
from fedrec.paths import populations
from fedrec.privacy.ledger.projection import read_ledgers

SHOWN = 3  # ids that are shown of each kind


@dataclass(frozen=True, slots=True)
class Usable:
    """Which models can be used on a data set, and with which mechanisms each; why others can't."""

    models: dict[str, tuple[str, ...]]
    refused: dict[str, str]

    def lines(self) -> list[str]:
        """Return the models, those alike together, and what is refused."""
        alike = dict[tuple[str, ...], list[str]]()
        for model, mechanisms in self.models.items():
            alike.setdefault(mechanisms, []).append(model)
        made = [f"model={'|'.join(models)}: privacy={'|'.join(those)}" for those, models in alike.items()]
        return [*made, *(f"not model={model}: {reason}" for model, reason in self.refused.items())]


def find_usable(dataset: Dataset, settings: Settings) -> Usable:
    """Return what can be used on a data set, by the checks that a run begins with; no noise is calibrated."""
    conf, models, refused = Conf.of(), dict[str, tuple[str, ...]](), dict[str, str]()
    nodes = {choice: conf.layer("privacy", choice)[1]["privacy"] for choice in conf.groups["privacy"]}
    mechanisms = {choice: instantiate(node, "privacy") for choice, node in nodes.items()}
    for choice in (one for one in conf.groups["model"] if one != AUTO):
        try:
            experiment = with_model(settings, choice).experiment
            model = experiment.build_model(dataset.catalogue)
        except FedrecError as error:
            refused[choice] = str(error)
            continue
        models[choice] = tuple(
            name for name, one in mechanisms.items() if _fits(replace(experiment, mechanism=one), model)
        )
    return Usable(models, refused)


def _fits(experiment: Experiment, model: Recommender) -> bool:
    try:
        experiment.check_parts(model)
    except FedrecError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class DataCheck:
    """A loaded data set with what a run on it would meet; `problem` is what it would end with before it begins."""

    dataset: Dataset
    why: dict[str, str]
    population: str
    spent: str
    usable: Usable
    problem: str
    command: str

    @classmethod
    def of(cls, settings: Settings, dataset: Dataset, overrides: Sequence[str], why: dict[str, str]) -> "DataCheck":
        """Look at a data set that was loaded; nothing is trained and nothing charged."""
        population, spent, problem = dataset.population, "nothing spent", ""
        try:
            population = settings.find_population(dataset)
            if population in populations():
                spent = " ".join(line.strip() for one in read_ledgers(population) for line in one.lines()[:2])
            if len(dataset.interactions):
                check_tested(settings.experiment, dataset)
        except FedrecError as error:
            problem = str(error)
        return cls(dataset, why, population, spent, find_usable(dataset, settings), problem, next_command(overrides))

    def lines(self) -> list[str]:
        """Return what was found, one line each."""
        return [
            *summary(self.dataset, self.why)[:-1],
            f"population: {self.population}: {self.spent}",
            *self.usable.lines(),
            *(f"warning: {one.text}{f'; {one.setting}' if one.setting else ''}" for one in self.dataset.findings),
            *([] if self.problem else [f"next: {self.command}"]),
        ]

    def json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        dataset, facts, reading = self.dataset, self.dataset.facts, self.dataset.reading
        return {
            "name": dataset.name,
            "users": dataset.interactions.users,
            "items": len(dataset.catalogue),
            "interactions": len(dataset.interactions),
            "read": None if reading is None else {**asdict(reading), "why": self.why},
            "ids": {"user": kind_of(dataset.interactions.user_ids), "item": kind_of(dataset.catalogue.ids)},
            "times": _times(dataset),
            "facts": None if facts is None else asdict(facts),
            "catalogue": {"origin": dataset.catalogue.origin, "features": list(dataset.catalogue.feature_names)},
            "split": dataset.split,
            "held_out": dict(zip(("validation", "test"), held_out(dataset), strict=True)),
            "links": len(dataset.links),
            "repairs": dict(dataset.repairs),
            "population": {"name": self.population, "spent": self.spent},
            "models": {model: list(mechanisms) for model, mechanisms in self.usable.models.items()},
            "refused": self.usable.refused,
            "findings": [asdict(one) for one in dataset.findings],
            "problem": self.problem or None,
            "next": None if self.problem else self.command,
        }


def summary(dataset: Dataset, why: dict[str, str] | None = None) -> list[str]:
    """Return the sizes, what was read, the repairs, the split and the population of a data set, one line each."""
    table, held = dataset.interactions, held_out(dataset)
    return [
        f"{dataset.name}: {len(table):,} interactions, {table.users:,} {plural('user', table.users)}, "
        f"{len(dataset.catalogue):,} items",
        *_read(dataset, why or {}),
        *([] if dataset.facts is None else _facts(dataset, dataset.facts)),
        f"catalogue: from the {dataset.catalogue.origin}, {_features(dataset.catalogue.feature_names)}",
        f"split: {dataset.split}",
        f"held out: {held[0]:,} for validation, {held[1]:,} for the test",
        *([f"links between users: {len(dataset.links):,}"] if len(dataset.links) else []),
        *(f"repaired: {what}: {count:,}" for what, count in dataset.repairs),
        f"population: {dataset.population}",
    ]


def held_out(dataset: Dataset) -> tuple[int, int]:
    """Return how many rows are held out for validation and for the test."""
    devices = dataset.devices
    return int((devices.test_from - devices.validation_from).sum()), int((devices.start[1:] - devices.test_from).sum())


def kind_of(ids: NDArray[np.str_]) -> str:
    """Return what ids are, with the first of them: whole numbers, or text."""
    number = all(name.removeprefix("-").isdecimal() for name in ids.tolist())
    shown = ", ".join(ids[:SHOWN].tolist())
    return f"{'whole numbers' if number else 'text'} ({shown}{', ...' if len(ids) > SHOWN else ''})"


def next_command(overrides: Sequence[str]) -> str:
    """Return the command that trains on the data set, ready to paste into a shell; the data choose the model."""
    own = [] if any(one.startswith("privacy=") for one in overrides) else ["privacy=user"]
    return shlex.join(["fedrec", "simulate", *overrides, *own])


def _read(dataset: Dataset, why: dict[str, str]) -> list[str]:
    reading = dataset.reading
    if reading is None:
        return []
    played = (f"{part} = {name}{f' ({why[part]})' if part in why else ''}" for part, name in reading.columns.items())
    unread = f"; not read: {', '.join(reading.unread)}" if reading.unread else ""
    return [f"read as {reading.form}: {', '.join(played)}{unread}"]


def _facts(dataset: Dataset, facts: Facts) -> list[str]:
    users, items = kind_of(dataset.interactions.user_ids), kind_of(dataset.catalogue.ids)
    short, median, long, longest = facts.histories
    lines = [
        f"ids: users are {users}, items are {items}",
        f"histories: {short:,} at least, median {median:,.0f}, 90 % up to {long:,.0f}, {longest:,} at most",
    ]
    if (times := _times(dataset)) is not None:
        tied = f"; {facts.tied:,} rows share theirs with another of the same user" if facts.order == "time" else ""
        lines.insert(1, f"times: {times['first']} to {times['last']} ({times['said']}){tied}")
    if (seen := facts.ratings) is not None:
        many = zip(seen.scale, seen.counts, strict=True)
        scale = ", ".join(f"{value:g} {count / sum(seen.counts):.0%}" for value, count in many) or "many values"
        lines.append(f"ratings: {seen.low:g} to {seen.high:g} ({scale})")
    if facts.repeats:
        rows = f"{facts.repeats:,} {plural('row', facts.repeats)} of a user and an item that came before"
        lines.append(f"repeats: {rows}; {facts.last_repeated:,} of {facts.users:,} users end with one")
    return lines


def _times(dataset: Dataset) -> dict[str, str] | None:
    facts, clock = dataset.facts, dataset.clock
    if facts is None or facts.times is None:
        return None
    return {"first": clock.date(facts.times[0]), "last": clock.date(facts.times[1]), "said": clock.said}


def _features(names: Sequence[str]) -> str:
    """Return what the features of a catalogue are, a group of them at a time."""
    groups = list(dict.fromkeys(name.partition(":")[0] for name in names))
    shown = f" ({', '.join(groups)})" if groups else ""
    return f"{len(names)} {plural('feature', len(names))}{shown}"
