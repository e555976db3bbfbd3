"""Every sentence that states an epsilon, and the words of the privacy card.

An epsilon means nothing without its unit, its neighbouring relation, who is trusted and its delta, and little to most
people without what an attacker gains. `format_guarantee` writes all of that, wherever an epsilon is shown; beside it,
where space is short (a live line, a label), `format_epsilon` writes the number alone.

Devices without torch, scipy and dp-accounting use this file too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from fedrec.privacy.guarantee import PrivacyGuarantee, Relation, Trust, Unit

FALSE_ALARMS = 0.01  # the rate at which an attacker's gain is told
NO_PRIVACY = {"unit": "none", "neighbouring": "none", "trust": "none", "epsilon": None, "delta": None}
NAMED = 3  # runs that are named where there may be many
NO_GUARANTEE = "no privacy guarantee (epsilon is infinite)"

TITLES = {
    "trust": "Model of trust",
    "unit": "Unit of privacy",
    "neighbouring": "Neighbouring relation",
    "released": "What is released",
    "noise": "Clip and noise",
    "sampling": "Sampling",
    "accounting": "Accounting",
    "composition": "Composition",
    "not_protected": "What is not protected",
    "choices": "Choices that depend on data and were made without privacy",
    "evidence": "Audit and code",
}
TRUST: dict[str, str] = {
    Trust.DEVICE: "the device only",
    Trust.SUMS: "the server to follow the protocol, with enough honest devices, so that it sees sums alone",
    Trust.GATEWAY: "the gateway that the user belongs to",
    Trust.SERVER: "the server",
    Trust.NONE: "everybody",
}
# What a part of a card's field is called; one that is not here, as its key.
PARTS = {
    "trusted": "who is trusted",
    "among_strangers": "epsilon where the server invents all the other devices",
    "raw_updates": "who sees updates without noise",
    "adversary": "against whom",
    "unit": "hidden is",
    "enforced": "how it is bounded",
    "relation": "relation",
    "meaning": "which two worlds",
    "epsilon_under_either": "epsilon under either relation",
    "release_set": "what epsilon covers",
    "beside_it": "and beside it",
    "clip": "clip (largest norm)",
    "noise_multiplier": "noise over clip",
    "grid": "grid of what is released",
    "added": "where noise is added",
    "generator": "drawn by",
    "rate": "share drawn each round",
    "assumed_and_done": "assumed and done",
    "epsilon_with_it": "epsilon with it",
    "epsilon_without_it": "epsilon without it",
    "rho_without_sampling": "rho (zCDP) without sampling",
    "mu": "mu (Gaussian DP)",
    "curve": "right for at most, at false alarms of",
    "delta_rule": "delta is",
    "parts_of_the_budget": "each round's part of the budget",
    "attacker_finds_at_most": "an attacker is right for at most",
    "at_false_alarms": "at false alarms",
    "participations": "rounds that one device may take part in",
    "all_runs_on_these_users": "all runs on these users, when this one ended",
    "not_included": "not included",
    "started_from": "what the model started from",
    "model": "the released model",
}
SHARES = ("attacker_finds_at_most", "at_false_alarms", "curve")  # parts that are written in %
# What a round costs that is charged and releases nothing, by who is trusted, and why.
LOST: dict[str, str] = {
    Trust.DEVICE: "each invited device has spent one participation: what it sent, noised, may have been seen",
    Trust.SUMS: "each invited device has spent one participation: what it sent, masked and noised, is charged as if it "
    "had been summed",
    Trust.GATEWAY: "each invited user has spent one participation: its gateway's noised sum may have been seen",
    Trust.SERVER: "it is charged in full, though nothing was released: it was booked before anybody was asked",
    Trust.NONE: "it costs no privacy: this run promises none",
}
LOST_TURN = "the devices whose turn it was wait for their next one, and the noise starts afresh"
UNIT: dict[str, str] = {Unit.USER: "one user", Unit.INTERACTION: "one interaction", Unit.NONE: "none"}
# What an attacker guesses, and of whom it then is right for some: two worlds that the relation compares.
GUESSES = {
    (Unit.USER, Relation.ADD_REMOVE): ("whether somebody took part", "those who did"),
    (Unit.USER, Relation.REPLACE_ONE): ("which of two histories somebody has", "those who have the one"),
    (Unit.INTERACTION, Relation.ADD_REMOVE): ("whether an interaction took place", "those that did"),
    (Unit.INTERACTION, Relation.REPLACE_ONE): ("which of two interactions took place", "those where it was the one"),
}
RAW: dict[str, str] = {
    Trust.DEVICE: "nobody: an update is noised before it leaves its device",
    Trust.SUMS: "nobody: what leaves a device is masked, and the server learns the sum over a round's devices",
    Trust.GATEWAY: "the gateway; the server sees sums that the gateway has noised",
    Trust.SERVER: "the server, which clips again what it is sent and adds the noise",
    Trust.NONE: "everybody",
}
ADDED: dict[str, str] = {
    Trust.DEVICE: "on each device, before anything leaves it",
    Trust.SUMS: "on each device, a share of it; a sum that may be released has all of it, without what colluding "
    "devices added",
    Trust.GATEWAY: "at the gateway, before anything leaves it",
    Trust.SERVER: "at the server, on the sum of a round",
    Trust.NONE: "nowhere",
}
ENFORCED: dict[str, str] = {
    Unit.INTERACTION: "a positive and its negatives are one example, drawn, clipped and noised together on the device; "
    "a statistic's noise is set by the most that one interaction can change in it",
    Unit.USER: "the whole update of a user is clipped, over all of its arrays, with weight 1; a device is one user",
    Trust.GATEWAY: "a user's whole batch is one example: its gradient is clipped at the gateway, over all parameters; "
    "a statistic is clipped for each user",
    Unit.NONE: "nothing is bounded",
}
MEANING: dict[str, str] = {
    Relation.ADD_REMOVE: "one unit's contribution is there, or nothing is in its place; the sizes are public constants",
    Relation.REPLACE_ONE: "one unit's contribution is exchanged for any other one",
    Relation.NONE: "none",
}
SAMPLING: dict[str, str] = {
    Trust.DEVICE: "drawing the cohort makes epsilon no smaller, for the server knows it; a device samples its data",
    Trust.SUMS: "drawing the cohort makes epsilon no smaller: not against the server, which knows it, nor against who "
    "sees the models, whose noise tells how many devices came",
    Trust.GATEWAY: "drawing the cohort makes epsilon no smaller, for the server knows it",
    Trust.SERVER: "Poisson: each device is drawn independently in each round. Assumed: who was drawn, and how many "
    "came, stays with the server; nobody outside can check it",
    Trust.NONE: "no claim rests on it",
}
SECURE = "the operating system's, asked anew for each draw; no seed can repeat it, and nothing of it is kept"
FLOATING = "none: releases are floating point, and what their rounding tells is not accounted for"
UNACCOUNTED = "tuning, evaluation and the choice of this run among others, unless they are charged here"
NOT_PROTECTED = (
    "who is enrolled",
    "the catalogue of items",
    "how much is sent and when",
    "which rounds were aborted and who was available",
    "what lies on the device itself",
)


AUTHORS = "the claim is its author's, not checked by fedrec"


def format_guarantee(
    guarantee: PrivacyGuarantee,
    epsilon: float | None,
    delta: float | None,
    attacker: Mapping[str, Any] | None = None,
    limit: float | None = None,
    claim: str = "",
) -> str:
    """Write an epsilon with all that it means nothing without, as a clause without a full stop.

    `attacker` holds `finds_at_most`, the largest true-positive rate of any attacker, at `false_alarms`; `limit` is what
    epsilon may come to; `claim` says whose word it is where it is not fedrec's (`authors_claim`). An epsilon that is
    None or infinite guarantees nothing.

    >>> user_level = PrivacyGuarantee(Unit.USER, Relation.ADD_REMOVE, Trust.SERVER)
    >>> format_guarantee(user_level, 8.0, 1e-5)
    'epsilon 8.00 (unit: one user; add-remove; delta 1e-05; trusts the server)'
    """
    if not guarantee.protects or epsilon is None or math.isinf(epsilon):
        return NO_GUARANTEE
    of = "" if limit is None else f" of at most {limit:g}"
    gain = "" if attacker is None else f": {format_attacker(guarantee, attacker)}"
    told = f"{format_epsilon(epsilon)}{of} ({format_terms(guarantee, delta)}){gain}"
    return f"{told}; {claim}" if claim else told


def format_either(epsilons: Mapping[str, float]) -> str:
    """Write epsilon under either relation, beside a whole guarantee."""
    return f"epsilon is {format_part('epsilon', dict(epsilons))}"


def format_delta(by_hand: bool) -> str:
    """Write what delta is, and how it was chosen."""
    rule = "set by hand" if by_hand else "min(1e-5, N^-1.1) for N privacy units"
    return f"about the chance that epsilon does not hold; {rule}, and always below one in N"


def format_rounds(rounds: int, shares: Sequence[float] | None) -> str:
    """Write which part of the budget each round has.

    >>> format_rounds(2, (0.8, 0.2))
    '80 %, 20 % (of mu squared)'
    """
    if rounds == 1:
        return "all of it"
    if shares is None:
        return f"equal: one of {rounds}"
    return f"{', '.join(f'{100 * share:.3g} %' for share in shares)} (of mu squared)"


def format_not_covered() -> str:
    """Write what no epsilon covers."""
    return f"{', '.join(NOT_PROTECTED)}; {UNACCOUNTED}"


def format_total(
    guarantee: PrivacyGuarantee, epsilon: float, delta: float, unprotected: Sequence[str], claim: str = ""
) -> str:
    """Write what all runs on the same people come to; `unprotected` names those that nothing bounds.

    >>> user_level = PrivacyGuarantee(Unit.USER, Relation.ADD_REMOVE, Trust.SERVER)
    >>> format_total(user_level, math.inf, 1e-5, ["first"])
    'epsilon is infinite: first protected nobody'
    """
    if unprotected:
        more = f" and {len(unprotected) - NAMED} more" if len(unprotected) > NAMED else ""
        return f"epsilon is infinite: {', '.join(unprotected[:NAMED])}{more} protected nobody"
    return format_guarantee(guarantee, epsilon, delta, claim=claim)


def authors_claim(mechanism: object) -> str:
    """Return what stands beside the guarantee of a mechanism that is not fedrec's own; nothing for one that is."""
    return "" if type(mechanism).__module__.startswith("fedrec.") else AUTHORS


