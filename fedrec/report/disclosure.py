"""A privacy card in the forms of others: a record of the OpenDP deployments registry, a checklist by NIST SP 800-226.

The registry (github.com/opendp/deployments-registry-data, its template of tier 3) and Near, Darais, Lefkovitz &
Howarth, "Guidelines for evaluating differential privacy guarantees", NIST SP 800-226, 2025. Both want more than a run
can know: what its operator has to say is left open, and marked.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fedrec.errors import RefusedError
from fedrec.privacy.guarantee import Trust, Unit
from fedrec.privacy.wording import UNIT, format_either, format_part

OPEN = "TO FILL IN"
MODEL: dict[str, str] = {
    Trust.DEVICE: "Local",
    Trust.SUMS: "Central",
    Trust.GATEWAY: "Central",
    Trust.SERVER: "Central",
}
MODEL_DETAILS: dict[str, str] = {
    Trust.DEVICE: "each device adds noise to what it sends, before it leaves it",
    Trust.SUMS: "each device adds a share of the noise, and secure aggregation lets the server learn sums alone",
    Trust.GATEWAY: "a gateway is the curator of its own users alone, and adds noise before anything leaves it",
    Trust.SERVER: "data stay on devices; the server sees clipped updates, and adds noise to the sum of a round",
}


# Parts of fields that cards of fedrec 0.1.0 lacked.
SAID_SINCE = (
    ("composition", "all_runs_on_these_users"),
    ("composition", "parts_of_the_budget"),
    ("composition", "started_from"),
    ("noise", "grid"),
    ("evidence", "model"),
)


def check_claims(card: Mapping[str, Any], run: str) -> None:
    """Raise `RefusedError` where a card claims nothing, or is of an older fedrec, whose cards said less."""
    if not card["fields"] or card["missing"]:
        lacking = f" (missing: {', '.join(card['missing'][:3])})" if card["fields"] else ""
        raise RefusedError(f"{run} claims nothing{lacking}: only a run with a guarantee can be disclosed as one")
    older = [f"{field}.{part}" for field, part in SAID_SINCE if part not in card["fields"][field]]
    if older:
        raise RefusedError(f"the card of {run} is of an older fedrec and lacks {', '.join(older)}: run it anew")


def opendp_record(card: Mapping[str, Any], metrics: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return a record of tier 3 for the OpenDP deployments registry; `metrics` is the run's metrics.json."""
    check_claims(card, run)
    return {
        "url_slug": re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-"),
        "deployment": {
            "basic": _basic(metrics, run),
            "dp_variant": _variant(card),
            "privacy_loss": _loss(card, metrics),
            "deployment_model": _model(card),
            "implementation": _implementation(card),
            "administrative": {
                "evidence_sources": {},
                "status": "Draft",
                "registry_authors": [OPEN],
                "tier": 3,
            },
        },
    }


def _basic(metrics: Mapping[str, Any], run: str) -> dict[str, Any]:
    data, model = metrics["dataset"]["name"], metrics["model"]
    return {
        "name": run,
        "data_curators": [{"data_curator_name": OPEN, "data_curator_type": OPEN}],
        "description": f"a recommender ({model}, {metrics['algorithm']}) trained by federated learning on {data}",
        "intended_use": OPEN,
        "data_product_type": "Machine learning model",
        "data_product_region": OPEN,
        "data_product_sector": OPEN,
        "publication_date": OPEN,
    }


def _variant(card: Mapping[str, Any]) -> dict[str, str]:
    fields = card["fields"]
    return {
        "variant_name": "Approximate DP",
        "data_domain": f"the interactions of each user with the items of a public catalogue ({fields['choices'][0]})",
        "unprotected_quantities": "; ".join([*fields["not_protected"], fields["choices"][1]]),
    }


