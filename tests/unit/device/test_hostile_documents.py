"""Every field of a document takes twelve values that it should not have: refused before any charge, or harmless.

And a seeded fuzzer of documents, requests and catalogues.
"""

import copy
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.data import catalogue as wire
from fedrec.device.consent.consent import Consent, ConsentPolicy, DeclinedError
from fedrec.device.consent.ledger import DeviceLedger
from fedrec.device.consent.request import parse_request
from fedrec.device.derive import rehearse
from fedrec.device.limits import DeviceLimits, check_catalogue, check_catalogue_bytes, check_train
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.settings import load
from fedrec.messages import PROTOCOL, Message
from fedrec.privacy.accounting.composition import compose_events, compute_epsilon
from tests.support.tiny import catalogue

ITEMS = catalogue(12)
NOW = 1.8e9
MISSING = object()
OTHER = {"_target_": "fedrec.experiment.cohort.CohortConfig"}
VALUES: dict[str, Any] = {
    "missing": MISSING, "null": None, "zero": 0, "negative": -1, "tiny": 1e-6, "huge": 1e300, "nan": math.nan,
    "infinite": math.inf, "true": True, "text": "1", "list": [], "class": OTHER,
}  # fmt: skip
WILLING = ConsentPolicy(1000.0, largest_clip=100.0, largest_share_per_request=1.0, trust=("device", "server"))
PAIRS = [("mf", "interaction"), ("popularity", "interaction"), ("mf", "user_local"), ("ease", "user"), ("mf", "user")]
PARTS = ("dataset", "model", "algorithm", "privacy", "cohort", "evaluation")

# What another value of a field of the protection may be: another document, by whose own words this device is charged.
# `population_epsilon` binds the server alone, `clip` and `denominator` scale signal and noise alike.
ANOTHER = {
    ("clip", "tiny"), ("denominator", "tiny"), ("denominator", "huge"), ("sample_rate", "tiny"),
    ("population_epsilon", "tiny"), ("population_epsilon", "huge"), ("dense_share", "tiny"),
}  # fmt: skip


@cache
def valid(model: str, privacy: str) -> tuple[str, Message]:
    """Return the document of a calibrated experiment, and its train request."""
    chosen = ["dataset=devices", "dataset.devices=50", "dataset.path=items.csv", f"model={model}", f"privacy={privacy}"]
    more = ["model.dim=4"] if model == "mf" else []
    loaded = load([*chosen, *more, "rounds=3"]).experiment
    experiment = loaded.calibrated(loaded.dataset.public_dataset(ITEMS))  # type: ignore[attr-defined]
    state = experiment.algorithm.init(experiment.build_model(ITEMS), ITEMS)
    arrays = experiment.algorithm.broadcast(state)
    return experiment.document, request(experiment.node(), dict(arrays))


def request(document: Any, arrays: dict[str, Any], **header: Any) -> Message:
    text = json.dumps(document)
    digest = hashlib.sha256(text.encode()).hexdigest()
    told = {"protocol": PROTOCOL, "kind": "train", "run": "r", "round": 1, "devices": [0], "part": "train"}
    return Message({**told, "folder": "", "privacy": {}, "experiment": text, "hash": digest, **header}, arrays)


def asked(asking: Message, consent: Consent, engine: str = "torch") -> bool:
    """Do what a device does with a train request until it is charged; return whether it was."""
    try:
        check_train(DeviceLimits(), asking, events=20)
        played = rehearse(asking, ITEMS, engine)
        consent.charge(asking.header, NOW, played)
    except (FedrecError, DeclinedError):
        return False
    return True


def charged(consent: Consent) -> list[dict[str, Any]]:
    return DeviceLedger(consent.ledger).charges(NOW) if consent.ledger.exists() else []


def changed(document: str, part: str, field: str, value: Any) -> Any:
    node = json.loads(document)
    table = node[part] if part else node
    if value is MISSING:
        del table[field]
    else:
        table[field] = value
    return node


def fields(document: str, parts: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    node = json.loads(document)
    for part in parts:
        for field, value in (node[part] if part else node).items():
            yield part, field, value


def same(one: Any, other: Any) -> bool:
    return one is not MISSING and type(one) is type(other) and one == other


def check_charge(asking: Message, consent: Consent) -> None:
    """What was charged is what the mechanism that would be played costs, by its own event."""
    experiment = Experiment.from_json(asking.header["experiment"])
    plan = experiment.plan(experiment.dataset.public_dataset(ITEMS))  # type: ignore[attr-defined]
    parts = frozenset(tuple(part) for one in charged(consent) for part in one["parts"])
    told = compose_events([(experiment.mechanism.event(replace(plan, cohort_rate=1.0), 1), 1)])
    assert compute_epsilon(parts, 1e-5) == pytest.approx(compute_epsilon(told, 1e-5), rel=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "privacy"), PAIRS)
def test_the_valid_document_is_charged(model: str, privacy: str, tmp_path: Path) -> None:
    consent = Consent(WILLING, tmp_path / "ledger.sqlite")
    assert asked(valid(model, privacy)[1], consent) and len(charged(consent)) == 1
    check_charge(valid(model, privacy)[1], consent)


