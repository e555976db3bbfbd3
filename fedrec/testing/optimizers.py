"""What every server optimiser promises: the step from the mean change of the devices to the next model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from fedrec.algorithms.base import Algorithm
from fedrec.data.catalogue import Catalogue
from fedrec.messages import Arrays
from fedrec.models.base import Recommender
from fedrec.privacy.mechanisms.protocol import Aggregate
from fedrec.testing.models import ITEMS, SEED, catalogue, made_by

DENOMINATOR = 5.0


@dataclass(frozen=True)
class OptimizerCase:
    """How the optimiser is made, the state that it starts from, and what devices share of the model."""

    make: Callable[[], Algorithm]
    first: Arrays
    shared: frozenset[str]

    def changes(self, seed: int) -> Arrays:
        """Return a mean change of the shapes that an update of the first round has."""
        rng = np.random.default_rng((SEED, seed))
        shapes = self.make().with_catalogue(catalogue()).shapes(self.first)
        return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}

    def stepped(self, state: Arrays, mean: Arrays, denominator: float = DENOMINATOR) -> Arrays:
        """Return the state after a round in which devices changed by this mean, by an optimiser made anew."""
        summed = {name: array * np.float32(denominator) for name, array in mean.items()}
        return self.make().with_catalogue(catalogue()).step(state, Aggregate(summed, denominator))

    def played(self, rounds: int) -> Arrays:
        """Return the state after some rounds, each with a change of its own."""
        state = self.first
        for number in range(rounds):
            state = self.stepped(state, self.changes(number))
        return state


class ServerOptimizerContract:
    """Checks of how a server follows its devices: `make()` builds the algorithm, `model(catalogue)` what it trains.

    For an algorithm that trains; the model in a size for 12 items. To be used beside `AlgorithmContract`, which holds
    the rest of the algorithm to its promises.
    """

    make: ClassVar[Callable[[], Algorithm]]
    model: ClassVar[Callable[[Catalogue], Recommender]]

    @pytest.fixture
    def case(self) -> OptimizerCase:
        """The optimiser before its first round."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = made_by(self, "model")(catalogue(ITEMS))
        algorithm: Algorithm = made_by(self)().with_catalogue(catalogue())
        return OptimizerCase(made_by(self), algorithm.init(model, catalogue()), model.shared)

    def test_devices_receive_the_model_and_no_memory_of_the_server(self, case: OptimizerCase) -> None:
        """Moments are the server's own: sent, they would cost as much as the model again."""
        for rounds in (0, 2):
            assert case.make().broadcast(case.played(rounds)).keys() == case.shared

    def test_what_nobody_changed_stays(self, case: OptimizerCase) -> None:
        """An array of zeros moves nothing in the first round: an item that no device touched keeps its vector."""
        for still in case.changes(0):
            mean = {name: np.zeros_like(a) if name == still else a for name, a in case.changes(0).items()}
            after = case.stepped(case.first, mean)
            assert np.array_equal(after[still], case.first[still]), still

    def test_it_goes_where_the_devices_point(self, case: OptimizerCase) -> None:
        """Every array moves along its mean change, never against it."""
        mean = case.changes(0)
        after = case.stepped(case.first, mean)
        for name, change in mean.items():
            moved = after[name].astype(np.float64) - case.first[name]
            assert float((moved * change).sum()) > 0, f"{name} moves against its mean change"

    def test_only_the_mean_counts(self, case: OptimizerCase) -> None:
        """Over a denominator that is public: twice the sum of twice the cohort is the same step."""
        state, mean = case.played(1), case.changes(1)
        one, other = case.stepped(state, mean, 4.0), case.stepped(state, mean, 4096.0)
        for name, array in one.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-6, atol=1e-9, err_msg=name)

    def test_all_it_remembers_is_in_the_state(self, case: OptimizerCase) -> None:
        """A run that resumes makes the optimiser anew, and goes on as one that was never stopped."""
        kept = case.make().with_catalogue(catalogue())
        state = case.first
        for number in range(3):
            summed = {name: array * np.float32(DENOMINATOR) for name, array in case.changes(number).items()}
            state = kept.step(state, Aggregate(summed, DENOMINATOR))
        again = case.played(3)
        assert state.keys() == again.keys()
        for name, array in state.items():
            assert np.array_equal(array, again[name]), f"{name} differs where the optimiser was made anew"

    def test_noise_however_large_leaves_numbers(self, case: OptimizerCase) -> None:
        """A round under strong privacy is mostly noise, and the state has to survive it."""
        state = case.first
        for number, scale in enumerate((1e6, 0.0, 1e-12)):
            state = case.stepped(state, {n: a * np.float32(scale) for n, a in case.changes(number).items()})
            assert all(np.isfinite(array).all() for array in state.values()), f"after changes of {scale:g}"
