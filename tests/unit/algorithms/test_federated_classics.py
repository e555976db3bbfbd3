"""The classics as sums over devices: equal to what pooled data gives, without a history leaving a device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.gram_matrix import ItemKnnGram
from fedrec.algorithms.ials import IALSStatistics
from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError, RefusedError
from fedrec.evaluation.baselines import pooled as pooled_ials
from fedrec.evaluation.baselines.base import pooled
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.loop import run
from fedrec.federated.node import contribute_one_by_one
from fedrec.federated.state import init_algorithm_state, load_released_state
from fedrec.messages import Arrays, ModelUpdate
from fedrec.models.ease import Hybrid, standardised
from fedrec.models.ials import Ials
from tests.support.tiny import SMALL, catalogue, session, small


def finished(path: Path, *overrides: str) -> tuple[Arrays, Arrays, Dataset]:
    """The first and last state of a run over three nodes, and its data."""
    experiment, dataset = small(*overrides)
    with session(experiment, dataset, path, LocalTransport(3)) as opened:
        first = init_algorithm_state(opened)
        assert all(report.released for report in run(opened))
        return first, load_released_state(opened)[1], dataset


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_federated_ials_is_the_centralised_one(tmp_path: Path) -> None:
    """Four alternations from the same start: to 1e-6 relative, and in fact to the last digits."""
    first, last, dataset = finished(tmp_path, "model=ials", "model.dim=6", "rounds=4")
    weights, matrix = pooled_ials.Weights(0.3, 0.01), pooled(dataset.devices.refitted())
    items = first["item_factors"].astype(np.float64)
    for _ in range(4):
        users = pooled_ials._solve(matrix, items, weights)  # pyright: ignore[reportPrivateUsage]
        items = pooled_ials._solve(matrix.T.tocsr(), users, weights)  # pyright: ignore[reportPrivateUsage]
    assert last["item_factors"].dtype == np.float64 and relative(last["item_factors"], items) < 1e-9
    model = Ials(dataset.catalogue, dim=6)
    model.load(last)
    mine = pooled_ials.Ials(items, weights).scores(dataset.devices[3].known)
    found = model.scores(torch.from_numpy(dataset.devices[3].known.astype(np.int64))).numpy()
    np.testing.assert_allclose(found, mine, atol=1e-5)


def test_federated_ease_is_the_centralised_one(tmp_path: Path) -> None:
    """With the same weights (1/n) and head, to 1e-6 relative in double precision."""
    _, last, dataset = finished(tmp_path, "model=ease", "algorithm.head=25")
    head = last["head_items"].astype(int)
    rows = pooled(dataset.devices.refitted()).toarray()[:, head]
    rows /= np.sqrt(np.maximum(rows.sum(1, keepdims=True), 1))
    gram = rows.T @ rows
    inverse = np.linalg.inv(gram + np.trace(gram) / 25 * np.eye(25))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    assert relative(last["weights"].astype(np.float64), expected) < 1e-6


def test_federated_neighbours_are_those_of_pooled_cosines(tmp_path: Path) -> None:
    _, last, dataset = finished(tmp_path, "model=item_knn", "algorithm.head=20", "algorithm.neighbours=4")
    rows = pooled(dataset.devices.refitted()).toarray()[:, last["head_items"].astype(int)]
    rows /= np.sqrt(np.maximum(rows.sum(1, keepdims=True), 1))
    gram = rows.T @ rows
    similarity = gram / (np.sqrt(np.outer(gram.diagonal(), gram.diagonal())) + gram.diagonal().mean())
    np.fill_diagonal(similarity, 0)
    for item in range(20):
        best = np.sort(similarity[:, item])[-4:]
        kept = np.sort(last["weights"][:, item])
        np.testing.assert_allclose(kept[-4:], best, rtol=1e-5)
        assert not kept[:-4].any()


def test_ials_sums_over_devices_at_once_bit_for_bit() -> None:
    experiment, dataset = small("model=ials", "model.dim=5")
    model = experiment.build_model(dataset.catalogue)
    devices = [dataset.devices[user] for user in range(dataset.interactions.users)]
    context = RoundContext(1, 0, experiment.mechanism)
    asked = (model, experiment.algorithm.init(model, dataset.catalogue), devices, [{}] * len(devices), context)
    one, at_once = contribute_one_by_one(experiment.algorithm, asked), experiment.algorithm.contribute_pooled(*asked)
    assert at_once is not None and isinstance(at_once.update, ModelUpdate) and isinstance(one.update, ModelUpdate)
    assert at_once.update.count == one.update.count == len(devices)
    for name, array in one.update.arrays.items():
        assert array.dtype == at_once.update.arrays[name].dtype
        np.testing.assert_array_equal(array, at_once.update.arrays[name])


def test_ials_under_privacy_leaves_each_device_to_itself() -> None:
    experiment, dataset = small("model=ials")
    model = experiment.build_model(dataset.catalogue)
    user_level = RoundContext(1, 0, small("model=ease", base=[*SMALL, "privacy=user"])[0].mechanism)
    broadcast = experiment.algorithm.init(model, dataset.catalogue)
    assert experiment.algorithm.contribute_pooled(model, broadcast, [dataset.devices[0]], [{}], user_level) is None


def test_ials_has_no_private_form() -> None:
    with pytest.raises(RefusedError, match="IALSStatistics"):
        small("model=ials", "privacy=user", base=SMALL)


def test_the_hybrid_adds_what_it_says() -> None:
    public = catalogue(12)
    alone, both = (Hybrid(public, head=12, content=share, popularity=0.0) for share in (0.0, 0.7))
    weights = np.random.default_rng(0).normal(0, 1, (12, 12)).astype(np.float32)
    arrays = {"weights": weights, "counts": np.arange(12, dtype=np.float32)}
    for model in (alone, both):
        model.load(arrays)
    history = torch.tensor([2, 5])
    features = both.get_buffer("features")
    taste = 0.9 * features[2] + features[5]
    difference = both.scores(history) - alone.scores(history)
    torch.testing.assert_close(difference, 0.7 * standardised((features @ taste)[None])[0], atol=1e-5, rtol=1e-4)
    popular = Hybrid(public, head=12, content=0.0, popularity=1.0)
    popular.load({"counts": arrays["counts"]})
    assert popular.scores(torch.empty(0, dtype=torch.long)).argmax() == 11


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"shrink": -1.0}])
def test_nonsense_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(FedrecError, match=f"algorithm.{next(iter(wrong))}="):
        ItemKnnGram(**wrong)  # type: ignore[arg-type]


def test_ials_refuses_what_does_not_fit_into_memory() -> None:
    public = catalogue(3000)
    with pytest.raises(FedrecError, match="GiB"):
        IALSStatistics().init(Ials(public, dim=400), public)