@pytest.mark.parametrize(("model", "privacy"), PAIRS)
def test_a_protection_with_another_value_is_refused_before_the_charge(model: str, privacy: str, tmp_path: Path) -> None:
    document, good = valid(model, privacy)
    for part, field, value in fields(document, ("privacy",)):
        for name, other in VALUES.items():
            if same(other, value):
                continue
            asking = request(changed(document, part, field, other), good.arrays)
            consent = Consent(WILLING, tmp_path / f"{field}-{name}.sqlite")
            if asked(asking, consent):
                assert (field, name) in ANOTHER, (field, name)
                check_charge(asking, consent)
            assert len(charged(consent)) <= ((field, name) in ANOTHER)


@pytest.mark.parametrize("part", ["", "dataset", "model", "algorithm", "cohort", "evaluation"])
def test_another_value_elsewhere_is_refused_or_changes_no_charge(part: str, tmp_path: Path) -> None:
    """Of another type or class, NaN or infinite: all refused. What is left is trained and costs what it did."""
    document, good = valid("mf", "interaction")
    expected = parse_request(good.header).parts
    passed = Counter[str]()
    for _, field, value in fields(document, (part,)):
        for name, other in VALUES.items():
            if same(other, value):
                continue
            asking = request(changed(document, part, field, other), good.arrays)
            consent = Consent(WILLING, tmp_path / f"{field}-{name}.sqlite")
            if asked(asking, consent):
                passed[name] += 1
                assert [tuple(p) for one in charged(consent) for p in one["parts"]] == list(expected), (field, name)
            else:
                assert charged(consent) == []
    assert not passed.keys() & {"nan", "infinite"}, passed


@pytest.mark.parametrize("part", ["dataset", "model", "algorithm", "privacy"])
def test_the_light_engine_refuses_before_the_charge_too(part: str, tmp_path: Path) -> None:
    document, good = valid("mf", "user")
    for _, field, value in fields(document, (part,)):
        for name, other in VALUES.items():
            if same(other, value):
                continue
            asking = request(changed(document, part, field, other), good.arrays)
            consent = Consent(WILLING, tmp_path / f"{field}-{name}.sqlite")
            done = asked(asking, consent, "light")
            assert len(charged(consent)) == done
            assert not done or name not in ("nan", "infinite"), (field, name)


# A seeded fuzzer.


def mutated(node: Any, rng: random.Random) -> Any:
    """Return the document with one to three of its parts replaced, removed, added, nested or repeated."""
    node = copy.deepcopy(node)
    for _ in range(rng.randint(1, 3)):
        tables = list(tables_of(node))
        table = rng.choice(tables) if tables else None
        if not table:
            continue
        key = rng.choice(sorted(table))
        match rng.randrange(5):
            case 0:
                del table[key]
            case 1:
                table[key] = junk(rng)
            case 2:
                table[f"{key}_"] = junk(rng)
            case 3:
                table[key] = {key: table[key]}
            case _:
                table[key] = copy.deepcopy(rng.choice(tables))
    return node


def tables_of(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from tables_of(value)


def junk(rng: random.Random) -> Any:
    some = [
        None,
        True,
        0,
        -1,
        10 ** rng.randint(1, 30),
        -(2**63),
        rng.uniform(-1e3, 1e3),
        1e-300,
        1e300,
        "",
        "\x00\x1b",
    ]
    names = [
        "fedrec.models.mf.MatrixFactorization",
        "os.system",
        "fedrec.privacy.mechanisms.none.NoPrivacy",
        "..",
        "x" * 999,
    ]
    return rng.choice([*some, math.nan, [], [[]], {}, {"_target_": rng.choice(names)}, rng.choice(names)])


@pytest.mark.parametrize("seed", range(4))
def test_no_document_is_trained_unpaid_or_breaks_the_device(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    model, privacy = rng.choice(PAIRS)
    document, good = valid(model, privacy)
    for number in range(60):
        node = mutated(json.loads(document), rng)
        header = {rng.choice(["round", "devices", "run", "privacy", "part"]): junk(rng)} if rng.random() < 0.3 else {}
        consent = Consent(WILLING, tmp_path / f"{number}.sqlite")
        done = asked(request(node, good.arrays, **header), consent, rng.choice(["torch", "light"]))
        assert len(charged(consent)) == done, (node, header)


@pytest.mark.parametrize("seed", range(4))
def test_no_catalogue_breaks_the_device(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        header, arrays = wire.encode(ITEMS)
        name = rng.choice(sorted(arrays))
        flat = bytearray(arrays[name].tobytes())
        match rng.randrange(5):
            case 0:
                flat[rng.randrange(len(flat))] = rng.randrange(256)
                arrays[name] = np.frombuffer(bytes(flat), arrays[name].dtype).reshape(arrays[name].shape)
            case 1:
                arrays[name] = arrays[name].reshape(-1)[: rng.randrange(arrays[name].size)]
            case 2:
                del arrays[name]
            case 3:
                header[rng.choice(sorted(header))] = junk(rng)
            case _:
                arrays[name] = arrays[rng.choice(sorted(arrays))].astype(rng.choice(["f8", "i8", "u1"]))
        try:
            asking = request({}, arrays)
            check_catalogue_bytes(DeviceLimits(), header, asking)
            found = wire.decode(header, arrays)
            check_catalogue(DeviceLimits(), found)
        except FedrecError:
            continue
        assert len(found) == len(set(found.ids.tolist())) > 0 and np.isfinite(found.features).all()
