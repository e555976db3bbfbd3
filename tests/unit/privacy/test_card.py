"""The privacy card: eleven fields or no claim, and what it says is what the ledger holds."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian, get_sigma_gaussian

from fedrec.cli.main import main
from fedrec.privacy.accounting.composition import compute_epsilon
from fedrec.privacy.card import Facts, build_card, checked, format_grid, gaussian_or_curve, missing
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.mechanisms.gateway import GatewayLevel
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.privacy.mechanisms.none import NoPrivacy
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.mechanisms.user import UserLevel
from fedrec.privacy.wording import TITLES
from fedrec.report.privacy_card import render_card
from tests.support.tiny import SMALL, small

PLAN = TrainingPlan(population=40, interactions=400, cohort_rate=0.5, rounds=4, trains=True)
CONF = Path(__file__).parents[3] / "conf" / "privacy"
FACTS = Facts(released="nothing else", choices=("settings by hand",), audit="none of this run", code="fedrec 0")
NOTHING = {"unit": "none", "neighbouring": "none", "trust": "none", "epsilon": None, "delta": None}


def user(**settings: Any) -> Mechanism:
    return UserLevel(epsilon=2.0, **settings).calibrated(PLAN, math.inf)


def played(mechanism: Mechanism) -> Ledger:
    ledger = Ledger.open("people", type(mechanism).__name__, mechanism, PLAN, PLAN.population)
    for number in (1, 2):
        ledger.reserve(number)
        ledger.commit(number, np.array([1, 3]))
    return ledger


@pytest.fixture
def made() -> dict[str, Any]:
    mechanism = user()
    return build_card(mechanism, PLAN, played(mechanism), FACTS)


def test_it_says_on_which_grid_releases_lie_or_that_there_is_none() -> None:
    mechanism = user(clip=0.5)
    said = format_grid(mechanism, {"w": (300, 400)})
    assert "whole multiples of 6.104e-05, which is clip / 2^13, for 120,000 numbers" in said
    told = build_card(mechanism, PLAN, played(mechanism), replace(FACTS, grid=said))
    assert told["fields"]["noise"]["grid"] == said
    said = format_grid(InteractionLevel(clip=0.5, noise_multiplier=1.0), {"w": (3,)})
    for words in ("every local step", "0.0004883, which is clip / 2^10", "1.907e-06, clip / 2^18", "noised sums alone"):
        assert words in said
    assert "clip / 2^12" in format_grid(GatewayLevel(noise_multiplier=1.0), {"w": (3,)})
    assert format_grid(NoPrivacy(), {"w": (3,)}).startswith("none: releases are floating point")


def test_it_claims_with_all_eleven_fields(made: dict[str, Any]) -> None:
    assert list(made["fields"]) == list(TITLES) and len(TITLES) == 11 and made["missing"] == []
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    ledger = Ledger.open("people", "UserLevel", user(), PLAN, PLAN.population)
    assert made["privacy"] == {
        "unit": "user",
        "neighbouring": "add-remove",
        "trust": "server",
        "epsilon": ledger.epsilon(),
        "delta": 1e-5,
        **ledger.interpretation(),
    }
    assert all(word in made["claim"] for word in ("user", "add-remove", "delta 1e-05", "the server"))
    assert made["ledger"]["head"] == ledger.head and made["ledger"]["population"] == "people"


def test_it_says_what_sampling_is_worth(made: dict[str, Any]) -> None:
    told = made["fields"]["sampling"]
    z = made["mechanism"]["noise_multiplier"]
    assert told["epsilon_with_it"] == made["privacy"]["epsilon"]
    assert told["epsilon_without_it"] == compute_epsilon(frozenset({(z, 1.0, 2)}), 1e-5) > told["epsilon_with_it"]
    assert made["fields"]["accounting"]["rho_without_sampling"] == pytest.approx(2 / (2 * z**2))
    upper = float(made["fields"]["accounting"]["cross_check"].split(": ")[1])
    assert made["privacy"]["epsilon"] <= upper < 1.3 * made["privacy"]["epsilon"]


def gaussian_epsilon(mu: float, delta: float) -> float:
    return float(get_epsilon_gaussian(1 / mu, delta))


DELTAS = [10.0**-power for power in range(2, 13)]


def test_mu_is_a_bound_where_it_is_printed_and_a_curve_stands_elsewhere(made: dict[str, Any]) -> None:
    """What is sampled is no Gaussian mechanism: the mu that fits at one delta is passed at others."""
    z = made["mechanism"]["noise_multiplier"]
    sampled = frozenset({(z, 0.5, 2)})
    assert "mu" not in made["fields"]["accounting"]
    curve = made["fields"]["accounting"]["curve"]
    assert list(curve) == ["0.01 %", "0.1 %", "1 %", "10 %"] and list(curve.values()) == sorted(curve.values())
    assert curve["1 %"] == made["privacy"]["attacker"]["finds_at_most"]
    fitted = 1 / float(get_sigma_gaussian(made["privacy"]["epsilon"], 1e-5))
    assert any(compute_epsilon(sampled, delta) > gaussian_epsilon(fitted, delta) + 1e-3 for delta in DELTAS)
    whole = frozenset({(3.0, 1.0, 4), (5.0, 1.0, 2)})
    mu = gaussian_or_curve(whole)["mu"]
    assert mu == pytest.approx(math.sqrt(4 / 9 + 2 / 25))
    for delta in DELTAS:
        assert compute_epsilon(whole, delta) == pytest.approx(gaussian_epsilon(mu, delta), abs=2e-3)


def test_uneven_rounds_delta_and_sampling_have_their_lines() -> None:
    plan = replace(PLAN, rounds=2, shares=(0.8, 0.2), trains=False, cohort_rate=1.0)
    mechanism = UserLevel(epsilon=2.0).calibrated(plan, 1.0)
    ledger = Ledger.open("people", "uneven", mechanism, plan, plan.population)
    ledger.reserve(1)
    ledger.commit(1, np.array([1]))
    made = build_card(mechanism, plan, ledger, FACTS)
    assert made["fields"]["composition"]["parts_of_the_budget"] == "80 %, 20 % (of mu squared)"
    text = render_card(made, "one")
    assert "- each round's part of the budget: 80 %, 20 % (of mu squared)" in text
    assert "- delta is: about the chance that epsilon does not hold; min(1e-5, N^-1.1) for N privacy units" in text
    assert "Assumed: who was drawn, and how many came, stays with the server" in text
    assert made["fields"]["trust"]["trusted"] == "the server" and "trusts the server" in made["claim"]


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(node, dict):
        return [leaf for key, part in node.items() for leaf in leaves(part, (*path, key))]
    return [path]


def without(made: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(made)
    node = changed["fields"]
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return changed


@pytest.mark.parametrize("field", TITLES)
@pytest.mark.parametrize("value", [..., None, "", {}, []])
def test_one_missing_field_and_it_claims_nothing(made: dict[str, Any], field: str, value: Any) -> None:
    assert checked(made) == made
    lacking = checked(without(made, (field,), value))
    assert lacking["claim"] == "no DP claim" and lacking["privacy"] == NOTHING and lacking["missing"] == [field]
    text = render_card(lacking, "one")
    assert "**no DP claim**" in text and f"nothing is claimed: {field}" in text and made["claim"] not in text


def test_one_missing_part_of_any_field_and_it_claims_nothing(made: dict[str, Any]) -> None:
    paths = leaves(made["fields"])
    assert len(paths) > 25
    for path in paths:
        for value in (None, "", math.nan):
            lacking = checked(without(made, path, value))
            assert lacking["claim"] == "no DP claim" and lacking["missing"] == [".".join(path)]


@pytest.mark.parametrize("fact", Facts.__dataclass_fields__)
def test_what_the_run_does_not_say_is_missing_too(fact: str) -> None:
    mechanism = user()
    made = build_card(mechanism, PLAN, played(mechanism), replace(FACTS, **{fact: ()}))
    assert made["claim"] == "no DP claim" and len(made["missing"]) == 1


@pytest.mark.parametrize(
    "mechanism", [NoPrivacy(), user(randomness="seeded"), InteractionLevel(randomness="seeded", noise_multiplier=9.0)]
)
def test_without_a_guarantee_it_claims_nothing(mechanism: Mechanism) -> None:
    made = build_card(mechanism, PLAN, played(mechanism), FACTS)
    assert made["claim"] == "no DP claim" and made["privacy"] == NOTHING and made["missing"] == list(TITLES)
    assert "nothing bounds what its results tell of a person" in render_card(made, "one")


def test_the_page_has_a_heading_for_each_field(made: dict[str, Any]) -> None:
    lines = render_card(made, "one").splitlines()
    assert lines[0] == "# Privacy card of one" and lines[2] == f"**{made['claim']}**"
    assert [line[3:] for line in lines if line.startswith("## ")] == [*TITLES.values(), "Ledger"]
    assert "- rounds: 2 committed, 0 lost, 0 reserved" in lines


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "conf" / "privacy").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_mechanism_fills_its_card(path: Path) -> None:
    experiment, dataset = small("model=mf", "rounds=2", "cohort.size=10", base=[*SMALL, f"privacy={path.stem}"])
    mechanism, plan = experiment.mechanism, experiment.plan(dataset)
    ledger = Ledger.open("people", path.stem, mechanism, plan, plan.population)
    ledger.reserve(1)
    ledger.commit(1, np.array([], np.int64))
    if path.stem in ("interaction", "user_local", "user_secure", "gateway"):
        ledger.reserve(2)  # a pending round is charged to all: an epsilon above 0
    made = build_card(mechanism, plan, ledger, FACTS)
    assert missing(made["fields"]) == ([] if mechanism.private else list(TITLES))
    assert (made["claim"] == "no DP claim") is not mechanism.private


# What a user sees.

GAIN = "at 1 % false alarms an attacker who guesses whether somebody took part is right for at most"
RUN = [*SMALL, "model=mf", "model.dim=2", "privacy=user", "rounds=3", "evaluation.baselines=[]"]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == status
    else:
        main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    return found.out + found.err


def test_projected_run_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is projected before a run is what its ledger and its card say after it, in text and in JSON."""
    before = json.loads(said(capsys, "privacy", "project", *RUN, "--json"))
    assert before["population_before"] == 0 and before["affordable"] and list(before["rounds"])[-1] == "3"
    assert "no ledger here" in said(capsys, "privacy", "ledger")
    main(["simulate", *RUN, f"output={tmp_path}", "name=one"])
    told = capsys.readouterr()
    before_it = (
        "all runs on these users: epsilon 0.00 so far, epsilon 8.00 with this one "
        "(no limit; unit: user; add-remove; delta 1e-05)"
    )
    assert f"run, 3 rounds; {before_it}" in told.err and "epsilon 8.00 (unit" not in told.err
    assert (told.out + told.err).count(GAIN) == 1  # the guarantee is said once, with the result

    (listed,) = json.loads(said(capsys, "privacy", "ledger", "--json"))
    assert listed["wrong"] is None and listed["runs"][0]["rounds"] == 3
    assert listed["totals"][0]["epsilon"] == pytest.approx(before["rounds"]["3"], rel=1e-3)
    told = said(capsys, "privacy", "ledger")
    assert "one private run: epsilon 8.00 (unit: one user; add-remove" in told and told.count(GAIN) == 2
    told = said(capsys, "privacy", "project", *RUN)
    for line in (
        "each round's part of the budget: equal: one of 3",
        "sampling: Poisson",
        "delta: about",
        "not covered: ",
    ):
        assert f"  {line}" in told
    assert told.count(GAIN) == 1 and told.count("attacker at most") == len(before["rounds"])
    again = json.loads(said(capsys, "privacy", "project", *RUN, "privacy.population_epsilon=9", "--json"))
    assert again["population_before"] == pytest.approx(8.0, rel=2e-3) and not again["affordable"]
    assert "would be refused before its end" in said(capsys, "privacy", "project", *RUN, "privacy.population_epsilon=9")

    main(["simulate", *RUN, "privacy=none", "evaluation.baselines=[]", f"output={tmp_path}", "name=open"])
    main(["simulate", *RUN, f"output={tmp_path}", "name=later", "evaluation.baselines=[]"])
    assert "all runs on these users: epsilon is infinite: open-" in capsys.readouterr().err
    later = json.loads((tmp_path / "later" / "privacy_card.json").read_text())
    assert later["privacy"]["epsilon"] == pytest.approx(8.0, rel=2e-3) and not later["missing"]
    said_of_all = later["fields"]["composition"]["all_runs_on_these_users"]
    assert said_of_all.startswith("epsilon is infinite: open-") and said_of_all.endswith(" protected nobody")
    (listed,) = json.loads(said(capsys, "privacy", "ledger", "--json"))
    assert listed["together"]["epsilon"] is None and len(listed["together"]["unprotected"]) == 1
    assert "all runs together: epsilon is infinite" in said(capsys, "privacy", "ledger")

    made = json.loads(said(capsys, "privacy", "card", tmp_path / "one", "--json"))
    assert made["verified"] and made["privacy"]["epsilon"] == pytest.approx(before["rounds"]["3"], rel=1e-3)
    text = said(capsys, "privacy", "card", tmp_path / "one")
    assert text.startswith((tmp_path / "one" / "privacy_card.md").read_text()) and "verified: the ledger here" in text

    path = tmp_path / "one" / "privacy_card.json"
    edited = json.loads(path.read_text())
    edited["ledger"]["rows"][0]["hash"] = "ab" * 32
    path.write_text(json.dumps(edited))
    assert "the card does not fit the ledger" in said(capsys, "privacy", "card", tmp_path / "one", status=2)
    del edited["fields"]["noise"]
    edited["ledger"]["rows"] = []
    path.write_text(json.dumps(edited))
    assert "**no DP claim**" in said(capsys, "privacy", "card", tmp_path / "one")
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "elsewhere"))
    assert "its ledger is not on this machine" in said(capsys, "privacy", "card", tmp_path / "one")


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played(user())
    assert "privacy_card.json does not exist" in said(capsys, "privacy", "card", tmp_path, status=2)
    (tmp_path / "privacy_card.json").write_text("[]")
    assert "is no privacy card" in said(capsys, "privacy", "card", tmp_path, status=2)
    assert "Did you mean 'people'" in said(capsys, "privacy", "ledger", "peopel", status=2)
    assert "there is no epsilon to project" in said(capsys, "privacy", "project", *SMALL, "privacy=none", status=2)
    assert "does not exist" in said(capsys, "privacy", "device", tmp_path / "ledger.sqlite", status=2)
    assert "no such command" in said(capsys, "privacy", "forget", status=2)


