"""The leak gate for models that are fitted from sums: alone, or with nothing to learn, they rank at chance."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.data.interactions import DeviceData
from fedrec.evaluation.config import EvaluationConfig
from fedrec.evaluation.per_device import Row, evaluate_device
from fedrec.evaluation.per_user import table
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.settings import load
from fedrec.messages import Arrays, UpdateSum
from fedrec.models.base import Recommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Aggregate
from tests.properties.test_leak_gate import CHANCE, PUBLIC, USERS, random_devices

MODELS = ("popularity", "ease", "item_knn", "hybrid", "ials", "order")
SETTINGS = {
    name: ["algorithm.head=60"] if name in ("ease", "item_knn", "hybrid", "order") else [] for name in MODELS
} | {"ials": ["model.dim=8", "rounds=2"]}


@cache
def experiment_of(name: str) -> Experiment:
    return load(["dataset=synthetic", "privacy=none", f"model={name}", *SETTINGS[name]]).experiment


def fitted(name: str, devices: list[DeviceData], leak: bool = False) -> Recommender:
    """Fit a model to the sum over these devices; `leak` lets them count their test items too."""
    experiment = experiment_of(name)
    model: Any = experiment.model(PUBLIC)
    algorithm, context = experiment.algorithm.with_catalogue(PUBLIC), RoundContext(1, 0, NoPrivacy())
    state = algorithm.init(model, PUBLIC)
    for _ in range(algorithm.rounds(2)):
        summed = UpdateSum()
        for device in devices:
            history = np.concatenate([device.known, device.test]) if leak else device.known
            one = DeviceData(device.user, history, device.values, device.validation, device.test, device.test_values)
            summed.add(algorithm.contribute(model, algorithm.broadcast(state), one, Arrays(), context).update)
        state = algorithm.step(state, Aggregate(summed.update().arrays, float(len(devices))))
    model.load({key: array for key, array in state.items() if key in model.shared})
    return model


def row(model: Recommender, device: DeviceData) -> Row:
    with torch.no_grad():
        scores = model.scores(torch.from_numpy(device.known.astype(np.int64))).numpy()
    found = evaluate_device(scores, device, "test", EvaluationConfig())
    assert found is not None and found.candidates == 99
    return found


def hit_rate(rows: list[Row]) -> float:
    return float(table(rows, (10,))["sampled_hr@10"].mean())


def gate(users: int) -> float:
    return 3 * (CHANCE * (1 - CHANCE) / users) ** 0.5


@pytest.mark.parametrize("name", MODELS)
def test_without_federation_a_device_ranks_at_chance(name: str) -> None:
    devices = [random_devices()[user] for user in range(40)]
    assert abs(hit_rate([row(fitted(name, [device]), device) for device in devices]) - CHANCE) <= gate(40)


@pytest.mark.parametrize("name", MODELS)
def test_where_there_is_nothing_to_learn_a_federation_ranks_at_chance(name: str) -> None:
    devices = list(random_devices())
    model = fitted(name, devices)
    assert abs(hit_rate([row(model, device) for device in devices]) - CHANCE) <= gate(USERS)


@pytest.mark.parametrize("name", ["ease", "item_knn", "hybrid", "ials", "order"])
def test_the_gate_sees_a_test_item_that_was_summed(name: str) -> None:
    """The positive control: a device alone that counts its test item finds it."""
    devices = [random_devices()[user] for user in range(25)]
    assert hit_rate([row(fitted(name, [device], leak=True), device) for device in devices]) > CHANCE + 3 * gate(25)
