"""One interaction more or less moves what a device releases by at most the clip: through the real local training."""

from dataclasses import fields, replace

import numpy as np
import pytest

from fedrec.data.interactions import DeviceData
from fedrec.experiment.settings import load
from fedrec.models.base import TrainableRecommender
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.training.local import train
from tests.support.tiny import SMALL, catalogue

ITEMS, NEGATIVES, CLIP = 12, 3, 0.5


class Chosen:
    """Gives the draws it was made with, and no noise."""

    def __init__(self, uniform: np.ndarray) -> None:
        self._uniform = uniform

    def discrete_gaussian(self, shape: tuple[int, ...], variance: int) -> np.ndarray:
        return np.zeros(shape, np.int32)

    def keyed(self, users: np.ndarray, index: np.ndarray) -> np.ndarray:
        return ((self._uniform[: index.size] * 2**32).astype(np.uint64) << np.uint64(32)).reshape(index.shape)


class Silent(InteractionLevel):
    """The mechanism without its noise; negatives are those of `negatives`, one row an interaction."""

    negatives: np.ndarray = np.empty((0, NEGATIVES))

    def random(self, *key: int) -> Chosen:  # type: ignore[override]
        return Chosen(self.negatives.ravel())


def released(name: str, history: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the sum of clipped gradients over all parameters, after one noiseless step of the real code."""
    experiment = load([*SMALL, f"model={name}", f"algorithm.negatives={NEGATIVES}"]).experiment
    model = experiment.model(catalogue(ITEMS))
    assert isinstance(model, TrainableRecommender)
    rng = np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data = parameter.data.new_tensor(rng.normal(0, 1, tuple(parameter.shape)))
    before = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    mechanism = Silent(clip=CLIP, noise_multiplier=1.0, denominator=1.0)
    object.__setattr__(mechanism, "negatives", negatives)
    empty = np.empty(0, np.int32)
    device = DeviceData(0, history, np.ones(len(history), np.float32), empty, empty, np.empty(0, np.float32))
    values = {f.name: getattr(experiment.algorithm, f.name) for f in fields(experiment.algorithm)}  # type: ignore[arg-type]
    settings = replace(type(experiment.algorithm)(**values), learning_rate=1.0)  # type: ignore[type-var]
    train(model, device, settings, mechanism, (0, 1, 0))  # type: ignore[arg-type]
    return np.concatenate([(b - p.detach().numpy()).ravel() for b, p in zip(before, model.parameters(), strict=True)])


@pytest.mark.parametrize("name", ["mf", "neumf", "content"])
def test_one_interaction_weighs_one_clip(name: str) -> None:
    """Each interaction carries its own negatives with it, so that removing it removes exactly one clipped gradient."""
    rng = np.random.default_rng(1)
    history = rng.integers(0, ITEMS, 20).astype(np.int32)
    negatives = rng.random((20, NEGATIVES))
    whole = released(name, history, negatives)
    assert np.linalg.norm(whole) > 2 * CLIP  # the clip binds: a sum of many
    for place in (0, 7, 19):
        without = released(name, np.delete(history, place), np.delete(negatives, place, axis=0))
        assert np.linalg.norm(whole - without) <= CLIP * (1 + 1e-4)


def test_the_test_would_notice_negatives_that_shift() -> None:
    """Negatives dealt out by position move every later example: many clips, not one."""
    rng = np.random.default_rng(1)
    history, negatives = rng.integers(0, ITEMS, 400).astype(np.int32), rng.random((400, NEGATIVES))
    shifted = released("mf", np.delete(history, 0), negatives[:399])
    assert np.linalg.norm(released("mf", history, negatives) - shifted) > 1.2 * CLIP


def test_negatives_do_not_follow_from_the_public_seed() -> None:
    """The server knows (seed, round, user): two trainings with equal keys must draw different negatives."""

    class Quiet(InteractionLevel):
        def random(self, *key: int):  # type: ignore[no-untyped-def]
            real = super().random(*key)
            return type(
                "R",
                (),
                {
                    "discrete_gaussian": lambda s, shape, v: np.zeros(shape, np.int32),
                    "keyed": lambda s, *a: real.keyed(*a),
                },
            )()

    history, empty = np.arange(8, dtype=np.int32), np.empty(0, np.int32)
    device = DeviceData(0, history, np.ones(8, np.float32), empty, empty, np.empty(0, np.float32))
    results = list[np.ndarray]()
    for _ in range(2):
        model = load([*SMALL, "model=mf"]).experiment.model(catalogue(ITEMS))
        assert isinstance(model, TrainableRecommender)
        model.load({"item_bias.weight": np.zeros((ITEMS, 1), np.float32), "user.weight": np.ones((1, 32), np.float32)})
        model.load({"item.weight": np.ones((ITEMS, 32), np.float32)})
        train(model, device, load([*SMALL, "model=mf"]).experiment.algorithm, Quiet(noise_multiplier=1.0), (0, 1, 0))  # type: ignore[arg-type]
        results.append(model.shared_arrays()["item_bias.weight"])
    assert not np.array_equal(results[0], results[1])
