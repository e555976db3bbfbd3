"""What every model promises; and the small catalogue and devices that all suites use."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import Algorithm, RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.catalogue import Catalogue
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.models.base import Batch, Recommender, TrainableRecommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.testing import engines

ITEMS = 12
SEED = 4


def catalogue(items: int = ITEMS) -> Catalogue:
    """Return a small catalogue with two genres and a position as features, the same each time."""
    rng = np.random.default_rng(0)
    features = np.stack([rng.integers(0, 2, items), 1 - rng.integers(0, 2, items), np.arange(items) / items], axis=1)
    names = np.array([f"i{n}" for n in range(items)])
    return Catalogue(names, names, features.astype(np.float32), ("genre:a", "genre:b", "position"), "item file")


def device(user: int, *items: int) -> DeviceData:
    """Return a device whose history is these items, each rated 4."""
    history, empty = np.array(items, np.int32), np.empty(0, np.int32)
    return DeviceData(user, history, np.full(len(items), 4.0, np.float32), empty, empty, np.empty(0, np.float32))


def made_by(suite: object, name: str = "make") -> Callable[..., Any]:
    """Return what a suite's class says under a name, as it stands there: a function is not bound to the suite."""
    found = inspect.getattr_static(suite, name)
    return found.__func__ if isinstance(found, staticmethod) else found


class ModelContract:
    """Checks of one model: `make(catalogue)` builds it, with settings that suit 12 items.

    `algorithm` is what it is fitted by; None takes federated averaging for a model that trains, and checks nothing of
    updates for another.
    """

    make: ClassVar[Callable[[Catalogue], Recommender]]
    algorithm: ClassVar[Algorithm | None] = None

    @pytest.fixture
    def model(self) -> Recommender:
        """The model, new, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return made_by(self)(catalogue())

    @pytest.fixture
    def fitted_by(self, model: Recommender) -> Algorithm:
        """The algorithm that it is fitted by."""
        if self.algorithm is None and not isinstance(model, TrainableRecommender):
            pytest.skip(f"{type(model).__name__} does not train: say which algorithm it is fitted by")
        return (self.algorithm or cast(Algorithm, FedAvg())).with_catalogue(catalogue())

    @pytest.fixture
    def trained(self, model: Recommender) -> TrainableRecommender:
        """The model, its parameters drawn, if it trains."""
        if not isinstance(model, TrainableRecommender):
            pytest.skip(f"{type(model).__name__} does not train")
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        return model

    def test_results_have_a_name_for_it(self, model: Recommender) -> None:
        """`name` is what results call the model, declared by its own class."""
        assert isinstance(vars(type(model)).get("name"), str), f"{type(model).__name__} declares no name of its own"

    def test_an_update_carries_exactly_the_allowed_names(self, model: Recommender, fitted_by: Algorithm) -> None:
        """The allow-list is the contract: whatever is not on it stays, the user's own parameters first of all."""
        state = fitted_by.init(model, catalogue())
        context = RoundContext(1, 0, NoPrivacy())
        made = fitted_by.contribute(model, fitted_by.broadcast(state), device(3, 1, 4, 5, 9), {}, context)
        assert {n: a.shape for n, a in made.update.arrays.items()} == fitted_by.shapes(state)
        if isinstance(model, TrainableRecommender) and fitted_by.trains:
            assert made.update.arrays.keys() == model.shared
        assert made.private.keys() == model.private_arrays().keys()

    def test_a_new_parameter_is_private_by_default(self, model: Recommender) -> None:
        """What the allow-list does not name never leaves."""
        model.register_parameter("diary", torch.nn.Parameter(torch.zeros(2)))
        assert "diary" in model.private_arrays() and "diary" not in model.shared_arrays()

    def test_scores_every_item_with_a_number(self, model: Recommender) -> None:
        """Whatever the history, one finite score an item."""
        for history in ([], [3], [1, 4, 5, 9]):
            scores = model.scores(torch.tensor(history, dtype=torch.long))
            assert scores.shape == (ITEMS,) and bool(torch.isfinite(scores).all())

    def test_many_devices_score_as_each_of_them(self, model: Recommender) -> None:
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
            found = model.scores_many(histories, private)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-6)

    def test_loading_what_was_read_changes_nothing_and_wrong_arrays_are_named(self, model: Recommender) -> None:
        """Arrays that travelled fill the model as they left it; others are refused by name."""
        arrays = {**model.shared_arrays(), **model.private_arrays()}
        model.load(arrays)
        again = {**model.shared_arrays(), **model.private_arrays()}
        assert all(np.array_equal(arrays[n], again[n]) for n in arrays)
        with pytest.raises(FedrecError, match="nonsense"):
            model.load({"nonsense": np.zeros(1, np.float32)})
        if arrays:
            with pytest.raises(FedrecError, match=r"shape \(7, 7\)"):
                model.load({sorted(arrays)[0]: np.zeros((7, 7), np.float32)})

    def test_the_loss_is_one_value_per_interaction_and_local(self, trained: TrainableRecommender) -> None:
        """A positive and its negatives are one example: changing one row changes that row's loss alone."""
        items = torch.randint(0, ITEMS, (5, 3), generator=torch.Generator().manual_seed(2))
        before = trained.loss(Batch(items, torch.ones(5)))
        changed = items.clone()
        changed[2] = (changed[2] + 1) % ITEMS
        after = trained.loss(Batch(changed, torch.ones(5)))
        assert before.shape == (5,)
        assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]]) and before[2] != after[2]

    def test_training_lowers_the_loss(self, trained: TrainableRecommender) -> None:
        """Sixty steps on three examples make their loss smaller."""
        batch = Batch(torch.tensor([[1, 2], [4, 3], [5, 7]]), torch.tensor([4.0, 2.0, 5.0]))
        optimiser = torch.optim.Adam(trained.parameters(), lr=0.02)
        first = trained.loss(batch).sum().item()
        for _ in range(60):
            optimiser.zero_grad()
            trained.loss(batch).sum().backward()
            optimiser.step()
        assert trained.loss(batch).sum().item() < first

    @pytest.mark.parametrize("training", engines.TRAININGS)
    def test_its_kernel_trains_as_each_device_alone(self, trained: TrainableRecommender, training: str) -> None:
        """With the same draws, to 1e-5 of what devices contribute, and to few whole numbers at a rounding edge."""
        if trained.closed_form is None:
            pytest.skip(f"{type(trained).__name__} names no closed form: it has no kernel")
        found = engines.differences("kernel", trained, *engines.TRAININGS[training], engines.devices(ITEMS))
        assert found.update < engines.WITHIN and found.private < 1e-4 and found.loss < 1e-4
        assert found.edges <= engines.EDGES * found.numbers