def format_privacy(privacy: Mapping[str, Any]) -> str:
    """Write the guarantee of a run from the "privacy" part of its metrics.json or of its card."""
    guarantee, claim = PrivacyGuarantee.from_json(privacy), privacy.get("claim", "")
    epsilon, delta, attacker = (privacy.get(key) for key in ("epsilon", "delta", "attacker"))
    return format_guarantee(guarantee, epsilon, delta, attacker, claim=claim)


def format_terms(guarantee: PrivacyGuarantee, delta: float | None) -> str:
    """Write what stands behind an epsilon: unit, relation, delta, trust, against whom it protects and what it covers.

    The last two are left out where they are not known.
    """
    against = guarantee.adversary.partition(";")[0]
    parts = [
        f"unit: {UNIT[guarantee.unit]}",
        str(guarantee.relation),
        "" if delta is None else f"delta {delta:.2g}",
        f"trusts {TRUST[guarantee.trust]}",
        f"against {against}" if against else "",
        f"covers {guarantee.release_set}" if guarantee.release_set else "",
    ]
    return "; ".join(part for part in parts if part)


def format_attacker(guarantee: PrivacyGuarantee, attacker: Mapping[str, Any]) -> str:
    """Write what an attacker gains at most from all that a guarantee covers."""
    guess, right = GUESSES[guarantee.unit, guarantee.relation]
    return (
        f"at {100 * attacker['false_alarms']:.0f} % false alarms an attacker who guesses {guess} is right for at most "
        f"{100 * attacker['finds_at_most']:.0f} % of {right}"
    )


