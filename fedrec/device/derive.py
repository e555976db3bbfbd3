"""A device derives how a round protects it, and does not believe the server's document.

Sensitivity, clip, noise and the played rounds come from (algorithm, mechanism, public plan) by the code that calibrates
a simulation; a document that says anything else is refused. The engine without torch has no such code: it carries only
user level, whose noise falls at the server.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from fedrec.data.catalogue import Catalogue
from fedrec.device.consent.request import PlayedRounds
from fedrec.errors import FedrecError, RefusedError

MOST_DEVICES = 10_000_000  # of one population: what the plan takes grows with them


def derive_rounds(header: Mapping[str, Any], catalogue: Catalogue) -> PlayedRounds:
    """Return the rounds that a request's run plays; one whose protection differs from this device's own result is
    `RefusedError`, before anything is charged.
    """
    try:
        return _derived(header, catalogue)
    except FedrecError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
        raise RefusedError(f"the experiment can't be understood ({type(error).__name__})") from error


def _derived(header: Mapping[str, Any], catalogue: Catalogue) -> PlayedRounds:
    from fedrec.data.datasets.enrolled_devices import Enrolled
    from fedrec.experiment.experiment import Experiment

    experiment = Experiment.from_json(header["experiment"])
    if hashlib.sha256(header["experiment"].encode()).hexdigest() != header["hash"]:
        raise RefusedError("the experiment is not the one that its hash names")
    if not isinstance(experiment.dataset, Enrolled):
        raise RefusedError("dataset: real devices take part in dataset=devices alone")
    if not 0 < (experiment.dataset.devices or 0) <= MOST_DEVICES:
        raise RefusedError(f"dataset.devices={experiment.dataset.devices}: 1 to {MOST_DEVICES} expected")
    if not 0 < experiment.dataset.interactions_per_device <= MOST_DEVICES:
        raise RefusedError("dataset.interactions_per_device: a number above 0 expected")
    public = experiment.dataset.public_dataset(catalogue)
    own = experiment.calibrated(public).mechanism
    for field in fields(cast(Any, own)):
        told, found = getattr(experiment.mechanism, field.name), getattr(own, field.name)
        if told != found:
            raise RefusedError(f"privacy.{field.name}={told}: this device finds {found}")
    plan = experiment.plan(public)
    return PlayedRounds(plan.rounds, plan.shares)
