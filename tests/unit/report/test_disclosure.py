"""A card in the forms of others: what the run knows is filled in, what its operator has to say is marked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrec.cli.main import main
from fedrec.report.disclosure import OPEN, check_claims, nist_checklist, opendp_record
from tests.support.tiny import SMALL

# The fields of the registry's template of tier 3, less those for what was said in full elsewhere.
TEMPLATE = {
    "basic": "name data_curators description intended_use data_product_type data_product_region data_product_sector "
    "publication_date",
    "dp_variant": "variant_name data_domain unprotected_quantities",
    "privacy_loss": "privacy_unit privacy_unit_details number_of_privacy_units privacy_parameters "
    "privacy_parameters_details",
    "deployment_model": "model_name model_name_details trust_assumptions actors release_type release_type_details "
    "data_source_type data_source_type_details access_type access_type_details",
    "implementation": "preprocessing_and_hyperparameter_tuning mechanisms composition post_processing justification "
    "utility additional_information",
    "administrative": "evidence_sources status registry_authors tier",
}
ENUMERATED = {
    ("dp_variant", "variant_name"): {"Pure DP", "Approximate DP", "Zero-concentrated DP"},
    ("deployment_model", "model_name"): {"Central", "Local"},
    ("deployment_model", "release_type"): {"One release", "Many releases"},
    ("deployment_model", "data_source_type"): {"Static", "Dynamic"},
    ("deployment_model", "access_type"): {"Interactive", "Non-interactive"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_STATE", str(folder / "state"))
        for privacy in ("user", "none"):
            plain = [f"privacy={privacy}", "evaluation.baselines=[]", f"output={folder}", f"name={privacy}"]
            main(["simulate", *SMALL, "model=popularity", *plain])
    return folder


def card_of(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((run / "privacy_card.json").read_text()), json.loads((run / "metrics.json").read_text())


def test_a_record_has_the_registrys_fields(runs: Path) -> None:
    card, metrics = card_of(runs / "user")
    record = opendp_record(card, metrics, "Our Run_2")
    assert record["url_slug"] == "our-run-2"
    deployment = record["deployment"]
    assert {part: " ".join(fields) for part, fields in deployment.items()} == TEMPLATE
    for (part, field), allowed in ENUMERATED.items():
        assert deployment[part][field] in allowed
    assert deployment["administrative"]["tier"] == 3
    loss = deployment["privacy_loss"]
    assert loss["privacy_parameters"] == {"epsilon": card["privacy"]["epsilon"], "delta": card["privacy"]["delta"]}
    assert loss["number_of_privacy_units"] == 40 and card["claim"] in loss["privacy_parameters_details"]
    assert "2^-130" in deployment["implementation"]["mechanisms"]
    unsaid = [field for part in deployment.values() for field, value in part.items() if OPEN in str(value)]
    assert unsaid == ["data_curators", "intended_use", "data_product_region", "data_product_sector",
                      "publication_date", "justification", "utility", "registry_authors"]  # fmt: skip


@pytest.mark.parametrize(
    ("trust", "unit", "model", "said"),
    [("device", "interaction", "Local", "Interaction-level"), ("gateway", "user", "Central", "User-level")],
)
def test_a_record_follows_unit_and_trust(runs: Path, trust: str, unit: str, model: str, said: str) -> None:
    card, metrics = card_of(runs / "user")
    card["privacy"] |= {"trust": trust, "unit": unit}
    metrics["dataset"]["interactions"] = None  # as on real devices
    deployment = opendp_record(card, metrics, "run")["deployment"]
    assert deployment["deployment_model"]["model_name"] == model
    assert deployment["privacy_loss"]["privacy_unit"] == said
    assert (deployment["privacy_loss"]["number_of_privacy_units"] == OPEN) == (unit == "interaction")


def test_the_checklist_answers_from_the_card_and_leaves_the_rest_open(runs: Path) -> None:
    card, _ = card_of(runs / "user")
    items = nist_checklist(card, "run")
    assert list(dict.fromkeys(item.heading for item in items)) == [
        "The guarantee", "Algorithm, accuracy and bias", "Deployment and foundations",
    ]  # fmt: skip
    answered = {item.question: item.answer for item in items if item.answer is not None}
    assert len(items) - len(answered) == 4 and len(answered) >= 15
    assert card["claim"] in answered["Which epsilon and delta, and what do they mean?"]
    assert answered["Are side channels covered?"].startswith("no: ")
    assert all(item.line().startswith("- [x] " if item.answer else "- [ ] ") for item in items)


def test_a_shell_prints_each_form(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDREC_STATE", str(runs / "state"))
    main(["privacy", "card", str(runs / "user"), "--format", "opendp"])
    record = yaml.safe_load(capsys.readouterr().out)
    card, metrics = card_of(runs / "user")
    assert record == opendp_record(card, metrics, "user")
    main(["privacy", "card", str(runs / "user"), "--format", "nist"])
    told = capsys.readouterr().out
    assert told.startswith("# user by NIST SP 800-226\n") and told.endswith("4 points are for the operator to answer: "
                                                                            "no run can know them.\n")  # fmt: skip
    main(["privacy", "card", str(runs / "user"), "--format", "json"])
    assert json.loads(capsys.readouterr().out)["verified"] is True
    for more, why in ((["user", "--format", "opendb"], "opendp"), (["none", "--format", "nist"], "claims nothing")):
        with pytest.raises(SystemExit):
            main(["privacy", "card", str(runs / more[0]), *more[1:]])
        assert why in capsys.readouterr().err


def test_a_card_that_lacks_a_field_is_not_disclosed(runs: Path) -> None:
    from fedrec.errors import RefusedError

    card, _ = card_of(runs / "user")
    with pytest.raises(RefusedError, match=r"run claims nothing \(missing: noise\.clip\)"):
        check_claims({**card, "missing": ["noise.clip"]}, "run")
    del card["fields"]["composition"]["started_from"]
    with pytest.raises(RefusedError, match=r"of an older fedrec and lacks composition\.started_from"):
        nist_checklist(card, "run")
