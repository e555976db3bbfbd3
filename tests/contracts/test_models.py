"""What every model promises, for every yaml under conf/model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.data.devices import DeviceData
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.models.base import Batch, Recommender, TrainableRecommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from tests.support.tiny import FREE, catalogue

NAMES = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
TRAINED = ("content", "mf", "neumf", "pfedrec")
PRIVATE = {"mf": {"user.weight"}, "neumf": {"user_gmf.weight", "user_mlp.weight"}, "content": {"user.weight"}}
PRIVATE["pfedrec"] = {"score.weight", "score_bias.weight"}
ITEMS = 12


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test every model, unless it names its own."""
    if "name" in metafunc.fixturenames and not any(
        m.args[0] == "name" for m in metafunc.definition.iter_markers("parametrize")
    ):
        metafunc.parametrize("name", NAMES)


@pytest.fixture
def model(name: str) -> Recommender:
    return load([*FREE, f"model={name}"]).experiment.model(catalogue(ITEMS))


def device(user: int = 3) -> DeviceData:
    history = np.array([1, 4, 5, 9], np.int32)
    empty = np.empty(0, np.int32)
    return DeviceData(user, history, np.full(4, 4.0, np.float32), empty, empty, np.empty(0, np.float32))


def test_an_update_carries_exactly_the_allowed_names(name: str, model: Recommender) -> None:
    """The allow-list is the contract: whatever is not on it stays, the user vector first of all."""
    algorithm = load([*FREE, f"model={name}"]).experiment.algorithm
    state = algorithm.init(model, catalogue(ITEMS))
    made = algorithm.contribute(model, algorithm.broadcast(state), device(), {}, RoundContext(1, 0, NoPrivacy()))
    assert made.update.arrays.keys() == algorithm.shapes(state).keys()
    assert {n: a.shape for n, a in made.update.arrays.items()} == algorithm.shapes(state)
    if isinstance(model, TrainableRecommender):
        assert made.update.arrays.keys() == model.shared
    assert made.private.keys() == PRIVATE.get(name, set())
    assert not any("user" in array for array in made.update.arrays)


def test_a_new_parameter_is_private_by_default(model: Recommender) -> None:
    model.register_parameter("diary", torch.nn.Parameter(torch.zeros(2)))
    assert "diary" in model.private_arrays() and "diary" not in model.shared_arrays()


def test_scores_every_item_with_a_number(model: Recommender) -> None:
    for history in ([], [3], [1, 4, 5, 9]):
        scores = model.scores(torch.tensor(history, dtype=torch.long))
        assert scores.shape == (ITEMS,) and bool(torch.isfinite(scores).all())


def test_many_devices_score_as_each_of_them(name: str, model: Recommender) -> None:
    """Also with an empty history, with repeats, and with private arrays that differ; in double precision."""
    generator = torch.Generator().manual_seed(4)
    model.double()
    for array in model.state_dict(keep_vars=True).values():
        if array.is_floating_point():
            with torch.no_grad():
                array += 0.3 * torch.rand(array.shape, generator=generator) * (array.dim() > 1)
    histories = [torch.tensor(history) for history in ([1, 4, 5, 9], [2], list[int](), [3, 3, 0, 3, *range(12)])]
    histories = [history.long() for history in histories]
    private = {
        array: torch.randn(4, *value.shape, generator=generator).double()
        for array, value in model.private_arrays().items()
    }
    with torch.no_grad():
        expected = list[torch.Tensor]()
        for place, history in enumerate(histories):
            model.load({array: value[place].numpy() for array, value in private.items()})
            expected.append(model.scores(history))
        torch.testing.assert_close(model.scores_many(histories, private), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_loading_what_was_read_changes_nothing_and_wrong_arrays_are_named(model: Recommender) -> None:
    arrays = {**model.shared_arrays(), **model.private_arrays()}
    model.load(arrays)
    again = {**model.shared_arrays(), **model.private_arrays()}
    assert all(np.array_equal(arrays[n], again[n]) for n in arrays)
    with pytest.raises(FedrecError, match="nonsense"):
        model.load({"nonsense": np.zeros(1, np.float32)})
    first = sorted(arrays)[0]
    with pytest.raises(FedrecError, match=r"shape \(7, 7\)"):
        model.load({first: np.zeros((7, 7), np.float32)})


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_is_one_value_per_interaction_and_local(model: Recommender) -> None:
    """A positive and its negatives are one example: changing one row changes that row's loss alone."""
    assert isinstance(model, TrainableRecommender)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    items = torch.randint(0, ITEMS, (5, 3), generator=generator)
    before = model.loss(Batch(items, torch.ones(5)))
    changed = items.clone()
    changed[2] = (changed[2] + 1) % ITEMS
    after = model.loss(Batch(changed, torch.ones(5)))
    assert before.shape == (5,)
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]]) and before[2] != after[2]


@pytest.mark.parametrize("name", ["mf", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "bpr", "mse"])
def test_training_lowers_the_loss(name: str, loss: str) -> None:
    model = load([*FREE, f"model={name}", f"model.loss={loss}"]).experiment.model(catalogue(ITEMS))
    assert isinstance(model, TrainableRecommender) and model.ratings == (loss == "mse")
    batch = Batch(torch.tensor([[1, 2], [4, 3], [5, 7]]), torch.tensor([4.0, 2.0, 5.0]))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = model.loss(batch).sum().item()
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch).sum().backward()
        optimizer.step()
    assert model.loss(batch).sum().item() < 0.5 * first


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(FedrecError, match="Did you mean 'bpr'"):
        load([*FREE, "model=mf", "model.loss=bprr"]).experiment.model(catalogue(ITEMS))
