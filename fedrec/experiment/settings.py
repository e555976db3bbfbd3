"""The only file that knows Hydra: from overrides to a resolved document, with errors that name what would be right."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedrec.errors import FedrecError, RefusedError, suggest
from fedrec.experiment.extensions import Extensions, search_path, split_overrides
from fedrec.experiment.instantiate import allow, allowed, foreign_targets, instantiate, package_of
from fedrec.experiment.overrides import Conf, Override, items, quoted
from fedrec.paths import conf_dir

if TYPE_CHECKING:
    from fedrec.data.dataset import Dataset, DataSource
    from fedrec.experiment.experiment import Experiment
    from fedrec.models.auto import Choice

EXPERIMENT_KEYS = (
    "dataset", "model", "algorithm", "privacy", "cohort", "evaluation", "rounds", "seed", "accelerator", "engine",
)  # fmt: skip

NOT_OF_THE_RUN = ("name", "output", "overwrite", "run")  # where a run lies: its own each time
PLAIN = re.compile(r"[\w./:~-]+")  # what needs no quotes in an override


@dataclass
class Schema:
    """The run-level settings and their kinds; groups are checked by the classes that they build."""

    name: str | None = None
    output: str = "runs"
    overwrite: bool = False
    rounds: int = 1
    seed: int = 0
    accelerator: str = "cpu"
    engine: str = "auto"
    nodes: int = 2
    keep_releases_mb: float = 100.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command was asked to do: the experiment, and where and how to run it.

    `chosen` is the model that `model=auto` chose, and why; None where a model was named.
    """

    document: dict[str, Any]
    chosen: "Choice | None" = None

    @property
    def experiment(self) -> "Experiment":
        """Build the experiment that the settings describe, with the packages that they allow.

        They are what a person typed, or the folder of a run that a person named: they may allow, a message may not.
        """
        from fedrec.experiment.experiment import Experiment  # torch takes seconds to import

        allow(*self.document.get("allow", ()))
        own = {"allow": self.document["allow"]} if self.document.get("allow") else {}
        return Experiment.from_json(json.dumps({**{key: self.document[key] for key in EXPERIMENT_KEYS}, **own}))

    @property
    def source(self) -> "DataSource":
        """Build the data set's source alone, for what asks no more of the experiment: torch takes memory, too."""
        allow(*self.document.get("allow", ()))
        return instantiate(self.document["dataset"], "dataset")

    def find_population(self, dataset: "Dataset") -> str:
        """Return the population whose ledger the run is charged to: the one that the settings name, or its people's."""
        from fedrec.privacy.ledger.people import find_population

        return find_population(dataset, self.document["dataset"].get("population"))

    def yaml(self) -> str:
        """Return the settings as YAML."""
        return yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True)


def validate(settings: Settings) -> Settings:
    """Return the settings if their data loads and their parts fit together, so that a mistake leaves no run behind."""
    from fedrec.experiment.experiment import load_dataset  # torch takes seconds to import
    from fedrec.experiment.inputs import tell_inputs
    from fedrec.experiment.rehearsal import check_tested, rehearse

    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    population = settings.find_population(dataset)
    if experiment.mechanism.private:
        tell_inputs(experiment.build_model(dataset.catalogue), dataset.catalogue, population)
    if len(dataset.interactions):  # else devices hold them: what they keep for tests is theirs
        check_tested(experiment, dataset)
    rehearse(experiment, dataset)
    return settings


def load(overrides: Sequence[str]) -> Settings:
    """Compose the settings from `conf/` and the overrides; every mistake is an error that names what would be right.

    `allow=PACKAGE` and `config_dir=FOLDER` among them, as often as needed, bring parts of the user's own.
    """
    settings, extensions = split_overrides(overrides)
    with search_path(settings, extensions) as folders, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        Conf.of(*folders).check(settings)
        places = ", ".join(f"'file://{folder}'" for folder in folders)
        search = [f"hydra.searchpath=[{places}]"] if folders else []
        try:
            config = compose("config", [*(Override.parse(text).composed for text in settings), *search])
        except (HydraException, OmegaConfBaseException) as error:
            raise FedrecError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    if "allow" in config:
        raise RefusedError("allow stands in a yaml file: only a person allows a package, on the command line: --allow")
    return with_packages(resolved(config), extensions)


