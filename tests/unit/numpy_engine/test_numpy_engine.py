"""The engine without torch: its gradients are right, it trains as torch does, and it needs none of torch's world."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrec.algorithms.base import RoundContext
from fedrec.data.interactions import DeviceData
from fedrec.device.backend import select_backend
from fedrec.errors import FedrecError, RefusedError
from fedrec.federated.exchange import base_header
from fedrec.numpy_engine.experiment import LightExperiment, light_model, local_training_config
from fedrec.numpy_engine.models import LOSSES
from fedrec.numpy_engine.node import contribute
from fedrec.privacy.release import Release, worth
from tests.support.tiny import FREE, SMALL, catalogue, small

ROOT = Path(__file__).parents[3]
ITEMS = 12
MODELS = {
    "mf": {"_target_": "fedrec.models.mf.MatrixFactorization", "_partial_": True, "dim": 3},
    "neumf": {"_target_": "fedrec.models.neumf.NeuMF", "_partial_": True, "dim": 3, "layers": [5, 4]},
    "neumf without layers": {"_target_": "fedrec.models.neumf.NeuMF", "_partial_": True, "dim": 2, "layers": []},
}


def device(user: int = 3) -> DeviceData:
    history, empty = np.array([1, 4, 5, 9, 4, 0, 2], np.int32), np.empty(0, np.int32)
    values = np.array([4, 3, 5, 2, 1, 3.5, 4.5], np.float32)
    return DeviceData(user, history, values, empty, empty, np.empty(0, np.float32))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_finite_differences(name: str, loss: str) -> None:
    model, rng = light_model({**MODELS[name], "loss": loss}, ITEMS), np.random.default_rng(1)
    model.arrays = {k: rng.normal(0, 0.5, a.shape) for k, a in model.arrays.items()}
    items = np.array([[1, 2, 2], [4, 1, 7], [1, 0, 1]])  # an item several times, in one example and in many
    values = np.array([4.0, 2.0, 5.0])
    losses, gradients = model.gradients(items, values)
    assert losses.shape == (3,) and gradients.keys() == model.arrays.keys()
    for array_name, gradient in gradients.items():
        array, numeric = model.arrays[array_name], np.zeros(model.arrays[array_name].shape)
        for place in np.ndindex(array.shape):
            kept, sums = array[place], []
            for step in (1e-6, -1e-6):
                array[place] = kept + step
                sums.append(model.gradients(items, values)[0].sum())
            array[place] = kept
            numeric[place] = (sums[0] - sums[1]) / 2e-6
        dense = np.zeros(array.shape)
        dense[slice(None) if gradient.rows is None else gradient.rows] = gradient.values
        np.testing.assert_allclose(dense, numeric, atol=1e-7, err_msg=array_name)


TRAININGS = {
    "minibatches": ["algorithm=fedavg", "algorithm.batch_size=3", "algorithm.epochs=3"],
    "one step over a fixed sum": ["algorithm=fedsgd"],
    "whole history, five steps": ["algorithm=fedadam"],
    "without negatives": ["algorithm=fedavg", "algorithm.negatives=0", "model.loss=mse", "model.offset=3.5"],
    "pairs": ["algorithm=fedadagrad", "model.loss=bpr", "algorithm.negatives=2"],
}


@pytest.mark.parametrize("mechanism", ["none", "user", "user privacy.clipping=split"])
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("model", ["mf", "neumf"])
def test_it_trains_as_torch_does(model: str, training: str, mechanism: str) -> None:
    """Two rounds on one device, each from what the last one kept: equal to 1e-5 on the same batches and negatives."""
    if "split" in mechanism and model == "mf":
        pytest.skip("MF has item rows only: there is nothing to split")
    base = [*SMALL, *f"privacy={mechanism}".split(), f"model={model}", *TRAININGS[training]]
    experiment, _ = small("seed=0" if mechanism == "none" else "privacy.clip=0.05", base=base)
    light = LightExperiment.from_json(experiment.document)
    assert light.hash == experiment.hash
    torch_model, light_twin = experiment.build_model(catalogue(ITEMS)), light.model(ITEMS)
    broadcast = experiment.algorithm.broadcast(experiment.algorithm.init(torch_model, catalogue(ITEMS)))
    private, light_private = {}, {}
    for number in (1, 2):
        context = RoundContext(number, experiment.seed, experiment.mechanism)
        made = experiment.algorithm.contribute(torch_model, broadcast, device(), private, context)
        update = experiment.mechanism.privatize_update(made.update, experiment.mechanism.random(0))
        mine, light_private, loss, examples = contribute(light, light_twin, broadcast, device(), light_private, number)
        private = made.private
        assert mine.arrays.keys() == update.arrays.keys() and mine.count == update.count
        assert loss == pytest.approx(made.loss, rel=1e-5) and examples == made.examples
        sent, step = worth(update), update.grid.step if isinstance(update, Release) else 0.0
        for name, array in {**sent, **private}.items():
            found = {**worth(mine), **light_private}[name]
            np.testing.assert_allclose(found, array, atol=1e-5 + 1.01 * step, err_msg=name)
            assert found.dtype == np.float32
        assert max(np.abs(array).max() for array in sent.values()) > 1e-3


REFUSED = {
    "privacy=interaction": "not InteractionLevel: choose privacy=none or privacy=user",
    "model=content": "not ContentRecommender",
    "algorithm.optimizer=adam": "the light engine has sgd",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_the_light_engine_lacks_is_refused_by_name(override: str) -> None:
    document = small("model=mf", override, base=SMALL if "privacy" in override else FREE)[0].document
    with pytest.raises(RefusedError, match=REFUSED[override]):
        LightExperiment.from_json(document).model(ITEMS)


def test_a_statistic_and_a_misspelt_setting_are_named() -> None:
    with pytest.raises(RefusedError, match="not ItemCounts"):
        local_training_config({"_target_": "fedrec.algorithms.item_counts.ItemCounts"})
    with pytest.raises(FedrecError, match=r"model.dimm does not exist. Did you mean 'dim'"):
        light_model({**MODELS["mf"], "dimm": 2}, ITEMS)
    with pytest.raises(FedrecError, match="Did you mean 'bpr'"):
        light_model({**MODELS["mf"], "loss": "bprr"}, ITEMS)
    with pytest.raises(FedrecError, match="can't take nonsense"):
        light_model(MODELS["mf"], ITEMS).load({"nonsense": np.zeros(1)})


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

BANNED = {"torch", "hydra", "omegaconf", "scipy", "dp_accounting", "opacus", "pandas"}


class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BANNED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


sys.meta_path.insert(0, Blocker())
"""

