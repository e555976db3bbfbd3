"""The privacy card of a run: what stands beside its epsilon.

The card has eleven fields. Where one of them is missing, whatever else it says, it claims nothing.

`fedrec.report.privacy_card` makes a page of it.
"""

import dataclasses
import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from fedrec.errors import RefusedError
from fedrec.paths import ledger_path
from fedrec.privacy.accounting.composition import ACCOUNTANT, Composition, compute_epsilon
from fedrec.privacy.accounting.interpretation import interpret, trade_off
from fedrec.privacy.accounting.rdp import epsilon_bound
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.ledger.ledger import Ledger
from fedrec.privacy.ledger.projection import projected
from fedrec.privacy.ledger.store import LedgerStore
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism, Shapes, TrainingPlan
from fedrec.privacy.wording import (
    ADDED,
    ENFORCED,
    FLOATING,
    MEANING,
    NO_PRIVACY,
    NOT_PROTECTED,
    RAW,
    SAMPLING,
    SECURE,
    TITLES,
    TRUST,
    UNACCOUNTED,
    authors_claim,
    format_delta,
    format_guarantee,
    format_rounds,
)

NO_CLAIM = "no DP claim"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says that no mechanism knows.

    `released` is what else left the run beside the release set, `choices` what was decided by looking at the data
    without charging it, `audit` the result of an audit or that there was none and `audit_verdict` its verdict, `code`
    the version that ran, `grid` on which numbers releases lie (`format_grid`), `model` the hash of
    the released model, `inputs` what it started from that was trained elsewhere (`fedrec.experiment.inputs`).
    """

    released: str
    choices: tuple[str, ...]
    audit: str
    code: str
    audit_verdict: str = "none"
    model: str = "not told"
    inputs: tuple[str, ...] = ("none that was trained on people",)
    grid: str = "not told"


def build_card(mechanism: Mechanism, plan: TrainingPlan, ledger: Ledger, facts: Facts) -> dict[str, Any]:
    """Return the privacy card of a run as JSON: the claim, its numbers, the eleven fields, and the ledger's rows.

    Numbers without a guarantee are null and the unit is then "none".
    """
    account, epsilon = ledger.account, ledger.epsilon()
    claim = account.private and math.isfinite(epsilon)
    beside = ledger.interpretation() if claim else {}
    privacy = {
        "unit": account.unit,
        "neighbouring": account.neighbouring,
        "trust": account.trust,
        "epsilon": epsilon,
        "delta": account.delta,
        **beside,
    }
    author = authors_claim(mechanism)
    said = format_guarantee(mechanism.terms, epsilon, account.delta, beside.get("attacker"), claim=author)
    made = {
        "claim": said if claim else NO_CLAIM,
        "privacy": privacy if claim else NO_PRIVACY,
        "fields": fields(mechanism, plan, ledger, facts) if claim else {},
        "mechanism": {"name": mechanism.name, **_public(mechanism), **({"claim": author} if author else {})},
        "ledger": {"population": ledger.population, "head": ledger.head, "rows": ledger.rows()},
    }
    return checked(made)


def checked(made: dict[str, Any]) -> dict[str, Any]:
    """Return the card; one that lacks a field, or a part of one, claims nothing and says what is missing."""
    lacking = missing(made["fields"])
    if not lacking:
        return {**made, "missing": []}
    return {**made, "claim": NO_CLAIM, "privacy": NO_PRIVACY, "missing": lacking}


def missing(found: dict[str, Any]) -> list[str]:
    """Return the names of the fields, and of their parts, that say nothing; so does evidence that contradicts."""
    absent = [name for name in TITLES if name not in found]
    empty = [path for name, value in found.items() for path in _empty(name, value)]
    against = isinstance(found.get("evidence"), dict) and found["evidence"].get("audit_verdict") == "contradicted"
    return [*absent, *empty, *(["evidence.audit_verdict"] if against else [])]


def _empty(path: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        parts = cast(dict[str, Any], value)
        return [inner for name, part in parts.items() for inner in _empty(f"{path}.{name}", part)]
    nothing = value is None or value in ("", [], {}, ()) or (isinstance(value, float) and not math.isfinite(value))
    return [path] if nothing else []


def fields(mechanism: Mechanism, plan: TrainingPlan, ledger: Ledger, facts: Facts) -> dict[str, Any]:
    """Return the eleven fields (docs/privacy/card.md) of a run with a guarantee."""
    terms, account, told = mechanism.terms, ledger.account, ledger.interpretation()
    attacker = told["attacker"]
    return {
        "trust": {
            "trusted": TRUST[terms.trust],
            "raw_updates": RAW[terms.trust],
            "adversary": terms.adversary,
            **_if_trust_fails(mechanism, plan),
        },
        "unit": {"unit": terms.unit, "enforced": ENFORCED["gateway" if terms.trust == Trust.GATEWAY else terms.unit]},
        "neighbouring": {
            "relation": terms.relation,
            "meaning": MEANING[terms.relation],
            "epsilon_under_either": told["epsilons"],
        },
        "released": {"release_set": terms.release_set, "beside_it": facts.released},
        "noise": {
            "clip": mechanism.clip,
            "noise_multiplier": mechanism.noise_multiplier,
            "grid": facts.grid,
            "added": ADDED[terms.trust],
            "generator": SECURE,
        },
        "sampling": {
            "rate": plan.cohort_rate,
            "assumed_and_done": terms.sampling or SAMPLING[terms.trust],
            "epsilon_with_it": ledger.epsilon(),
            "epsilon_without_it": compute_epsilon(unsampled(ledger.total), account.delta),
        },
        "accounting": {
            **_accounting(mechanism, ledger),
            "attacker_finds_at_most": attacker["finds_at_most"],
            "at_false_alarms": attacker["false_alarms"],
        },
        "composition": _composition(plan, ledger, facts),
        "not_protected": list(NOT_PROTECTED),
        "choices": list(facts.choices),
        "evidence": {name: getattr(facts, name) for name in ("audit", "audit_verdict", "code", "model")},
    }


def _if_trust_fails(mechanism: Mechanism, plan: TrainingPlan) -> dict[str, Any]:
    """Return what is left of the guarantee where it can be said: a device's own share of the noise in a secure sum."""
    alone = getattr(mechanism, "epsilon_among_strangers", None)
    return {} if alone is None else {"among_strangers": f"{alone(plan):.3g}, at most"}