def _loss(card: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    privacy, fields = card["privacy"], card["fields"]
    user = privacy["unit"] == Unit.USER
    units = metrics["dataset"]["users" if user else "interactions"]
    relation = fields["neighbouring"]
    return {
        "privacy_unit": "User-level" if user else "Interaction-level",
        "privacy_unit_details": f"{UNIT[privacy['unit']]}; {relation['relation']}: {relation['meaning']}. "
        f"{fields['unit']['enforced']}",
        "number_of_privacy_units": OPEN if units is None else units,
        "privacy_parameters": {"epsilon": privacy["epsilon"], "delta": privacy["delta"]},
        "privacy_parameters_details": f"{card['claim']}. delta: {fields['accounting']['delta_rule']}",
    }


def _model(card: Mapping[str, Any]) -> dict[str, str]:
    fields, trust = card["fields"], card["privacy"]["trust"]
    who, rounds = fields["trust"], fields["composition"]["rounds"]
    return {
        "model_name": MODEL[trust],
        "model_name_details": MODEL_DETAILS[trust],
        "trust_assumptions": f"trusted is {who['trusted']}; sees updates without noise: {who['raw_updates']}",
        "actors": "devices, which hold the data; the server; whoever sees what is released. "
        f"Protected against: {who['adversary']}",
        "release_type": "Many releases" if rounds > 1 else "One release",
        "release_type_details": f"{fields['released']['release_set']}; beside it: {fields['released']['beside_it']}. "
        f"All runs on these users: {fields['composition']['all_runs_on_these_users']}",
        "data_source_type": "Static",
        "data_source_type_details": "what a device held when a round asked it",
        "access_type": "Non-interactive",
        "access_type_details": "nobody asks queries: the rounds are fixed beforehand",
    }


def _implementation(card: Mapping[str, Any]) -> dict[str, str]:
    fields = card["fields"]
    noise, accounting, whole = fields["noise"], fields["accounting"], fields["composition"]
    return {
        "preprocessing_and_hyperparameter_tuning": "; ".join(fields["choices"]),
        "mechanisms": (
            f"{card['mechanism']['name']}: Gaussian noise of {format_part('z', noise['noise_multiplier'])} times the "
            f"clip, {noise['added']}. Floating point: {noise['grid']}. Randomness: {noise['generator']}. Sampling: "
            f"{fields['sampling']['assumed_and_done']}. Timing is not covered. {fields['evidence']['code']}"
        ),
        "composition": (
            f"{accounting['accountant']} ({accounting['version']}) over {whole['rounds']} rounds, each one's part of "
            f"the budget: {whole['parts_of_the_budget']}; {accounting['cross_check']}. Not included: "
            f"{whole['not_included']}"
        ),
        "post_processing": (
            "steps of the optimiser and the model, from what was released alone. It started from: "
            f"{'; '.join(whole['started_from'])}"
        ),
        "justification": OPEN,
        "utility": OPEN,
        "additional_information": (
            f"audit: {fields['evidence']['audit']}. Released model: {fields['evidence']['model']}"
        ),
    }


def format_opendp(record: Mapping[str, Any]) -> str:
    """Return a record as the YAML that the registry takes."""
    return yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True, width=100).rstrip("\n")


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One point to look at: under which heading, the question, and the answer; None: its operator has to say."""

    heading: str
    question: str
    answer: str | None

    def line(self) -> str:
        """Return the point as a line of a list in Markdown."""
        return f"- [{' ' if self.answer is None else 'x'}] {self.question} {self.answer or f'**{OPEN}**'}"


def nist_checklist(card: Mapping[str, Any], run: str) -> list[CheckItem]:
    """Return the points of NIST SP 800-226 with what a card answers, from the guarantee down to its foundations."""
    check_claims(card, run)
    return [*_guarantee(card), *_algorithm(card), *_foundations(card)]


def _guarantee(card: Mapping[str, Any]) -> Iterator[CheckItem]:
    fields, heading = card["fields"], "The guarantee"
    either = fields["neighbouring"]["epsilon_under_either"]
    yield CheckItem(heading, "Which epsilon and delta, and what do they mean?", f"{card['claim']}.")
    yield CheckItem(heading, "How was delta chosen?", f"{fields['accounting']['delta_rule']}.")
    yield CheckItem(
        heading,
        "What is the unit of privacy, and is it a person?",
        f"{fields['unit']['unit']}: {fields['unit']['enforced']}.",
    )
    yield CheckItem(
        heading,
        "Which data sets are neighbours?",
        f"{fields['neighbouring']['meaning']}; {format_either(either)}.",
    )
    yield CheckItem(
        heading,
        "What did everything on these people cost together?",
        f"{fields['composition']['all_runs_on_these_users']}; not included: {fields['composition']['not_included']}.",
    )
    yield CheckItem(heading, "What is released beside it?", f"{fields['released']['beside_it']}.")
    yield CheckItem(heading, "What is not protected?", f"{', '.join(fields['not_protected'])}.")


def _algorithm(card: Mapping[str, Any]) -> Iterator[CheckItem]:
    fields, heading = card["fields"], "Algorithm, accuracy and bias"
    noise, accounting = fields["noise"], fields["accounting"]
    yield CheckItem(
        heading,
        "How is sensitivity bounded, and which noise is added?",
        f"clip {format_part('clip', noise['clip'])}, noise {format_part('z', noise['noise_multiplier'])} times it, "
        f"{noise['added']}.",
    )
    yield CheckItem(heading, "Does it rest on sampling?", f"{fields['sampling']['assumed_and_done']}.")
    yield CheckItem(heading, "How are uses composed?", f"{accounting['accountant']}, version {accounting['version']}.")
    yield CheckItem(heading, "Were choices made on the data without privacy?", f"{'; '.join(fields['choices'])}.")
    yield CheckItem(
        heading,
        "Did it start from something that was trained on people?",
        f"{'; '.join(fields['composition']['started_from'])}.",
    )
    yield CheckItem(heading, "Is it accurate enough for its use, and for small groups of people?", None)
    yield CheckItem(heading, "Whom do the data leave out, or treat unlike others?", None)


def _foundations(card: Mapping[str, Any]) -> Iterator[CheckItem]:
    fields, heading = card["fields"], "Deployment and foundations"
    trust, evidence = fields["trust"], fields["evidence"]
    yield CheckItem(
        heading,
        "Who is trusted, and who sees data without noise?",
        f"trusted is {trust['trusted']}; without noise: {trust['raw_updates']}; against {trust['adversary']}.",
    )
    yield CheckItem(heading, "Is floating point accounted for?", f"{fields['noise']['grid']}.")
    yield CheckItem(heading, "Where does randomness come from?", f"{fields['noise']['generator']}.")
    yield CheckItem(
        heading, "Are side channels covered?", "no: when and how much is sent, and how long noise takes, is not."
    )
    yield CheckItem(heading, "Was it tested, and which code ran?", f"{evidence['audit']}; {evidence['code']}.")
    yield CheckItem(heading, "Who may reach the data, the ledger and `exact/`, and for how long are they kept?", None)
    yield CheckItem(heading, "Were people told, and did they agree to the collection?", None)


def format_nist(items: list[CheckItem], run: str) -> str:
    """Return a checklist in Markdown, its points under their headings."""
    lines, last = [f"# {run} by NIST SP 800-226"], ""
    for item in items:
        if item.heading != last:
            lines += ["", f"## {item.heading}", ""]
            last = item.heading
        lines.append(item.line())
    open_points = sum(item.answer is None for item in items)
    return "\n".join([*lines, "", f"{open_points} points are for the operator to answer: no run can know them."])
