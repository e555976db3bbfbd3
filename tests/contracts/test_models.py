"""What every model promises, for every yaml under conf/model."""

from pathlib import Path

import pytest
import torch

from fedrec.algorithms.base import Algorithm, RoundContext
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.models.base import Batch, Recommender, TrainableRecommender
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.testing import ModelContract
from fedrec.testing.models import catalogue, device
from tests.support.tiny import FREE

NAMES = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml") if p.stem != "auto")
PRIVATE = {"mf": {"user.weight"}, "neumf": {"user_gmf.weight", "user_mlp.weight"}, "content": {"user.weight"}}
PRIVATE["pfedrec"] = {"score.weight", "score_bias.weight"}
ITEMS = 12


class TestModels(ModelContract):
    @pytest.fixture(params=NAMES)
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def model(self, name: str) -> Recommender:
        return load([*FREE, f"model={name}"]).experiment.model(catalogue(ITEMS))

    @pytest.fixture
    def fitted_by(self, name: str, model: Recommender) -> Algorithm:
        return load([*FREE, f"model={name}"]).experiment.algorithm

    def test_what_stays_on_a_device_is_the_users_own(self, name: str, model: Recommender, fitted_by: Algorithm) -> None:
        state = fitted_by.init(model, catalogue(ITEMS))
        made = fitted_by.contribute(
            model, fitted_by.broadcast(state), device(3, 1), {}, RoundContext(1, 0, NoPrivacy())
        )
        assert made.private.keys() == PRIVATE.get(name, set())
        assert not any("user" in array for array in made.update.arrays)


@pytest.mark.parametrize("name", ["mf", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "bpr", "mse"])
def test_training_halves_the_loss(name: str, loss: str) -> None:
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