def format_epsilon(epsilon: float | None) -> str:
    """Write an epsilon alone: for live lines and labels that stand beside a whole guarantee."""
    if epsilon is None or math.isinf(epsilon):
        return "no privacy"
    return "epsilon below 0.01" if 0 < epsilon < 0.01 else f"epsilon {epsilon:.2f}"


WIDTH = (Trust.DEVICE, Trust.SUMS, Trust.GATEWAY, Trust.SERVER, Trust.NONE)  # who sees least comes first


def widest_trust(trusts: Iterable[str]) -> Trust:
    """Return whom several guarantees trust together: the one of them that sees most."""
    return max(
        (Trust(trust) for trust in trusts),
        key=WIDTH.index,
    )


def format_part(name: str, value: Any) -> str:
    """Write a part of a card's field, with the digits that mean something."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_part(name, part)}" for key, part in cast(dict[str, Any], value).items())
    if isinstance(value, list):
        return "; ".join(map(str, cast(list[Any], value)))
    if not isinstance(value, float):
        return str(value)
    if name in SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if name.startswith("epsilon") else f"{value:.2g}" if name == "delta" else f"{value:.3g}"


def format_lost_round(mechanism: Any, before: float, after: float) -> str:
    """Return what a round cost that released nothing, and what the run has spent by now."""
    if not mechanism.private:
        return LOST[Trust.NONE]
    turn = f"; {LOST_TURN}" if mechanism.skips_lost_rounds else ""
    risen = f"epsilon rose by {after - before:.3g}, {format_epsilon(after)} by now"
    return f"{LOST[mechanism.terms.trust]}{turn}; {risen}"
