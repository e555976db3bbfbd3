"""A device derives how a round protects it, and does not believe the server's document.

Sensitivity, clip, noise and the played rounds come from (algorithm, mechanism, public plan) by the code that calibrates
a simulation; a document that says anything else is refused. The engine without torch has no such code: it carries only
user level, whose noise falls at the server.
"""

import hashlib
import json
from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import LEAVE_LAST_OUT, REPEATS
from fedrec.device.consent.request import PlayedRounds
from fedrec.device.dataset import BufferedPrivateStore, rehearsal_dataset, train_on
from fedrec.device.limits import MOST_DEVICES
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.instantiate import canonical, canonical_document
from fedrec.messages import Message

if TYPE_CHECKING:
    from fedrec.data.datasets.enrolled_devices import Enrolled

ENROLLED, SPLITS = "fedrec.data.datasets.enrolled_devices.Enrolled", (LEAVE_LAST_OUT, "none")
MISSING = object()
UNDERSTOOD = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, IndexError, RecursionError)


def check_enrolled(header: Mapping[str, Any]) -> None:
    """Raise `RefusedError` unless a request's experiment is the one that its hash names, and its data set real devices.

    The engine without torch lacks what reads data sets: the words of the document alone are looked at here.
    """
    text = str(header["experiment"])
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != header["hash"]:
        raise RefusedError("the experiment is not the one that its hash names")
    node = json.loads(text).get("dataset")
    if not isinstance(node, dict) or canonical(str(cast(dict[str, Any], node).get("_target_"))) != ENROLLED:
        raise RefusedError("dataset: real devices take part in dataset=devices alone")
    settings = cast(dict[str, Any], node)
    for name in ("devices", "interactions_per_device"):
        value = settings.get(name)
        if type(value) is not int or not 0 < value <= MOST_DEVICES:
            raise RefusedError(f"dataset.{name}={value}: 1 to {MOST_DEVICES} expected")
    if header["devices"][0] >= settings["devices"]:
        raise RefusedError(f"dataset.devices={settings['devices']}: it asks for a device beyond them")
    if (split := settings.get("split")) not in SPLITS:
        raise RefusedError(f"dataset.split={split} does not exist")
    if type(threshold := settings.get("threshold")) not in (int, float, NoneType):
        raise RefusedError(f"dataset.threshold={threshold}: a number or null expected")
    if (repeats := settings.get("repeats", REPEATS[0])) not in REPEATS:
        raise RefusedError(f"dataset.repeats={repeats} does not exist")


def rehearse(request: Message, catalogue: Catalogue, engine: str) -> PlayedRounds | None:
    """Return the rounds of a train request's run, derived and tried on a few public items; None without torch.

    Whatever keeps the round from being trained is `FedrecError`: nothing has been charged yet.
    """
    try:
        check_enrolled(request.header)
        played = None if engine == "light" else derive_rounds(request.header, catalogue)
        private = BufferedPrivateStore(None, request.header["round"])
        tried = train_on(engine, rehearsal_dataset(catalogue, request.header), private, False)(request)
    except FedrecError:
        raise
    except (*UNDERSTOOD, RuntimeError) as error:
        raise RefusedError(f"the round can't be trained ({type(error).__name__})") from error
    if any(not np.isfinite(array).all() for array in tried.arrays.values()):
        raise RefusedError("what this round would send is not finite")
    return played


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

    check_enrolled(header)
    experiment = Experiment.from_json(header["experiment"])
    public = cast("Enrolled", experiment.dataset).public_dataset(catalogue)
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
