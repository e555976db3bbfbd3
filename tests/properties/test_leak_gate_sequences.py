"""The gate of `test_leak_gate` for models that are trained by windows: alone, a device ranks at chance."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.sequence_sgd import FedSGDSequences
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import evaluate_device
from fedrec.evaluation.per_user import table
from fedrec.models.sasrec import SASRec, Shape
from fedrec.models.sequential import SequentialRecommender
from fedrec.models.text_sasrec import TextSASRec
from fedrec.models.two_tower import TwoTower
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.training.batches import Histories, open_draws
from fedrec.training.sequences import Draws
from tests.properties.test_leak_gate import CHANCE, GATE, ITEMS, PUBLIC, USERS, random_devices

ROUNDS, SOME = 12, 100
TRAINING = FedSGDSequences(negatives=200, server_learning_rate=0.03, warm_up=0)
NEAR = 3 * (CHANCE * (1 - CHANCE) / SOME) ** 0.5
# HR@10 with these settings: 0.090; with the leak 0.533. The counter: 0.095, and 1.000 with the leak.


def first(name: str) -> SequentialRecommender:
    return deepcopy(made(name))


@cache
def made(name: str) -> SequentialRecommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if name == "two_tower":
            return TwoTower(PUBLIC, dim=16, rank=4, window=10, encoder="words")
        if name == "text_sasrec":
            return TextSASRec(PUBLIC, shape=Shape(8, 10, 1), rank=2, encoder="words")
        return SASRec(PUBLIC, dim=8, window=10, blocks=1)


@cache
def without_federation(name: str, users: int, leaky: bool) -> float:
    """HR@10 of devices that are each their own whole federation."""
    rows = list[object]()
    for user in range(users):
        model, device = first(name), random_devices()[user]
        state = TRAINING.init(model, PUBLIC)
        for number in range(1, ROUNDS + 1):
            context = RoundContext(number, 0, NoPrivacy())
            made = TRAINING.contribute(model, TRAINING.broadcast(state), device, {}, context)
            state = TRAINING.step(state, Aggregate(made.update.arrays, 1.0))
        model.load(TRAINING.broadcast(state))
        with torch.no_grad():
            scores = model.scores(torch.from_numpy(device.known.astype(np.int64))).numpy()
        rows.append(evaluate_device(scores, device, "test", EvaluationConfig()))
    found = table([row for row in rows if row is not None], (10,))  # type: ignore[misc]
    assert len(found["user"]) == users and found["sampled_tied"].mean() < 0.1
    return float(found["sampled_hr@10"].mean())


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let negatives avoid the test item: what published code does."""
    honest, devices = Draws.windows, random_devices()

    def avoiding(self: Draws, own: Histories, random: object) -> object:
        found = honest(self, own, random)  # type: ignore[arg-type]
        bytes_in_flight = torch.tensor([int(devices[int(user)].test[0]) for user in own.users])[:, None]
        found.negatives[found.negatives == bytes_in_flight] += 1
        found.negatives.remainder_(ITEMS)
        return found

    monkeypatch.setattr(Draws, "windows", avoiding)


def counter(rounds: int) -> float:
    """HR@10 of no model at all: an item scores by how rarely it was drawn as a negative."""
    devices, draws, rows = random_devices(), Draws(10, 400, ITEMS), list[object]()
    everyone = Histories.at(devices, np.arange(USERS))
    scores = np.zeros((USERS, ITEMS), np.float32)
    for number in range(1, rounds + 1):
        negatives = draws.windows(everyone, open_draws(0, number)).negatives.numpy()
        np.add.at(scores, (np.arange(USERS)[:, None], negatives), -1)
    for user in range(USERS):
        rows.append(evaluate_device(scores[user], devices[user], "test", EvaluationConfig()))
    return float(table([row for row in rows if row is not None], (10,))["sampled_hr@10"].mean())  # type: ignore[misc]


@pytest.mark.parametrize("name", ["sasrec", "two_tower", "text_sasrec"])
def test_without_federation_a_device_ranks_at_chance(name: str) -> None:
    assert abs(without_federation(name, SOME, False) - CHANCE) <= NEAR


@pytest.mark.usefixtures("leaky")
def test_the_gate_sees_negatives_that_avoid_the_test_item() -> None:
    assert without_federation("sasrec", 30, True) > CHANCE + 3 * NEAR


def test_the_counter_of_negatives_stays_at_chance() -> None:
    assert abs(counter(10) - CHANCE) <= GATE


@pytest.mark.usefixtures("leaky")
def test_the_counter_finds_the_test_item_where_negatives_avoid_it() -> None:
    assert counter(10) > CHANCE + 10 * GATE