def with_model(settings: Settings, model: str) -> Settings:
    """Return the settings with another of fedrec's models and what it brings, without what was set of the first one.

    Nothing is composed anew: the yaml files of the model and of its algorithm take the place of the others.
    """
    conf = Conf.of()
    brought, usual = conf.choose({"model": model}), conf.choose({})
    groups = [
        group for group in ("algorithm", "cohort", "model") if group != "cohort" or brought[group] != usual[group]
    ]
    rest = {key: value for key, value in settings.document.items() if key not in groups}
    layers = [conf.layer(group, str(brought[group]))[1] for group in groups]
    return Settings(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(rest, *layers), resolve=True)))


def with_packages(settings: Settings, extensions: Extensions) -> Settings:
    """Return the settings with `allow`: the packages that a person named, and those that the settings build from."""
    used = (package_of(target, allowed()) for _, target in foreign_targets(settings.document))
    packages = sorted({*extensions.allow, *(name for name in used if name is not None)})
    return Settings({**settings.document, "allow": packages}) if packages else settings


def read(path: Path) -> Settings:
    """Return the settings that a run folder keeps."""
    if not path.exists():
        raise FedrecError(f"{path} does not exist: --resume takes the folder of a run")
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FedrecError(f"{path} is not the configuration of a run: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or not {"run", *EXPERIMENT_KEYS} <= cast(dict[str, Any], document).keys():
        raise FedrecError(f"{path} is not the configuration of a run: --resume takes the folder that a run printed")
    packages = cast("dict[str, Any]", document).get("allow", [])
    if not isinstance(packages, list) or not all(isinstance(name, str) for name in cast("list[Any]", packages)):
        raise FedrecError(f"{path}: allow={packages}: a list of packages is expected, such as [my_package]")
    return Settings(cast(dict[str, Any], document))


def resolved(config: DictConfig) -> Settings:
    """Check the run-level settings against their schema and return plain values."""
    try:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise FedrecError(str(error).splitlines()[0]) from error
    known = {*Schema.__dataclass_fields__, *EXPERIMENT_KEYS}
    for key in known - plain.keys():
        raise FedrecError(f"{key} is missing: it can be set, not removed")
    for key in plain.keys() - known:
        raise FedrecError(f"{key} does not exist.{suggest(key, known)}")
    for key in EXPERIMENT_KEYS[:6]:
        if not isinstance(plain[key], dict) or "_target_" not in plain[key]:
            raise FedrecError(f"{key} must be one of the choices in conf/{key}, with _target_ left as it is")
    levels = {key: value for key, value in plain.items() if key in Schema.__dataclass_fields__}
    for key, value in levels.items():
        try:
            OmegaConf.merge(OmegaConf.structured(Schema), {key: value})
        except OmegaConfBaseException as error:
            kind = Schema.__dataclass_fields__[key].type
            raise FedrecError(f"{key}={value}: expected {getattr(kind, '__name__', kind)}") from error
        if key == "name" and value is not None and not isinstance(value, str):
            plain["name"] = str(value)
    least = {"rounds": 1, "seed": 0, "nodes": 1, "keep_releases_mb": 0}
    for key in least:
        if plain[key] < least[key]:
            raise FedrecError(f"{key}={plain[key]}: at least {least[key]} expected")
    return Settings(plain)


def find_overrides(document: Mapping[str, Any]) -> list[str] | None:
    """Return the overrides that compose such settings again; None where fedrec's own choices don't."""
    conf, choices = Conf.of(), dict[str, str]()
    for group in conf.defaults:
        if group not in document:
            continue
        target = document[group]["_target_"]
        fitting = [choice for choice in conf.groups[group] if target in conf.path(group, choice).read_text()]
        found = {choice: conf.layer(group, choice)[1][group] for choice in fitting}
        if not found:
            return None
        choices[group] = min(found, key=lambda choice: len(_changed(found[choice], document[group])))
    for group in list(choices):  # what another choice or the default brings need not be said
        rest = {name: choice for name, choice in choices.items() if name != group}
        if conf.choose(rest) == conf.choose(choices):
            choices = rest
    composed = dict[str, Any]()
    for _, node in conf.layers(choices):
        composed |= dict(items(node))
    own = {key: value for key, value in items(document) if key not in NOT_OF_THE_RUN and not isinstance(value, dict)}
    for key, value in composed.items():  # taken over from another setting
        if isinstance(value, str) and value.startswith("${"):
            composed[key] = own.get(value.strip("${}"), value)
    changed = [f"{key}={_written(value)}" for key, value in own.items() if composed.get(key) != value]
    return [*(f"{group}={choice}" for group, choice in choices.items()), *changed]


def _changed(node: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key, value in items(other) if dict(items(node)).get(key) != value]


def _written(value: Any) -> str:
    """Return a value as an override says it."""
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return quoted(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1_000_000).removesuffix("...\n").strip()
