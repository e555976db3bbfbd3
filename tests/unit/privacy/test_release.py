"""What leaves is whole numbers on a public grid, made in one place, and possible whoever took part."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.errors import FedrecError
from fedrec.federated.loop import run
from fedrec.federated.state import load_released_state
from fedrec.messages import Message, ModelUpdate, RejectedReplyError, SparseArray, cells
from fedrec.privacy.clipping import NormClipper
from fedrec.privacy.contributions import OneUpdate
from fedrec.privacy.grid import Grid, on_grid
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user_local import UserLocal
from fedrec.privacy.release import Release, ReleasedSum, ReplyForm, bounded, bounded_again, cut_to, total_of, written
from fedrec.testing.mechanisms import PLANS, Silence, released_sum, vector
from fedrec.training.vectorized.updates import StackedUpdates, TileUpdates
from tests.contracts.test_mechanisms import made
from tests.support.tiny import SMALL, session, small

ROOT = Path(__file__).parents[3] / "fedrec"
GRID, RULE = Grid(12, 0.5), NormClipper(0.5)
FORM = ReplyForm({"a": (3, 2), "b": (5,)}, GRID, lambda count: count * GRID.length)
ON_GRID = {
    "user": "some, trained",
    "user_adaptive": "some, trained",
    "user_local": "some, trained",
    "banded": "some, trained",
    "gateway": "all, statistic",
    "interaction": "all, statistic",
}


def stack(devices: int = 9, items: int = 7) -> StackedUpdates:
    """Return two tiles of devices that touch some rows each; one is not finite, one zero, one huge."""
    rng, tiles = np.random.default_rng(5), list[TileUpdates]()
    for count in (devices // 2, devices - devices // 2):
        owner = torch.arange(count).repeat_interleave(3)
        places = np.concatenate([rng.permutation(items)[:3] for _ in range(count)])
        rows, dense = rng.normal(0, 0.2, (3 * count, 2)), rng.normal(0, 0.1, (count, 4))
        rows[0], dense[1], rows[3:6], rows[6] = np.nan, 0, 0, 1e30
        named = {"item.weight": torch.from_numpy(rows).float()}, {"out.weight": torch.from_numpy(dense).float()}
        tiles.append(TileUpdates(items, count, torch.from_numpy(places), owner, *named))
    return StackedUpdates(tuple(tiles))


@pytest.mark.parametrize("rule", [RULE, NormClipper(0.5, "split", 0.3)], ids=lambda rule: rule.grouping)
def test_the_sum_of_many_is_the_sum_of_each_number_by_number(rule: NormClipper) -> None:
    many = stack()
    whole = bounded(many, rule, GRID, "bit")
    each = [bounded(OneUpdate(many.update_of(device)), rule, GRID, "bit") for device in range(many.count)]
    for order in (each, each[::-1]):
        alone = total_of(order)
        assert isinstance(alone, Release) and alone.count == whole.count and alone.grid == GRID
        for name, array in whole.arrays.items():
            np.testing.assert_array_equal(np.asarray(alone.arrays[name]), array)
    assert not each[0].arrays["item.weight"].any() and each[2].arrays["item.weight"].any()


def test_sparse_statistics_are_released_as_dense_ones() -> None:
    values = np.array([0.3, -0.6, 0.02])
    sparse = bounded(OneUpdate(ModelUpdate({"m": cells(np.array([1, 5, 6]), values, (8,))}, 1)), RULE, GRID)
    dense = np.zeros(8)
    dense[[1, 5, 6]] = values
    assert isinstance(sparse.arrays["m"], SparseArray)
    same = bounded(OneUpdate(ModelUpdate({"m": dense.astype(np.float32)}, 1)), RULE, GRID)
    both = total_of([sparse, sparse])
    assert isinstance(both, Release)
    np.testing.assert_allclose(both.arrays["m"], 2 * same.arrays["m"], atol=2)
    np.testing.assert_array_equal(both.arrays["m"], 2 * np.asarray(sparse.arrays["m"]))


def test_one_vector_is_bounded_as_on_grid_bounds_it_but_for_a_step() -> None:
    values = np.random.default_rng(2).normal(0, 1, 400).astype(np.float32)
    released = bounded(OneUpdate(ModelUpdate({"a": values}, 1)), RULE, GRID).arrays["a"]
    assert np.abs(released - on_grid(values, GRID)).max() <= 1


@pytest.mark.parametrize("name", ON_GRID)
def test_every_released_number_is_whole_and_possible_under_the_neighbour(name: str) -> None:
    """The attack on floating point, from what is released alone: is it what any noise makes of the other sum?

    With noise in single precision a fifth of the numbers that a device changes were impossible (Mironov 2012).
    """
    case = made(name, PLANS[ON_GRID[name]])
    mechanism: Any = case.mechanism
    quiet, one = [vector(np.zeros(6)), vector(np.linspace(-0.1, 0.1, 6))], vector([0.7, 0, 0, 0.1, 0, 0.3])
    without, with_it = (released_sum(case, updates, silent=True) for updates in (quiet, [*quiet, one]))
    grid = mechanism.grid({"item.a": (3,), "b": (1, 3)})
    fine = grid.step / (256 if name == "banded" else 1)
    reach = mechanism.reach(3, grid) + 14 * 2 * (math.isqrt(3 * grid.variance(mechanism.noise_multiplier)) + 1)
    for _ in range(300):
        released = released_sum(case, [*quiet, one])
        steps = released / fine
        assert np.abs(steps - np.rint(steps)).max() <= 1e-6 * max(np.abs(steps).max(), 1e3)
        for neighbour in (without, with_it):
            assert np.abs((released - neighbour) / grid.step).max() <= reach


@pytest.mark.filterwarnings("ignore")
def test_the_released_file_of_a_run_holds_whole_steps(tmp_path: Path) -> None:
    """Who knows all other users learns from it what any noise on any grid point would say, and nothing else."""
    experiment, dataset = small("privacy.epsilon=1", base=[*SMALL, "privacy=user", "model=popularity"])
    with session(experiment, dataset, tmp_path) as opened:
        list(run(opened))
        counts = load_released_state(opened)[1]["counts"].astype(np.float64)
    grid = experiment.mechanism.grid({"counts": counts.shape})
    assert grid is not None and np.ptp(counts) > 1
    np.testing.assert_array_equal(counts / grid.step, np.rint(counts / grid.step))


@pytest.mark.parametrize("name", [name for name in ON_GRID if name not in ("interaction", "gateway")])
def test_no_number_that_leaves_was_ever_a_float(name: str) -> None:
    mechanism = made(name, PLANS[ON_GRID[name]]).mechanism
    sent = mechanism.privatize_update(vector(np.linspace(-1, 1, 6)), mechanism.random(0))
    assert isinstance(sent, Release) and all(array.dtype == np.int64 for array in sent.arrays.values())
    reply = written(mechanism.privatize_node_sum(sent, mechanism.random(1)), mechanism)
    assert all(array.dtype == np.uint64 for array in reply.arrays.values())
    with pytest.raises(FedrecError, match="only a release"):
        written(vector(np.linspace(-1, 1, 6)), mechanism)


def test_only_one_file_makes_releases() -> None:
    """A release is bounded and noised; no other code can make one and send it."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Release"
    }
    assert makers == {"privacy/release.py"}


