"""A device derives how a round protects it, and does not believe the server's document.

Sensitivity, clip, noise and the played rounds come from (algorithm, mechanism, public plan) by the code that calibrates
a simulation; a document that says anything else is refused. The engine without torch has no such code: it carries only
user level, whose noise falls at the server.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedrec.data.catalogue import Catalogue
from fedrec.data.datasets.enrolled_devices import Enrolled
from fedrec.device.consent.request import PlayedRounds
from fedrec.device.limits import MOST_DEVICES
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.instantiate import canonical_document, instantiate

MISSING = object()
UNDERSTOOD = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError, RecursionError)


def check_enrolled(header: Mapping[str, Any]) -> Enrolled:
    """Return the data set of a request; raise `RefusedError` unless it is that of real devices, this one among them,
    and the experiment the one that its hash names.
    """
    text = str(header["experiment"])
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != header["hash"]:
        raise RefusedError("the experiment is not the one that its hash names")
    source = instantiate(json.loads(text)["dataset"], "dataset")
    if not isinstance(source, Enrolled):
        raise RefusedError("dataset: real devices take part in dataset=devices alone")
    if not 0 < (source.devices or 0) <= MOST_DEVICES:
        raise RefusedError(f"dataset.devices={source.devices}: 1 to {MOST_DEVICES} expected")
    if not 0 < source.interactions_per_device <= MOST_DEVICES:
        raise RefusedError("dataset.interactions_per_device: a number above 0 expected")
    return source


def derive_rounds(header: Mapping[str, Any], catalogue: Catalogue) -> PlayedRounds:
    """Return the rounds that a request's run plays; one whose protection differs from this device's own result is
    `RefusedError`, before anything is charged.
    """
    try:
        return _derived(header, catalogue)
    except FedrecError:
        raise
    except UNDERSTOOD as error:
        raise RefusedError(f"the experiment can't be understood ({type(error).__name__})") from error


def _derived(header: Mapping[str, Any], catalogue: Catalogue) -> PlayedRounds:
    from fedrec.experiment.experiment import Experiment

    public = check_enrolled(header).public_dataset(catalogue)
    experiment = Experiment.from_json(header["experiment"])
    calibrated = experiment.calibrated(public)
    told, found = (canonical_document(each.node()["privacy"]) for each in (experiment, calibrated))
    for field in sorted({*told, *found}):
        if field not in told or told[field] != found.get(field, MISSING) or _kind(told[field]) != _kind(found[field]):
            shown = told.get(field, "missing")
            raise RefusedError(f"privacy.{field}={shown}: this device finds {found.get(field, 'no such field')}")
    plan = experiment.plan(public)
    return PlayedRounds(plan.rounds, plan.shares)


def _kind(value: object) -> type:
    """Return a value's type, whole numbers among the others: JSON writes 1.0 as 1 here and there."""
    return float if type(value) is int else type(value)
