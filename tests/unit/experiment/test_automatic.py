"""`model=auto`: chosen by what is public alone, said with its reason, and never in the way of what a person sets."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fedrec
from fedrec.cli.main import main
from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError
from fedrec.experiment.automatic import asks_for_choice, load_chosen
from fedrec.experiment.experiment import load_dataset
from fedrec.experiment.settings import load, read, validate
from fedrec.models.auto import LEAST_SIGNAL, choose_model, users_times_mu
from tests.support.tiny import SMALL, small


def chosen(users: int, *overrides: str, timed: bool = True, features: tuple[str, ...] = ()) -> str:
    """Return what is chosen for data of these public sizes."""
    experiment, dataset = small(*overrides, base=[*SMALL, "model=popularity"])
    catalogue = replace(dataset.catalogue, feature_names=("position", *features))
    assert dataset.facts is not None
    facts = replace(dataset.facts, order="time" if timed else "file")
    plan = replace(experiment.plan(dataset), population=users)
    return " ".join(
        choose_model(replace(dataset, catalogue=catalogue, facts=facts), experiment.mechanism, plan).overrides
    )


@pytest.mark.parametrize(
    ("users", "overrides", "timed", "features", "expected"),
    [
        (6000, ["privacy=user"], True, ("year",), "model=order"),
        (6000, ["privacy=user"], False, ("year",), "model=order algorithm.order=false"),
        (6000, ["privacy=user"], False, (), "model=ease"),
        (400, ["privacy=user"], True, ("year",), "model=popularity"),
        (6000, ["privacy=user", "privacy.epsilon=0.1"], True, ("year",), "model=popularity"),
        (6000, ["privacy=user_local"], True, ("year",), "model=popularity"),
        (10_000_000, ["privacy=user_local"], False, (), "model=ease"),
        (6000, ["privacy=interaction"], True, ("year",), "model=content"),
        (6000, ["privacy=interaction"], True, (), "model=popularity"),
        (6000, ["privacy=gateway"], False, (), "model=ease"),
        (50, ["privacy=none"], False, ("year",), "model=ease"),
        (50, ["privacy=none"], True, (), "model=order"),
    ],
)
def test_the_rule(users: int, overrides: list[str], timed: bool, features: tuple[str, ...], expected: str) -> None:
    assert chosen(users, *overrides, timed=timed, features=features) == expected


def test_the_strength_of_all_users_is_that_of_the_gaussian_of_epsilon() -> None:
    """mu of epsilon 1, 2, 4 and 8 at delta 1e-5 is 0.268, 0.502, 0.925 and 1.666 (Dong, Roth and Su)."""
    for epsilon, mu in ((1, 0.268), (2, 0.502), (4, 0.925), (8, 1.666)):
        experiment, dataset = small(f"privacy.epsilon={epsilon}", "privacy.delta=1e-5", base=[*SMALL, "privacy=user"])
        plan = experiment.plan(dataset)
        assert users_times_mu(experiment.mechanism, plan) / plan.population == pytest.approx(mu, rel=5e-3)


def test_noise_on_each_device_weighs_by_the_root_of_users() -> None:
    experiment, dataset = small(base=[*SMALL, "privacy=user_local", "model=popularity"])
    plan = replace(experiment.plan(dataset), population=10_000)
    central, _ = small(base=[*SMALL, "privacy=user", "model=popularity"])
    assert users_times_mu(central.mechanism, plan) == pytest.approx(100 * users_times_mu(experiment.mechanism, plan))
    assert users_times_mu(central.mechanism, plan) > LEAST_SIGNAL


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["dataset=csv"], True),
        (["dataset=frame"], True),
        (["dataset=recbole"], True),
        (["model=auto"], True),
        ([], False),
        (["dataset=ml-100k"], False),
        (["dataset=csv", "model=mf"], False),
        (["experiment=social"], False),
        (["experiment=social", "dataset=filmtrust"], False),
        (["dataset=csv", "experiment=social"], False),
    ],
)
def test_it_is_the_default_of_data_of_ones_own_alone(overrides: list[str], asked: bool) -> None:
    assert asks_for_choice(overrides) == asked
    target = load(overrides).document["model"]["_target_"]
    assert (target == "fedrec.models.auto.AutomaticModel") == asked


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("auto") / "log.csv"
    random = np.random.default_rng(5)
    rows = [f"u{user},i{item},{n}" for user in range(30) for n, item in enumerate(random.permutation(25)[:6])]
    path.write_text("\n".join(["user,item,time", *rows]))
    return ["dataset=csv", f"dataset.path={path}", f"output={path.parent}", "privacy=none"]


def test_what_is_set_otherwise_wins(log: list[str]) -> None:
    settings = load_chosen([*log, "algorithm.head=7", "rounds=2"])
    assert settings.document["algorithm"]["head"] == settings.document["model"]["head"] == 7
    assert settings.chosen is not None and "model=NAME" in str(settings.chosen)
    named = load_chosen([*log, "model=popularity"])
    assert named.chosen is None and named.document == load([*log, "model=popularity"]).document
    assert settings.document == load([*log, "algorithm.head=7", "rounds=2", "model=order"]).document


def test_a_setting_of_another_model_is_refused_with_the_choice(log: list[str]) -> None:
    with pytest.raises(FedrecError, match=r"model.dim does not exist.*model=order: chosen by model=auto"):
        load_chosen([*log, "model.dim=4"])


def test_the_choice_does_not_look_at_what_users_did(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(load(log).experiment)
    experiment = load([*log, "model=popularity", "privacy=user"]).experiment
    hidden = SimpleNamespace(catalogue=dataset.catalogue, facts=SimpleNamespace(order="time"))
    plan = experiment.plan(dataset)
    assert choose_model(hidden, experiment.mechanism, plan) == choose_model(dataset, experiment.mechanism, plan)  # type: ignore[arg-type]


def test_a_run_keeps_the_model_that_was_chosen(log: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", *log, "name=kept", "evaluation.baselines=[]"])
    told = capsys.readouterr().err
    assert told.index("model=order: chosen by model=auto") < told.index("Run folder")
    folder = Path(log[2].removeprefix("output=")) / "kept"
    assert read(folder / "config.yaml").document["model"]["_target_"] == "fedrec.models.transitions.ItemTransitionModel"
    (folder / "metrics.json").unlink()
    main(["simulate", "--resume", str(folder)])
    assert (folder / "metrics.json").exists()


def test_config_shows_what_was_chosen_and_where_it_comes_from(
    log: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", *log])
    told = capsys.readouterr()
    assert "# model/order.yaml" in told.out and "# algorithm/order.yaml" in told.out and "model=auto" in told.err
    main(["config", "dataset=csv"])
    told = capsys.readouterr()
    assert "dataset.path is not set" in told.err and "AutomaticModel" in told.out


def test_a_frame_without_a_model_gets_one(tmp_path: Path) -> None:
    frame = {"user": [n // 5 for n in range(100)], "item": [n * n % 17 for n in range(100)], "time": list(range(100))}
    run = fedrec.simulate(frame, privacy="none", output=str(tmp_path), progress=False, evaluation={"baselines": []})
    assert run.metrics["model"] == "order"


def test_a_choice_that_was_not_made_trains_nothing(log: list[str]) -> None:
    with pytest.raises(FedrecError, match="model=auto was not replaced"):
        validate(load(log))


def test_every_choice_can_be_played(log: list[str]) -> None:
    for more in (["privacy=user"], ["privacy=interaction"], ["privacy=gateway"], ["privacy=user_local"], []):
        settings = load_chosen([*log, *more])
        assert isinstance(load_dataset(validate(settings).experiment), Dataset)
