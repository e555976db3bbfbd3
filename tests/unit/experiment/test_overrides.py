"""What can be set, read without Hydra: the same keys as Hydra composes, and mistakes told from them alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fedrec.errors import FedrecError
from fedrec.experiment.overrides import Conf, Override, find_overruled, flat, items
from fedrec.experiment.settings import find_overrides, load
from fedrec.paths import conf_dir
from tests.support.tiny import SMALL

CONF = Conf.of()
MORE = [
    ["experiment=video", "model=mf"],
    ["experiment=social", "model=sasrec", "cohort=poisson"],
    ["model=ease", "algorithm=fedavg"],
]


@pytest.mark.parametrize("group", CONF.groups)
def test_each_choice_brings_what_hydra_composes(group: str) -> None:
    same_as_hydra([[f"{group}={choice}"] for choice in CONF.groups[group]])


def test_choices_meet_as_hydra_lets_them() -> None:
    same_as_hydra([[], *MORE])


def same_as_hydra(cases: list[list[str]]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed: list[Any] = [OmegaConf.to_container(compose("config", overrides)) for overrides in cases]
    for overrides, expected in zip(cases, composed, strict=True):
        found = dict[str, Any]()
        for _, node in CONF.layers(dict(text.split("=") for text in overrides)):
            found |= dict(items(node))
        assert found.keys() == flat(expected), overrides
        for key, value in items(expected):
            assert isinstance(value, dict) or found[key] == value, (overrides, key)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("privacy.epsilon=1,2", r"one value is expected; a sweep is a study: fedrec study PLAN --values 1,2"),
        ("ease", r"ease: key=value is expected, such as rounds=5\. Did you mean 'model=ease'\?"),
        ("8", r"lists are written with commas, such as --seeds 0,1,2"),
        ("privacy.clip=split", r"the clip is a number, the largest norm; how to clip is privacy\.clipping=split"),
        ("privcy.epsilon=2", r"privcy\.epsilon does not exist\. Did you mean 'privacy\.epsilon'\?"),
        ("model=eas", r"model=eas does not exist\. Did you mean 'ease'\?"),
        ("model.embeding=3", r"model\.embeding does not exist"),
        ("a b=c", r"a b=c: key=value is expected"),
    ],
)
def test_mistakes_are_told(text: str, said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        CONF.check([text])


@pytest.mark.parametrize(
    "text",
    [
        "evaluation.baselines=[popularity,ease]",
        "dataset.path='a,b.csv'",
        "+model.new=1",
        "~privacy",
        "name=x=y",
        "model='ease'",
    ],
)
def test_what_is_no_mistake_passes(text: str) -> None:
    CONF.check([text])


def test_an_override_is_read_in_its_parts() -> None:
    assert Override.parse("++privacy.clip=0.5") == Override("++privacy.clip=0.5", "++", "privacy.clip", "0.5")
    assert Override.parse("~privacy").mark == "~"


def test_each_value_says_where_it_comes_from() -> None:
    found = CONF.origins(["model=ease", "privacy=user", "privacy.epsilon=2", "dataset.path=x"])
    assert found["privacy.epsilon"] == "override privacy.epsilon=2" and found["privacy.clip"] == "privacy/user.yaml"
    assert (found["rounds"], found["seed"]) == ("model/ease.yaml", "config.yaml")
    assert found["algorithm.head"] == "algorithm/gram.yaml"
    assert found["model.head"] == "model/ease.yaml: ${algorithm.head}"


def test_a_folder_of_ones_own_brings_choices(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# @package _global_\nmodel:\n  _target_: mine.Model\n  depth: 3\n")
    conf = Conf.of(tmp_path)
    conf.check(["model=mine", "model.depth=4"])
    assert conf.origins(["model=mine"])["model.depth"] == str(tmp_path / "model" / "mine.yaml")
    with pytest.raises(FedrecError, match="model=mine does not exist"):
        CONF.check(["model=mine"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=ease", "rounds=50"], ["rounds=50 is not used: algorithm gram plays 2 rounds, always"]),
        (["model=ease", "rounds=2"], []),
        (["model=popularity", "rounds=2"], ["rounds=2 is not used: algorithm counts plays 1 round, always"]),
        (
            ["model=ease", "privacy=user", "privacy.clip=2"],
            ["privacy.clip=2 is not used: algorithm gram trains nothing"],
        ),
        (["model=mf", "privacy=user", "privacy.clip=2"], []),
        (["model=mf", "privacy=interaction", "algorithm.epochs=3"], ["privacy.local_steps decides"]),
        (["model=mf", "privacy=gateway", "algorithm.batch_size=3"], ["privacy.sample_rate decides"]),
        (["model=neumf", "privacy=user", "privacy.dense_share=0.3"], ["not used without privacy.clipping=split"]),
        (["model=neumf", "privacy=user", "privacy.clipping=split", "privacy.dense_share=0.3"], []),
    ],
)
def test_what_another_setting_overrules_is_told(overrides: list[str], said: list[str]) -> None:
    found = find_overruled(load([*SMALL, *overrides]).experiment, overrides)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True)), found


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([], []),
        (["model=mf", "privacy=user", "privacy.epsilon=4", "rounds=7"], None),
        (["model=ease"], ["model=ease"]),
        (["experiment=video", "evaluation.baselines=[]"], None),
        (["model=content", "algorithm=fedadam", "privacy=none"], ["algorithm=fedadam", "privacy=none"]),
        (["dataset=csv", "dataset.path='a, b=\\'c.csv'", "seed=3", "privacy.delta=1e-6"], None),
        (["cohort=small", "model.init_std=0.2", "model=mf"], None),
    ],
)
def test_settings_say_the_overrides_that_compose_them_again(overrides: list[str], found: list[str] | None) -> None:
    document = load(overrides).document
    again = find_overrides({**document, "name": "other", "run": "other-1"})
    assert again is not None and load(again).document == document
    assert found is None or again == found


def test_settings_with_somebody_elses_part_have_none() -> None:
    assert find_overrides({**load([]).document, "model": {"_target_": "mine.Model"}}) is None


def test_a_mistake_is_told_before_hydra_and_torch_are_imported() -> None:
    """Every command that composes settings answers from conf/ alone."""
    commands = [
        ["simulate"], ["config"], ["audit"], ["ray"], ["data", "check"], ["data", "get"], ["data", "split"],
        ["privacy", "project"], ["server", "start"], ["study", "privacy-accuracy"], ["study", "frontier"],
        ["study", "deltas"], ["study", "mechanisms"], ["study", "seeds"],
    ]  # fmt: skip
    code = "import sys\nfrom fedrec.cli.main import main\n"
    code += (
        f"for command in {commands}:\n  try:\n    main([*command, 'privcy.epsilon=2'])\n  except SystemExit as end:\n"
    )
    code += "    print(end.code, [m for m in ('torch', 'hydra', 'flwr', 'scipy') if m in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 []"] * len(commands)
    assert done.stderr.splitlines() == ["fedrec: privcy.epsilon does not exist. Did you mean 'privacy.epsilon'?"] * len(
        commands
    )