def _composition(plan: TrainingPlan, ledger: Ledger, facts: Facts) -> dict[str, Any]:
    return {
        "rounds": plan.rounds,
        "parts_of_the_budget": format_rounds(plan.rounds, plan.shares),
        "participations": ledger.account.participations,
        "lost_rounds": sum(row["status"] == "lost" for row in ledger.rows()),
        "all_runs_on_these_users": ledger.population_total().sentence(),
        "not_included": UNACCOUNTED,
        "started_from": list(facts.inputs),
    }


def _accounting(mechanism: Mechanism, ledger: Ledger) -> dict[str, Any]:
    account = ledger.account
    return {
        "accountant": ACCOUNTANT,
        "version": version("dp-accounting"),
        "delta": account.delta,
        "delta_rule": format_delta(mechanism.delta is not None),
        "cross_check": f"Renyi divergences, an upper bound: {epsilon_bound(ledger.total, account.delta):.4f}",
        **gaussian_or_curve(ledger.total),
        "rho_without_sampling": math.fsum(count / (2 * z**2) for z, _, count in unsampled(ledger.total)),
    }


FALSE_ALARMS = (1e-4, 1e-3, 1e-2, 1e-1)  # at which a curve is told


def gaussian_or_curve(total: Composition) -> dict[str, Any]:
    """Return mu where a composition is one Gaussian mechanism, and so mu-GDP; else points of its trade-off curve.

    What is sampled is no Gaussian mechanism: the mu that fits its epsilon at one delta is passed at others (Dong, Roth
    & Su, "Gaussian differential privacy", 2022). Each point is a bound: at so many false alarms, the most that any
    attacker is right for.
    """
    if all(rate == 1 for _, rate, _ in total):
        return {"mu": math.sqrt(math.fsum(count / z**2 for z, _, count in total))}
    found = trade_off(total).largest_tpr(np.array(FALSE_ALARMS)).tolist()
    return {"curve": {f"{100 * rate:g} %": most for rate, most in zip(FALSE_ALARMS, found, strict=True)}}