def test_a_sum_of_devices_has_the_noise_of_all_of_them() -> None:
    """Drawn at once for the sum, it has the variance of as many draws as there are devices."""
    plan = TrainingPlan(population=60, interactions=900, cohort_rate=1.0, rounds=3, trains=True)
    mechanism: Mechanism = UserLocal().calibrated(plan, math.inf)
    zeros = ModelUpdate({"item.weight": np.zeros((7, 2), np.float32), "out.weight": np.zeros(4, np.float32)}, 1)
    many = stack(8)
    silent = mechanism.privatize_cohort(many, Silence())
    assert isinstance(silent, Release)
    at_once, apart = list[np.ndarray](), list[np.ndarray]()
    for draw in range(400):
        noisy = mechanism.privatize_cohort(many, mechanism.random(draw))
        each = total_of(mechanism.privatize_update(zeros, mechanism.random(draw)) for _ in range(8))
        assert isinstance(noisy, Release) and isinstance(each, Release)
        at_once.append(noisy.arrays["item.weight"] - silent.arrays["item.weight"])
        apart.append(each.arrays["item.weight"])
    variance = 8 * silent.grid.variance(getattr(mechanism, "noise_multiplier"))  # noqa: B009
    assert np.var(at_once) == pytest.approx(variance, rel=0.1) and np.var(apart) == pytest.approx(variance, rel=0.1)


