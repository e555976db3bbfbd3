"""A test item must not be findable without federation: the gate that a leak through training can't pass.

Items are drawn uniformly at random, so there is nothing to learn, and devices train alone. Whoever ranks the held-out
item better than chance then knows it from somewhere else: negatives that avoid it, candidates drawn differently, a
history that holds it (invariant E1). All draws are seeded: a run passes always or never.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData, DeviceTable
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import Row, evaluate_device
from fedrec.evaluation.per_user import table
from fedrec.experiment.instantiate import instantiate
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.state import load_released_state
from fedrec.messages import Arrays
from fedrec.models.base import Recommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.training.batches import Histories, Keyed, NegativeSampler
from tests.support.tiny import catalogue, session, small

USERS, ITEMS, EACH, ROUNDS = 300, 240, 12, 3
CHANCE = 0.1  # of 99 candidates and the target, ten are in the first ten
GATE = 3 * (CHANCE * (1 - CHANCE) / USERS) ** 0.5
PUBLIC = catalogue(ITEMS)
MODELS: dict[str, dict[str, Any]] = {
    "mf": {"_target_": "fedrec.models.mf.MatrixFactorization", "dim": 8},
    "neumf": {"_target_": "fedrec.models.neumf.NeuMF", "dim": 4, "layers": [8, 4]},
    "pfedrec": {"_target_": "fedrec.models.pfedrec.PFedRec", "dim": 8, "scale": 0.1},
}
TRAINING = {
    "_target_": "fedrec.algorithms.fedavg.FedAvg",
    "learning_rate": 0.05,
    "optimizer": "adam",
    "negatives": 40,
}
# HR@10 with these settings: 0.113 and 0.090 (mf), 0.100 and 0.097 (neumf); with the leak 0.997 and 0.897.


@cache
def random_devices() -> DeviceTable:
    """Each user's items are a uniform sample without repeats, in random order: the last is as likely as any."""
    rng = np.random.default_rng(2)
    start = np.arange(USERS + 1) * EACH
    return DeviceTable(
        start=start,
        validation_from=start[1:] - 2,
        test_from=start[1:] - 1,
        item=np.concatenate([rng.choice(ITEMS, EACH, replace=False) for _ in range(USERS)]).astype(np.int32),
        value=np.ones(USERS * EACH, np.float32),
        items=ITEMS,
    )


def first_model(name: str) -> Recommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return instantiate({**MODELS[name], "_partial_": True}, "model")(PUBLIC)


def alone(model: Recommender, first: Arrays, device: DeviceData, keeps_items: bool) -> Row:
    """Let one device train for some rounds on the `first` broadcast, and evaluate it there.

    `keeps_items`: it goes on from its own item tables too, as if it were the whole federation.
    """
    algorithm: Any = instantiate(TRAINING, "algorithm")
    sent, private = first, Arrays()
    for number in range(1, ROUNDS + 1):
        made = algorithm.contribute(model, sent, device, private, RoundContext(number, 0, NoPrivacy()))
        private = made.private
        if keeps_items:
            sent = {name: array + made.update.arrays[name] for name, array in sent.items()}
    model.load({**sent, **private})
    with torch.no_grad():
        scores = model.scores(torch.from_numpy(device.known.astype(np.int64))).numpy()
    row = evaluate_device(scores, device, "test", EvaluationConfig())
    assert row is not None and row.candidates == 99
    return row