TRAIN = """
import json
from fedrec.device.client_app import simulated_node
from fedrec.messages import Message

header, request = json.loads(sys.stdin.read()), None
here = simulated_node(0, 4, "light")
hello = here.answer(Message({**header, "kind": "hello", "devices": []}))
model = here.answer
from fedrec.numpy_engine.experiment import LightExperiment
twin = LightExperiment.from_json(header["experiment"]).model(60)
asked = {**header, "kind": "train", "round": 1, "devices": list(range(*hello.header["range"]))}
reply = here.answer(Message(asked, twin.shared_arrays()))
rows = here.answer(Message({**asked, "kind": "evaluate", "part": "validation"}, twin.shared_arrays()))
print(reply.header["count"], sorted(reply.arrays), rows.header["count"], hello.header["engine"])
"""


def run_blocked(code: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )


def test_the_client_trains_and_ranks_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    experiment, _ = small("model=mf")
    header = {**base_header(experiment, "run", str(tmp_path / "private")), "part": "train"}
    done = run_blocked(TRAIN, json.dumps(header))
    assert done.stdout.split("\n")[0] == "10 ['item.weight', 'item_bias.weight'] 10 light", done.stderr


@pytest.mark.parametrize("command", [["simulate"], ["recommend", "run", "--likes", "Heat"]])
def test_what_needs_torch_says_so_in_one_line(command: list[str]) -> None:
    done = run_blocked(f"from fedrec.cli.main import main\nmain({command})")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "make install brings it" in done.stderr


def test_the_blocker_blocks() -> None:
    assert "is blocked" in run_blocked("import fedrec.federated.node").stderr


def test_without_torch_the_light_engine_is_chosen_and_torch_is_refused() -> None:
    assert (
        run_blocked("from fedrec.device.backend import select_backend\nprint(select_backend('auto'))").stdout.strip()
        == "light"
    )
    refused = run_blocked("from fedrec.device.backend import select_backend\nselect_backend('torch')").stderr
    assert "torch is not installed here; use engine=light" in refused
    assert select_backend("auto") == select_backend("torch") == "torch" and select_backend("light") == "light"
    with pytest.raises(FedrecError, match="Did you mean 'light'"):
        select_backend("ligth")
