"""Overrides: what is mistyped is named, with what would be right."""

import json
from pathlib import Path

import pytest

from fedrec.errors import FedrecError
from fedrec.experiment.experiment import Experiment
from fedrec.experiment.instantiate import instantiate
from fedrec.experiment.settings import load
from fedrec.paths import app_dir
from tests.support.tiny import FREE

CONF = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("privacy.epsilom=3", r"privacy.epsilom does not exist. Did you mean 'privacy.epsilon'"),
        ("epocs=1", "epocs does not exist"),
        ("rouns=1", "Did you mean 'rounds'"),
        ("dataset=ml100k", "dataset=ml100k does not exist. Did you mean 'ml-100k'"),
        ("privacy=usr", "Did you mean 'user'"),
        ("rounds=abc", "rounds=abc: expected int"),
        ("rounds=0", "rounds=0: at least 1"),
        ("seed=-1", "seed=-1: at least 0"),
        ("privacy.epsilon=-1", "privacy.epsilon=-1"),
        ("privacy.epsilon=abc", "privacy.epsilon=abc: expected a number"),
        ("privacy.delta=2", "privacy.delta=2"),
        ("algorithm.learning_rate=fast", "algorithm.learning_rate=fast: expected a number"),
        ("algorithm.learning_rate=-1", "algorithm.learning_rate=-1"),
        ("algorithm.epochs=1.5", "algorithm.epochs=1.5: expected a whole number"),
        ("algorithm.optimizer=sgdd", "algorithm.optimizer=sgdd"),
        ("cohort.dropout=2", "cohort.dropout=2"),
        ("evaluation.select=first", "select"),
        ("accelerator=tpu", "accelerator=tpu must be cpu or cuda"),
        ("+privacy.sigma=1", "privacy.sigma does not exist"),
        ("+model.dmi=4", "model.dmi does not exist. Did you mean 'dim'"),
        ("not an override", "not an override"),
    ],
)
def test_a_mistake_is_named(override: str, said: str) -> None:
    with pytest.raises(FedrecError, match=said.replace("+", r"\+")):
        experiment = load(["model=mf", override]).experiment
        from tests.support.tiny import catalogue

        experiment.model(catalogue())


def test_a_model_brings_its_algorithm_and_the_command_line_wins() -> None:
    assert type(load(["model=ease"]).experiment.algorithm).__name__ == "GramMatrix"
    assert type(load(["model=mf"]).experiment.algorithm).__name__ == "FedAdam"
    assert type(load(["model=mf", "algorithm=fedavg"]).experiment.algorithm).__name__ == "FedAvg"
    assert load(["model=mf", "rounds=3"]).experiment.rounds == 3
    assert load([]).experiment.algorithm.batch_size == 100_000  # type: ignore[attr-defined]
    assert load(["algorithm=fedavg"]).experiment.algorithm.batch_size == 64  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_yaml_builds(path: Path) -> None:
    experiment = load([f"{path.parent.name}={path.stem}"]).experiment
    again = Experiment.from_json(experiment.document)
    assert again.hash == experiment.hash and again.algorithm == experiment.algorithm


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "builtins.open",
        "fedrec.cli.main.main",
        "fedrec.models.base.torch",
        "fedrec.models.mf.nn",
    ],
)
def test_nothing_but_our_own_classes_is_built(target: str) -> None:
    """A configuration can come in a message: it must not be able to call anything."""
    with pytest.raises(FedrecError, match="_target_"):
        instantiate({"_target_": target}, "model")


def test_the_hash_is_that_of_the_content() -> None:
    one, other = load(FREE).experiment, load([*FREE, "seed=1"]).experiment
    assert one.hash == load(FREE).experiment.hash != other.hash
    assert Experiment.from_json(json.dumps(dict(reversed(one.node().items())))).hash == one.hash


def test_the_conf_is_that_of_the_checkout() -> None:
    assert app_dir() == CONF.parent


@pytest.mark.parametrize(
    ("scenario", "first"), [("video", "ml-1m"), ("ecommerce", "online-retail-ii"), ("social", "hetrec2011-lastfm-2k")]
)
def test_a_scenario_brings_its_data_and_everything_in_it_can_be_chosen_otherwise(scenario: str, first: str) -> None:
    chosen, plain = load([f"experiment={scenario}"]), load([f"dataset={first}"])
    assert chosen.document["dataset"] == plain.document["dataset"]
    assert chosen.document["privacy"]["_target_"].endswith("UserLevel")
    assert "local" in chosen.document["evaluation"]["baselines"]
    other = load([f"experiment={scenario}", "dataset=filmtrust", "dataset.path=x", "model=mf", "privacy=none"])
    assert other.document["dataset"]["path"] == "x" and other.document["rounds"] == 60
    assert other.document["privacy"] == {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}
    assert type(other.experiment.algorithm).__name__ == "FedAdam"