def hit_rate(name: str, keeps_items: bool, users: int = USERS) -> float:
    """HR@10 against 99 sampled candidates; a model of ties would stand at chance whatever leaked."""
    model, devices = first_model(name), random_devices()
    first = model.shared_arrays()
    rows = table([alone(model, first, devices[user], keeps_items) for user in range(users)], (10,))
    assert len(rows["user"]) == users and rows["sampled_tied"].mean() < 0.1
    return float(rows["sampled_hr@10"].mean())


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let negatives avoid the test item too: the mistake that published code makes."""
    devices, honest = random_devices(), NegativeSampler.draw

    def avoiding(self: NegativeSampler, random: Keyed, own: Histories, number: int, k: int) -> np.ndarray:
        bytes_in_flight = np.stack([devices[int(user)].test for user in own.users])
        more = replace(
            own, items=np.concatenate([own.items, bytes_in_flight], axis=1), sizes=own.sizes + bytes_in_flight.shape[1]
        )
        return honest(self, random, more, number, k)[:, : own.items.shape[1]]

    monkeypatch.setattr(NegativeSampler, "draw", avoiding)


@pytest.mark.parametrize("keeps_items", [False, True], ids=["shared part as sent", "own item tables"])
@pytest.mark.parametrize("name", MODELS)
def test_without_federation_a_device_ranks_at_chance(name: str, keeps_items: bool) -> None:
    assert abs(hit_rate(name, keeps_items) - CHANCE) <= GATE


@pytest.mark.usefixtures("leaky")
@pytest.mark.parametrize("name", MODELS)
def test_the_gate_sees_negatives_that_avoid_the_test_item(name: str) -> None:
    """The positive control: with nothing else changed, the item that was never pushed down comes out on top."""
    assert hit_rate(name, True, users=100) > CHANCE + 10 * GATE


def test_the_random_devices_hold_out_like_real_ones() -> None:
    devices = random_devices()
    for device in devices:
        assert len(np.unique(np.concatenate([device.known, device.test]))) == EACH
        assert (len(device.history), len(device.validation), len(device.test)) == (EACH - 2, 1, 1)
    share = np.bincount(devices.item, minlength=ITEMS) / (USERS * EACH)
    assert share.max() < 3 / ITEMS  # nothing is popular


def pooled(dataset: Dataset) -> Iterator[np.ndarray]:
    """What each device may be fitted on before the test."""
    return (device.known for device in dataset.devices)


def finished(path: Path, *overrides: str) -> tuple[Arrays, Dataset, Any]:
    """The state at the end of a federated run over three nodes, its data and its algorithm."""
    experiment, dataset = small(*overrides)
    with session(experiment, dataset, path, LocalTransport(3)) as opened:
        assert all(report.released for report in run(opened))
        return load_released_state(opened)[1], dataset, experiment.algorithm


def test_federated_popularity_is_counting(tmp_path: Path) -> None:
    """Train and validation rows, each once, and not one test row."""
    state, dataset, _ = finished(tmp_path, "model=popularity")
    counted = np.bincount(np.concatenate(list(pooled(dataset))), minlength=dataset.devices.items)
    assert np.array_equal(state["counts"], counted)
    tested = sum(len(device.test) for device in dataset.devices)
    assert tested > 0 and counted.sum() == len(dataset.interactions) - tested


@pytest.mark.parametrize("regularization", [0.3, 1.0])
def test_federated_ease_is_the_closed_form_on_pooled_data(tmp_path: Path, regularization: float) -> None:
    """Steck 2019, eq. 8, over the 25 items that most weight falls on, every user's row of length one."""
    size = 25
    state, dataset, _ = finished(
        tmp_path, "model=ease", f"algorithm.head={size}", f"algorithm.regularization={regularization}"
    )
    rows = np.stack([np.isin(np.arange(dataset.devices.items), items).astype(float) for items in pooled(dataset)])
    weight = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(0)
    head = np.sort(np.argsort(-weight, kind="stable")[:size])
    np.testing.assert_allclose(state["counts"], weight, rtol=1e-5)
    assert state["head_items"].tolist() == head.tolist()
    x = rows[:, head] / np.sqrt(np.maximum(rows[:, head].sum(1, keepdims=True), 1))
    gram = x.T @ x
    inverse = np.linalg.inv(gram + regularization * np.trace(gram) / size * np.eye(size))
    expected = np.eye(size) - inverse / np.diag(inverse)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(state["weights"], expected, atol=1e-4)