def format_grid(mechanism: Mechanism, shapes: Shapes) -> str:
    """Write on which numbers releases of these shapes lie, and what putting them there costs."""
    grid = mechanism.grid(shapes)
    if grid is None:
        public = mechanism.dp_sgd()
        return FLOATING if public is None else format_steps(public)
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return (
        f"whole multiples of {grid.step:.4g}, which is clip / 2^{grid.bits}, for {numbers:,} numbers; bounds are "
        "checked there, so that rounding costs no sensitivity; discrete Gaussian noise of variance "
        "ceil((z 2^bits)^2) + 6 steps, exact to a total variation of 2^-130 a number, which changes no digit of delta"
    )


def format_steps(public: DPSGDConfig) -> str:
    """Write on which numbers the noised sums of DP-SGD lie, and what putting them there costs."""
    grid = public.grid()
    return (
        f"of every local step: whole multiples of {grid.vectors.step:.4g}, which is clip / 2^{grid.vectors.bits}, and "
        f"of {grid.products.step:.4g}, clip / 2^{grid.products.bits}, for the weights of linear layers; each example's "
        "length is checked there, so that rounding costs no sensitivity; discrete Gaussian noise of variance "
        "ceil((z 2^bits)^2) + 6 steps, exact to a total variation of 2^-130 a number, which changes no digit of delta; "
        "what is sent is single-precision floating point, made of those noised sums alone"
    )


def unsampled(total: Composition) -> Composition:
    """Return a composition as if everybody took part in everything."""
    return frozenset((z, 1.0, count) for z, _, count in total)


def _public(mechanism: Mechanism) -> dict[str, Any]:
    """Return the mechanism's own settings, all of which are public."""
    own = dataclasses.fields(mechanism) if dataclasses.is_dataclass(mechanism) else ()
    return {field.name: getattr(mechanism, field.name) for field in own}


def format_promise(mechanism: Mechanism, plan: TrainingPlan, epsilon: float | None = None) -> str:
    """Write what a calibrated mechanism guarantees for a whole run, before it starts.

    `epsilon` is the ledger's, where the run has one already.
    """
    terms, delta = mechanism.terms, mechanism.delta_for(plan)
    if not mechanism.private:
        return format_guarantee(terms, None, delta)
    total = projected(mechanism, plan, plan.rounds)
    spent = compute_epsilon(total, delta) if epsilon is None else epsilon
    attacker = interpret(total, terms.relation, delta)["attacker"]
    return format_guarantee(terms, spent, delta, attacker, claim=authors_claim(mechanism))


def held_here(told: dict[str, Any]) -> bool:
    """Say whether the ledger of this machine holds what a card tells; False where there is none here.

    Raises `RefusedError` where there is one that does not hold it.
    """
    path = ledger_path(told["population"])
    if not path.exists():
        return False
    store = LedgerStore(path)
    try:
        for digest in (told["head"], *(row["hash"] for row in told["rows"])):
            if not store.holds(digest):
                raise RefusedError(
                    f"the card does not fit the ledger {path}: it does not hold entry {digest[:12]}...; the card was "
                    "edited, or the ledger is not the one of its run"
                )
    finally:
        store.close()
    return True
