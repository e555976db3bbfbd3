"""A device derives its own protection: a document that says anything else is refused before anything is charged."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedrec.data.datasets.enrolled_devices import Enrolled
from fedrec.device.consent.request import parse_request
from fedrec.device.derive import derive_rounds
from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.instantiate import instantiate
from fedrec.experiment.settings import load
from fedrec.privacy.accounting.composition import compose, compose_events, compute_epsilon
from tests.support.tiny import catalogue

VALUES = (None, 0, -1, 1e-6, 1e300, math.nan, math.inf, True, "1", [], {}, {"_target_": "fedrec.errors.FedrecError"})
PAIRS = [
    ("popularity", "interaction"),
    ("popularity", "user"),
    ("popularity", "user_local"),
    ("mf", "interaction"),
    ("ease", "user"),
]


def calibrated(model: str, privacy: str) -> Experiment:
    overrides = ["dataset=devices", "dataset.devices=50", f"model={model}", f"privacy={privacy}", "rounds=3"]
    experiment = load([*overrides, "dataset.path=items.csv"]).experiment
    assert isinstance(experiment.dataset, Enrolled)
    return experiment.calibrated(experiment.dataset.public_dataset(catalogue(60)))


def request(document: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(document, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"run": "a", "round": 1, "devices": [0], "experiment": text, "hash": digest}


@pytest.mark.parametrize(("model", "privacy"), PAIRS)
def test_every_field_of_the_protection_is_derived(model: str, privacy: str) -> None:
    """Each value is refused, or what leaves keeps the bound that this device finds and the noise that it charges."""
    experiment = calibrated(model, privacy)
    node, own = experiment.node(), experiment.mechanism
    statistic = not experiment.algorithm.trains
    derive_rounds(request(node), catalogue(60))
    for field in node["privacy"]:
        changes = [{**node["privacy"], field: value} for value in VALUES if value != node["privacy"][field]]
        changes.append({key: value for key, value in node["privacy"].items() if key != field})
        for changed in changes:
            header = request({**node, "privacy": changed})
            try:
                derive_rounds(header, catalogue(60))
                asked = parse_request(header)
            except FedrecError:
                continue
            told = Experiment.from_json(header["experiment"]).mechanism
            assert asked.noise_multiplier == told.noise_multiplier, (field, changed.get(field))
            bound = "clip" if getattr(own, "sensitivity", None) is None else "sensitivity"
            assert asked.clip == getattr(told, bound), (field, changed.get(field))
            assert not statistic or getattr(told, bound) == getattr(own, bound), (field, changed.get(field))


@pytest.mark.parametrize("value", [None, 1e-6, 0.5, 1e300])
def test_a_statistic_of_another_sensitivity_never_leaves(value: float | None) -> None:
    """The raw counts of a device once left under a sensitivity of null."""
    node = calibrated("popularity", "interaction").node()
    node["privacy"]["sensitivity"] = value
    with pytest.raises(RefusedError, match="sensitivity"):
        derive_rounds(request(node), catalogue(60))


def test_uneven_rounds_are_charged_as_they_are_played() -> None:
    experiment = calibrated("ease", "user")
    plan = experiment.plan(experiment.dataset.public_dataset(catalogue(60)))  # type: ignore[attr-defined]
    header = request(experiment.node())
    played = derive_rounds(header, catalogue(60))
    assert plan.shares is not None and played.rounds == plan.rounds == 2
    parts = [parse_request({**header, "round": number}, played).parts for number in (1, 2)]
    events = compose_events([(experiment.mechanism.event(plan, number), 1) for number in (1, 2)])
    told = compose((frozenset({part}), 1) for round_parts in parts for part in round_parts)
    assert compute_epsilon(told, 1e-5) == pytest.approx(compute_epsilon(events, 1e-5), rel=1e-6)
    with pytest.raises(RefusedError, match="round 3 of a run of 2"):
        parse_request({**header, "round": 3}, played)


def test_the_hash_names_the_experiment() -> None:
    header = request(calibrated("popularity", "user").node())
    with pytest.raises(RefusedError, match="not the one that its hash names"):
        derive_rounds({**header, "hash": "0" * 64}, catalogue(60))


def test_a_sensitivity_beside_a_clip_does_not_hide_the_clip() -> None:
    node = calibrated("mf", "user").node()
    node["privacy"] |= {"sensitivity": 1.0, "clip": 1e9}
    with pytest.raises(RefusedError, match="sensitivity does not exist for UserLevel"):
        parse_request(request(node))


def test_an_announcement_never_makes_a_fixed_clip_look_smaller() -> None:
    node = calibrated("mf", "user").node()
    node["privacy"]["clip"] = 50.0
    assert parse_request({**request(node), "privacy": {"clip": 0.1}}).clip == 50.0


@pytest.mark.parametrize(
    ("slot", "target"),
    [
        ("cohort", "fedrec.privacy.ledger.store.Anchor"),
        ("privacy", "fedrec.privacy.ledger.store.Anchor"),
        ("privacy", "fedrec.privacy.mechanisms.protocol.DPSGDConfig"),
        ("algorithm", "fedrec.models.mf.MatrixFactorization"),
        ("evaluation", "fedrec.experiment.cohort.CohortConfig"),
        ("dataset", "fedrec.data.datasets.csv.Delimited.load"),
        ("model", "fedrec.algorithms.fedavg.FedAvg"),
    ],
)
def test_a_class_is_built_in_the_slot_of_its_kind_alone(slot: str, target: str) -> None:
    with pytest.raises(FedrecError, match=slot):
        instantiate({"_target_": target}, slot)


def test_another_data_set_is_no_devices(tmp_path: Path) -> None:
    node = calibrated("popularity", "user").node()
    node["dataset"] = load(["dataset=synthetic"]).document["dataset"]
    with pytest.raises(RefusedError, match="dataset=devices alone"):
        derive_rounds(request(node), catalogue(60))
