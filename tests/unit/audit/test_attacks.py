"""The attacks: they succeed where nothing is promised, and stay within what the accounted curve allows elsewhere."""

import json

import numpy as np
import pytest

from fedrec.audit.attacks import attacks, by_item, items_guessed, success
from fedrec.cli.main import main
from fedrec.errors import RefusedError
from fedrec.experiment.settings import load
from fedrec.privacy.guarantee import Relation, Unit

DATA = ["dataset=synthetic", "dataset.users=90", "dataset.items=80", "dataset.interactions=1500", "rounds=2"]
ONE_GAUSSIAN = frozenset({(1.0, 1.0, 1)})


def test_without_privacy_a_devices_items_are_an_open_book() -> None:
    items, membership = attacks(load([*DATA, "privacy=none"]).experiment)
    assert items.auc > 0.95 and items.tpr > 0.9 and items.largest_auc is None
    assert membership.largest_auc is None and 0 <= membership.auc <= 1


@pytest.mark.parametrize("privacy", ["interaction", "user", "gateway"])
def test_a_mechanism_keeps_the_attack_within_its_curve(privacy: str) -> None:
    items, membership = attacks(load([*DATA, f"privacy={privacy}"]).experiment)
    assert items.largest_auc is not None and items.largest_tpr is not None
    assert items.auc <= items.largest_auc and items.tpr <= items.largest_tpr + 0.02
    # An interaction level promises nothing of a whole user.
    assert (membership.largest_auc is None) == (privacy == "interaction")
    if privacy == "user":
        assert items.auc == pytest.approx(0.5)  # all devices are one model to whoever sees that alone


@pytest.mark.parametrize("gateways", [5, 45])
def test_what_a_gateway_sends_tells_little_of_its_users(gateways: int) -> None:
    """Households of 18 and of 2: every gateway is heard by itself, as by the server."""
    items, _ = attacks(load([*DATA, "privacy=gateway"]).experiment, gateways)
    assert items.largest_auc is not None and items.largest_tpr is not None
    assert 0.3 < items.auc <= items.largest_auc and items.auc != 0.5 and items.tpr <= items.largest_tpr + 0.02


def test_a_gateway_without_noise_gives_its_users_away() -> None:
    """The same attack on households of two finds what they used where next to no noise hides it."""
    loose = ["privacy=gateway", "privacy.epsilon=1000", "privacy.clip=0.1"]
    items, _ = attacks(load([*DATA, *loose]).experiment, 45)
    assert items.auc > 0.8


def test_popularity_alone_guesses_nothing() -> None:
    """Everybody's row is the same and full of popular items: within each item there is nothing to tell."""
    rng = np.random.default_rng(0)
    popularity = rng.random(40)
    members = rng.random((50, 40)) < popularity
    found = success(
        "items", *items_guessed(popularity[None] * 100, members), ONE_GAUSSIAN, Relation.ADD_REMOVE, Unit.NONE
    )
    assert found.auc == pytest.approx(0.5) and found.tpr == 0
    sure = success("items", *items_guessed(members + popularity, members), ONE_GAUSSIAN, Relation.ADD_REMOVE, Unit.NONE)
    assert sure.auc == sure.tpr == 1


def test_measures_by_hand() -> None:
    found = success(
        "items", np.arange(100.0), np.array([50.5, 200.0]), ONE_GAUSSIAN, Relation.ADD_REMOVE, Unit.INTERACTION
    )
    assert found.auc == pytest.approx((51 + 100) / 200) and found.tpr == 0.5
    assert found.largest_tpr == pytest.approx(0.092, abs=1e-3) and found.largest_auc == pytest.approx(0.76, abs=5e-3)


def test_a_model_without_one_number_an_item_is_refused() -> None:
    with pytest.raises(RefusedError, match="one number an item"):
        by_item({"item.weight": np.zeros((5, 3))}, 5)


def test_the_command_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--json"]):
        main(["audit", "--attacks", *DATA, "model=popularity", "privacy=none", *extra])
    text, _, values = capsys.readouterr().out.partition("[")
    assert "membership" in text and json.loads("[" + values)[0]["attack"] == "items"
