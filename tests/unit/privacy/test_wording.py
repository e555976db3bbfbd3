"""One wording of every guarantee: the sentence of each mechanism, and nobody else writes one."""

import ast
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit
from fedrec.privacy.wording import (
    GUESSES,
    NO_GUARANTEE,
    format_epsilon,
    format_guarantee,
    format_privacy,
    format_terms,
    widest_trust,
)
from tests.support.tiny import SMALL, small

FEDREC = Path(__file__).parents[3] / "fedrec"
ATTACKER = {"false_alarms": 0.01, "finds_at_most": 0.232157}
TOOK_PART = (
    "at 1 % false alarms an attacker who guesses whether somebody took part is right for at most 23 % of those who did"
)
SERVER = (
    "epsilon 8.00 (unit: one user; add-remove; delta 1e-05; trusts the server; against everyone who sees the released "
    f"models; covers the model after each round): {TOOK_PART}"
)
GOLDEN = {
    "none": "no privacy guarantee (epsilon is infinite)",
    "interaction": "epsilon 8.00 (unit: one interaction; add-remove; delta 1e-05; trusts the device only; against the "
    "server and everyone after it; covers every update of every round): at 1 % false alarms an attacker who guesses "
    "whether an interaction took place is right for at most 23 % of those that did",
    "user": SERVER,
    "user_adaptive": SERVER.replace("each round)", "each round and the clip of each round)"),
    "user_local": "epsilon 8.00 (unit: one user; replace-one; delta 1e-05; trusts the device only; against the server "
    "and everyone after it; covers every update of every round): at 1 % false alarms an attacker who guesses which of "
    "two histories somebody has is right for at most 23 % of those who have the one",
    "user_secure": "epsilon 8.00 (unit: one user; add-remove; delta 1e-05; trusts the server to follow the protocol, "
    "with enough honest devices, so that it sees sums alone; against the server and everyone after it, with the "
    f"devices that collude; covers the sum over the devices of each round): {TOOK_PART}",
    "gateway": "epsilon 8.00 (unit: one user; add-remove; delta 1e-05; trusts the gateway that the user belongs to; "
    "against the server and everyone after it, other gateways included; covers every update that a gateway sends): "
    f"{TOOK_PART}",
    "banded": SERVER,
}
# f-strings outside wording.py that print an epsilon on purpose: how often, and why it is no guarantee.
ALLOWED = {
    "privacy/card.py": (1, "the cross-check of the accountant, a field of the card"),
    "audit/auditor.py": (1, "what an adversary measured"),
    "device/consent/ledger.py": (1, "the part of the year's limit that is used, in percent"),
    "study/frontier.py": (1, "the budget that was asked for, as a row's name"),
    "study/mechanisms.py": (1, "the budget that was asked for, as a column"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_sentence_of_each_mechanism(name: str) -> None:
    mechanism = small("model=mf", "rounds=2", "cohort.size=10", base=[*SMALL, f"privacy={name}"])[0].mechanism
    assert mechanism.name == name
    assert format_guarantee(mechanism.terms, 8.0, 1e-5, ATTACKER) == GOLDEN[name]
    assert PrivacyGuarantee.from_json(mechanism.terms.json()) == mechanism.terms
    told = {**mechanism.terms.json(), "epsilon": 8.0, "delta": 1e-5, "attacker": ATTACKER}
    assert format_privacy(told) == GOLDEN[name]


def test_every_mechanism_has_a_golden_sentence() -> None:
    conf = FEDREC.parent / "conf" / "privacy"
    assert sorted(path.stem for path in conf.glob("*.yaml")) == sorted(GOLDEN)


USER = PrivacyGuarantee(Unit.USER, Relation.ADD_REMOVE, Trust.SERVER)


def test_what_is_not_known_is_left_out() -> None:
    assert format_guarantee(USER, 8.0, None) == "epsilon 8.00 (unit: one user; add-remove; trusts the server)"
    assert format_terms(USER, 3.16e-6) == "unit: one user; add-remove; delta 3.2e-06; trusts the server"
    assert format_guarantee(USER, 3.061, 1e-5, limit=10.0).startswith("epsilon 3.06 of at most 10 (unit: one user")


@pytest.mark.parametrize("epsilon", [None, math.inf])
def test_without_an_epsilon_there_is_no_guarantee(epsilon: float | None) -> None:
    assert format_guarantee(USER, epsilon, 1e-5, ATTACKER) == NO_GUARANTEE
    assert format_epsilon(epsilon) == "no privacy"


def test_a_small_epsilon_is_not_called_none() -> None:
    assert [format_epsilon(value) for value in (0.0, 0.004, 0.01, 7.999)] == [
        "epsilon 0.00",
        "epsilon below 0.01",
        "epsilon 0.01",
        "epsilon 8.00",
    ]


def test_what_stands_in_json_is_plain_words() -> None:
    assert format_privacy({"unit": "none", "epsilon": None}) == NO_GUARANTEE
    assert USER.json()["neighbouring"] == "add-remove" and PrivacyGuarantee.from_json({}).unit == Unit.NONE
    with pytest.raises(ValueError, match="moon"):
        PrivacyGuarantee.from_json({"trust": "moon"})


def test_what_an_attacker_guesses_is_said_for_every_unit_and_relation() -> None:
    units, relations = (Unit.USER, Unit.INTERACTION), (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
    assert set(GUESSES) == {(unit, relation) for unit in units for relation in relations}


def test_together_they_trust_whoever_sees_most() -> None:
    assert widest_trust(["device", "server", "gateway"]) == Trust.SERVER
    assert widest_trust(["device", "gateway"]) == Trust.GATEWAY and widest_trust(["device"]) == Trust.DEVICE


def test_a_device_says_it_without_torch_scipy_or_an_accountant() -> None:
    code = (
        "import sys, fedrec.privacy.wording; "
        "print(sorted({'torch', 'numpy', 'scipy', 'dp_accounting', 'opacus'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def told_epsilons(source: str) -> Iterator[str]:
    """Yield the f-strings that print an epsilon: the word right before a value, or a value of that name formatted."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before = str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            text = isinstance(part.value, ast.Constant)
            named = not text and "epsilon" in ast.unparse(part.value) and part.format_spec is not None
            setting = before.endswith("epsilon=")  # the name of a setting, to be typed
            if (named and not setting) or before.rstrip().endswith("epsilon"):
                yield ast.unparse(node)
            before = ""


def test_the_search_finds_a_bare_epsilon() -> None:
    found = ["f'epsilon {x:.2f}'", "f'{run.epsilon:.2f}'", "f'{v[\"epsilon\"]:g} of'"]
    assert all(list(told_epsilons(line)) for line in found)
    fine = ["f'privacy.epsilon={epsilon:g}: too much'", "f'{format_epsilon(epsilon)}'", "f'{rounds:.2f}'"]
    assert not any(list(told_epsilons(line)) for line in fine)


def test_nobody_else_writes_an_epsilon() -> None:
    counted = {
        path.relative_to(FEDREC).as_posix(): found
        for path in FEDREC.rglob("*.py")
        if path.name != "wording.py" and (found := list(told_epsilons(path.read_text())))
    }
    assert {name: len(found) for name, found in counted.items()} == {n: count for n, (count, _) in ALLOWED.items()}, (
        counted
    )