def release(count: int = 1, largest: int = 300) -> Release:
    rng = np.random.default_rng(count)
    return Release({n: rng.integers(-largest, largest, shape) for n, shape in FORM.shapes.items()}, count, GRID)


def test_a_release_arrives_packed() -> None:
    sent = release(3)
    message = FORM.pack(sent)
    found = FORM.unpack(Message({**message.header, "round": 1}, message.arrays))
    assert found.count == 3 and found.grid == GRID
    for name, array in sent.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert sum(array.nbytes for array in message.arrays.values()) == FORM.most_bytes(3)


@pytest.mark.parametrize("said", [None, {}, {"bits": 13, "clip": 0.5}, {"bits": 12, "clip": 0.25}, [12, 0.5]])
def test_another_grid_than_the_mechanisms_is_refused(said: Any) -> None:
    message = FORM.pack(release())
    with pytest.raises(RejectedReplyError, match="grid"):
        FORM.unpack(Message({**message.header, "grid": said}, message.arrays))


def test_other_arrays_than_were_asked_for_are_refused() -> None:
    message = FORM.pack(release())
    for arrays in (
        {"a": message.arrays["a"]},
        {**message.arrays, "c": message.arrays["a"]},
        {**message.arrays, "b": message.arrays["b"].astype(np.float32)},
        {**message.arrays, "b": np.full_like(message.arrays["b"], 2**64 - 1)},
        {**message.arrays, "b": message.arrays["b"][:-1]},
    ):
        with pytest.raises(RejectedReplyError):
            FORM.unpack(Message(message.header, arrays))


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("rule", [RULE, NormClipper(0.5, "split", 0.3)], ids=lambda rule: rule.grouping)
def test_a_node_cannot_claim_more_than_its_devices(rule: NormClipper, count: int) -> None:
    """Invariants I5, M6: the server itself bounds what a node sends, in whole numbers, whatever the node did."""
    named = {"item.a": np.full((3, 2), 10**7), "b": np.full(4, -(10**7))}
    admitted = bounded_again(Release(named, count, GRID), rule)
    for name, group in (("item.a", "items"), ("b", "dense")):
        length = rule.lengths(GRID).get(group, GRID.length)
        assert sum(int(k) ** 2 for k in admitted.arrays[name].reshape(-1)) <= (count * length) ** 2
    if rule.grouping == "whole":
        assert sum(int(k) ** 2 for a in admitted.arrays.values() for k in a.reshape(-1)) <= (count * GRID.length) ** 2
    honest = replace(bounded(stack(), rule, GRID), count=9)
    assert bounded_again(honest, rule) is honest


def test_a_sum_is_cut_in_whole_numbers_and_only_where_it_must_be() -> None:
    sent = Release({"a": np.array([10, -7, 4096]), "b": np.array([3])}, 1, GRID)

    def halve(update: ModelUpdate, step: float) -> ModelUpdate:
        assert step == GRID.step
        return ModelUpdate({**update.arrays, "a": np.clip(update.arrays["a"], -1, 1000.9 * GRID.step)}, 1)

    found = cut_to(sent, halve)
    assert isinstance(found, Release) and found.arrays["a"].tolist() == [10, -7, 1000]
    assert found.arrays["b"] is sent.arrays["b"]


def test_releases_on_two_grids_have_no_sum() -> None:
    summed = ReleasedSum()
    summed.add(release())
    with pytest.raises(FedrecError, match="two grids"):
        summed.add(replace(release(), grid=Grid(13, 0.5)))