def test_a_ledger_that_was_tampered_with_is_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    from fedrec.paths import ledger_path

    played(user()).close()
    ledger_path("people").unlink()
    ledger_path("people").write_bytes(b"")
    assert "people: the ledger" in (text := said(capsys, "privacy", "ledger", status=1)) and "rolled back" in text


def test_what_a_device_took_part_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedrec.device.consent.consent import Consent, ConsentPolicy, DeclinedError

    policy = ConsentPolicy(trust=("device", "server"), largest_share_per_request=1.0)
    consent = Consent(policy, tmp_path / "ledger.sqlite")
    document = small("model=mf", "rounds=2", base=[*SMALL, "privacy=user"])[0].document
    header = {"run": "a", "experiment": document}
    consent.charge({**header, "round": 1})
    with pytest.raises(DeclinedError):
        consent.charge({**header, "round": 1})
    text = said(capsys, "privacy", "device", tmp_path / "ledger.sqlite")
    assert " % of this year's limit used, in 1 round: epsilon" in text
    assert "of at most 10 (unit: one user; add-remove; delta 1e-05; trusts the server)" in text
    assert "as far as those who promised to add noise did" in text
    assert "declined round 1: this device has taken part in round 1" in text
    found = json.loads(said(capsys, "privacy", "device", tmp_path / "ledger.sqlite", "--json"))
    assert found["spent"][0]["rounds"] == 1 and len(found["declined"]) == 1
