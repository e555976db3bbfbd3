"""What a study will run: its trials, their overrides, and what a yaml file can get wrong."""

import json
from pathlib import Path

import pytest

from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.study import plan
from fedrec.study.plan import Study, find, of

NODE = {
    "name": "toy",
    "title": "Toy",
    "overrides": ["privacy=user"],
    "methods": {"ease": ["model=ease", "privacy.clip=2"], "two words!": ["model=popularity"]},
    "vary": "privacy.epsilon",
    "values": [1, 0.5],
    "label": "epsilon",
    "without": ["privacy=none"],
    "seeds": [3, 4],
}


def test_every_method_meets_every_value_and_seed_and_once_goes_without() -> None:
    trials = of(NODE, "toy").trials()
    assert len(trials) == 2 * 3 * 2 == len({trial.name for trial in trials})
    assert {trial.seed for trial in trials[:6]} == {3}
    assert trials[2].name == "ease-1-seed3" and trials[1].name == "two-words-without-seed3"
    assert trials[2].overrides == (
        "privacy=user",
        "model=ease",
        "privacy.clip=2",
        "privacy.epsilon=1",
        "seed=3",
        "evaluation.baselines=[]",
    )


def test_going_without_drops_every_setting_of_the_group() -> None:
    trial = of({**NODE, "given": ["privacy.delta=1e-6", "rounds=3"]}, "toy").trials()[0]
    assert trial.overrides == ("model=ease", "rounds=3", "privacy=none", "seed=3", "evaluation.baselines=[]")
    assert load(trial.overrides).document["privacy"] == {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}


def test_the_command_line_wins_and_selects() -> None:
    study = of(NODE, "toy").selected(["ease"], [8.0], [0])
    assert [trial.name for trial in study.trials()] == ["ease-without-seed0", "ease-8-seed0"]
    with pytest.raises(FedrecError, match=r"--methods eas: study toy has none. Did you mean 'ease'"):
        study.selected(["eas"], None, None)


def test_a_study_survives_its_file() -> None:
    study = of(NODE, "toy")
    assert of(json.loads(study.to_json()), "again") == study


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"valuse": [1]}, r"valuse does not exist. Did you mean 'values'"),
        ({"values": ["a"]}, "values="),
        ({"values": 3}, "values must be a list"),
        ({"values": [0]}, "on a log scale"),
        ({"metric": "ndcg"}, "metric names 'ndcg'"),
        ({"references": ["poplarity"]}, "Did you mean 'popularity'"),
        ({"methods": []}, "methods must map"),
        ({"methods": {}}, "at least one method"),
        ({"methods": {"a b": [], "a-b": []}}, "two trials have one name"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        of({**NODE, **change}, "toy")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedrecError, match="vary is missing"):
        of({key: value for key, value in NODE.items() if key != "vary"}, "toy")
    with pytest.raises(FedrecError, match="Did you mean 'privacy-accuracy'"):
        find("privacy-acuracy")
    (tmp_path / "own.yaml").write_text("- a\n")
    with pytest.raises(FedrecError, match="a mapping"):
        find(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("path", sorted((Path(plan.__file__).parent / "plans").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_study_can_be_composed(path: Path) -> None:
    study = find(path.stem)
    assert isinstance(study, Study) and study.without_label == "no privacy"
    for trial in study.trials()[: len(study.trials()) // len(study.seeds)]:
        load(trial.overrides).experiment.build_model  # noqa: B018
