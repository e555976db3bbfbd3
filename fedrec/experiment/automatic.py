"""Settings with `model=auto`: the data are loaded, the rule is asked, and the settings are composed with its answer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fedrec.errors import FedrecError
from fedrec.experiment.extensions import split_overrides
from fedrec.experiment.overrides import AUTO, Conf, Override
from fedrec.experiment.settings import Settings, load

if TYPE_CHECKING:
    from fedrec.models.auto import Choice

Compose = Callable[[Sequence[str]], Settings]  # from overrides to settings: some may name what only a program knows
OF_THE_MODEL = re.compile(r"[+~]*(model|algorithm)\.|rounds=")  # what can be checked once there is a model


def load_chosen(overrides: Sequence[str], compose: Compose = load) -> Settings:
    """Compose settings, with the model that `model=auto` chooses for their data in its place.

    It is the default of data sets of one's own. What else is set of a model holds for the chosen one, or is an error
    that says which one was chosen.
    """
    if not asks_for_choice(overrides):
        return compose(overrides)
    choice = choose(compose([text for text in overrides if not OF_THE_MODEL.match(text)]))
    try:
        return replace(compose(with_choice(overrides, choice)), chosen=choice)
    except FedrecError as error:
        raise FedrecError(f"{error} ({choice})") from error


def with_choice(overrides: Sequence[str], choice: "Choice") -> list[str]:
    """Return overrides with the chosen model in the place of `model=auto`; what they set otherwise comes later."""
    return [*choice.overrides, *(text for text in overrides if text != f"model={AUTO}")]


def asks_for_choice(overrides: Sequence[str]) -> bool:
    """Say whether overrides name `model=auto`, or leave the model to a data set whose default it is."""
    settings, extensions = split_overrides(overrides)
    given = {one.key: one.choice for one in map(Override.parse, settings)}
    if "model" in given:
        return given["model"] == AUTO
    conf = Conf.of(*extensions.config_dirs)
    known = {group: choice for group, choice in given.items() if choice in conf.groups.get(group, ())}
    return conf.choose(known)["model"] == AUTO


def choose(settings: Settings) -> "Choice":
    """Return what suits the data of these settings under their privacy, by what is public of both."""
    from fedrec.experiment.experiment import load_dataset  # torch takes seconds to import
    from fedrec.models.auto import choose_model

    experiment = settings.experiment
    dataset = load_dataset(experiment)
    return choose_model(dataset, experiment.mechanism, experiment.plan(dataset))
