"""What a program hands over becomes the settings of a command line, or an error that names what would be right."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrec
from fedrec.api.settings import gather, load_dataset, load_settings, to_text
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.models.base import Recommender, TrainableRecommender
from fedrec.models.ease import Ease
from fedrec.models.mf import MatrixFactorization
from fedrec.privacy.mechanisms.user import UserLevel

SMALL = {"user": [1, 1, 2, 2], "item": ["a", "b", "a", "c"], "time": [1, 2, 3, 4]}


class MyMF(MatrixFactorization):
    def __init__(self, catalogue: Catalogue, *, dim: int = 8, bias: bool = False) -> None:
        super().__init__(catalogue, dim=dim)


class Renamed(MatrixFactorization):
    pass


class MyEase(Ease):
    def __init__(self, catalogue: Catalogue, *, head: int = 7, boost: float = 2.0) -> None:
        super().__init__(catalogue, head=head)


class Rules(Recommender):
    pass


def test_names_and_overrides_are_those_of_the_command_line() -> None:
    ours = load_settings("seed=3", model="mf", privacy="user", rounds=4, cohort={"size": 50}, **{"privacy.epsilon": 2})
    theirs = load(["seed=3", "model=mf", "privacy=user", "rounds=4", "cohort.size=50", "privacy.epsilon=2"])
    assert ours == theirs
    assert load_settings({"cohort.size": 50, "model": "mf"}) == load(["cohort.size=50", "model=mf"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="$"), min_size=1),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    )
)  # fmt: skip
def test_every_value_survives_the_way_through_an_override(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"name={to_text(value)}").value()
    plain = [str(x) if isinstance(x, Path) else x for x in parsed] if isinstance(parsed, list) else parsed
    assert to_text(unquoted(plain)) == to_text(value)


def unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return [unquoted(one) for one in value]
    return value.text if hasattr(value, "quote") else value


def test_numbers_of_numpy_and_paths_are_values() -> None:
    chosen = load_settings(rounds=np.int64(3), output=Path("some where/'else'"), **{"evaluation.cutoffs": (5, 10)})
    assert chosen.document["rounds"] == 3 and chosen.document["output"] == "some where/'else'"
    assert chosen.document["evaluation"]["cutoffs"] == [5, 10]


def test_a_mechanism_is_handed_over_as_an_object() -> None:
    ours = load_settings(privacy=fedrec.UserLevel(epsilon=2.0, clip=0.5), model="mf")
    theirs = load(["privacy=user", "privacy.epsilon=2.0", "privacy.clip=0.5", "model=mf"])
    assert ours.experiment.mechanism == theirs.experiment.mechanism
    for kind in (fedrec.InteractionLevel, fedrec.UserLocal, fedrec.GatewayLevel, fedrec.UserAdaptive, fedrec.NoPrivacy):
        assert load_settings(privacy=kind()).experiment.mechanism == kind()
    assert load_settings(privacy=fedrec.BandedUserLevel).experiment.mechanism == fedrec.BandedUserLevel()
    assert load_settings("privacy.epsilon=3", privacy=UserLevel).experiment.mechanism == UserLevel(epsilon=3.0)
    assert gather([], {"privacy": UserLevel(epsilon=2.0)}).overrides == ("privacy=user", "privacy.epsilon=2.0")
    assert gather([], {"model": partial(MatrixFactorization, dim=8)}).overrides == ("model=mf", "model.dim=8")


def test_a_model_of_ones_own_brings_what_its_kin_brings() -> None:
    own = load_settings("model.dim=4", model=MyMF, rounds=5)
    assert own.document["model"] == {"_target_": f"{__name__}.MyMF", "_partial_": True, "dim": 4}
    assert own.document["algorithm"] == load(["model=mf"]).document["algorithm"]
    experiment = own.experiment
    model = experiment.build_model(load_dataset(SMALL).catalogue)
    assert type(model) is MyMF and tuple(model.item.weight.shape) == (3, 4) and experiment.names()["model"] == "MyMF"
    assert load_settings(model=MyMF, algorithm="fedavg").experiment.algorithm.name == "fedavg"
    assert load_settings(model=partial(MyMF, dim=2)).document["model"]["dim"] == 2
    assert load_settings(model=Renamed).document["model"]["dim"] == load(["model=mf"]).document["model"]["dim"]


def test_what_a_model_shares_with_its_algorithm_stays_shared() -> None:
    own = load_settings("algorithm.head=30", model=MyEase)
    assert own.document["model"]["head"] == 30 and own.document["algorithm"]["head"] == 30
    assert "boost" not in own.document["model"]


def test_a_class_in_a_function_is_known_too() -> None:
    class Local(TrainableRecommender):
        pass

    assert load_settings(model=Local).document["model"]["_target_"].endswith("<locals>.Local")
    assert load_settings(model=Local).experiment.model.func is Local  # type: ignore[attr-defined]


def test_a_frame_becomes_a_data_set_that_the_document_names() -> None:
    chosen = load_settings(SMALL, model="ease", privacy="user")
    node = chosen.document["dataset"]
    assert node["_target_"] == "fedrec.data.datasets.frame.Frame" and len(node["content"]) == 32
    assert chosen == load_settings(model="ease", privacy="user", **SMALL)  # columns by themselves
    assert chosen == load_settings(dataset=SMALL, model="ease", privacy="user")
    dataset = load_dataset(SMALL)
    assert (dataset.interactions.users, len(dataset.catalogue)) == (2, 3)
    alone = load_settings(SMALL, privacy="none")  # no model is named: the data decide
    assert alone.chosen is not None and "model=order" in str(alone.chosen)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load_settings(roundz=3), "roundz does not exist.*Did you mean 'rounds'"),
        (lambda: load_settings(model="mff"), "model=mff does not exist.*'mf'"),
        (lambda: load_settings(model=dict), "model=dict: a subclass of fedrec.models.base.Recommender"),
        (lambda: load_settings(model=3), r"model=3: a name, a class.*MyModel"),
        (lambda: load_settings(privacy=8), r"privacy=8: .*fedrec.UserLevel\(epsilon=8\)"),
        (lambda: load_settings(model=Rules), "model=Rules is neither trained.*say algorithm="),
        (lambda: load_settings("model.dimm=3", model=MyMF).experiment, "model.dimm does not exist.*'dim'"),
        (lambda: load_settings("model.dim=many", model=MyMF).experiment, "model.dim=many: expected a whole number"),
        (lambda: load_settings(user="a"), "user= names a column of a data frame, and none was given"),
        (lambda: load_settings(SMALL, SMALL), "2 data frames were given"),
        (lambda: load_settings(SMALL, user=3), "user=3: the name of a column"),
        (lambda: load_settings(7), "int: an override such as 'rounds=10', or one data frame"),
        (lambda: load_settings(seed=object()), "a number, a text, a list or null"),
        (lambda: load_dataset("syntetic"), "dataset=syntetic does not exist.*'synthetic'"),
    ],
)
def test_mistakes_name_what_would_be_right(call: Any, said: str) -> None:
    with pytest.raises(FedrecError, match=said):
        call()
