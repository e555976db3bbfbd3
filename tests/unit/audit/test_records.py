"""An audit is kept and cited: by the card of its run, by cards of later runs with its settings, and of no others."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fedrec.audit import auditor
from fedrec.audit import auditor as records
from fedrec.audit.auditor import FILE, Audit, load_record, save_record, settings_hash
from fedrec.audit.findings import Finding
from fedrec.cli.main import main
from fedrec.errors import FedrecError
from fedrec.privacy.mechanisms.user import UserLevel
from tests.support.tiny import SMALL, small

RUN = [*SMALL, "model=mf", "model.dim=2", "privacy=user", "rounds=2", "evaluation.baselines=[]"]


def audited(monkeypatch: pytest.MonkeyPatch, arguments: list[str], verdict: str = "holds") -> None:
    """Run the command on an audit that is made up."""
    noise = tuple(Finding("noise", verdict, point, 0.98 * point, "many scores") for point in (4.0, 8.0))
    found = Audit("UserLevel", UserLevel().terms, 1e-5, True, (*noise, Finding("sampler", "holds", 1.0, 0.0, "")), 3.0)
    monkeypatch.setattr(auditor, "audit", lambda experiment, points, numbers: found)
    with pytest.raises(SystemExit, match=r"^1$") if verdict == "contradicted" else nullcontext():
        main(["audit", *arguments])


def run(path: Path, name: str, *more: str) -> dict[str, Any]:
    main(["simulate", *RUN, *more, f"output={path}", f"name={name}"])
    return card(path, name)


def card(path: Path, name: str) -> dict[str, Any]:
    return json.loads((path / name / "privacy_card.json").read_text())


def test_the_card_of_a_run_cites_its_audit_and_before_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(tmp_path, "one")
    assert before["fields"]["evidence"]["audit"].startswith("none of these settings")
    audited(monkeypatch, [str(tmp_path / "one")])
    after = card(tmp_path, "one")
    said = after["fields"]["evidence"]
    assert said["audit"].startswith(
        "holds: an adversary measured epsilon 3.920 of 4.000 (0.980), 7.840 of 8.000 (0.980)"
    )
    assert "sampler holds; this code" in said["audit"] and said["audit_verdict"] == "holds"
    assert after["claim"] == before["claim"] and after["ledger"] == before["ledger"]
    for page in ("privacy_card.md", "report.html"):
        assert "measured epsilon 3.920" in (tmp_path / "one" / page).read_text()
    main(["simulate", *RUN, f"output={tmp_path}", "name=one", "overwrite=true"])
    assert not (tmp_path / "one" / FILE).exists()


def test_later_runs_cite_an_audit_of_their_settings_and_of_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited(monkeypatch, RUN)
    assert "measured epsilon" in run(tmp_path, "same", "privacy.epsilon=3", "seed=4")["fields"]["evidence"]["audit"]
    for name, more in {"clip": "privacy.clip=0.5", "way": "engine=reference", "sampled": "cohort.size=20"}.items():
        assert run(tmp_path, name, more)["fields"]["evidence"]["audit_verdict"] == "none"


def test_an_audit_of_other_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audited(monkeypatch, RUN)
    monkeypatch.setattr("fedrec.report.privacy_card.code_hash", lambda: "0" * 16)
    assert f"other code ({records.code_hash()})" in run(tmp_path, "one")["fields"]["evidence"]["audit"]
    monkeypatch.undo()
    audited(monkeypatch, [str(tmp_path / "one")])
    assert "other code" in card(tmp_path, "one")["fields"]["evidence"]["audit"]


def test_a_contradicted_claim_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "one")
    audited(monkeypatch, [str(tmp_path / "one")], "contradicted")
    made = card(tmp_path, "one")
    assert made["claim"] == "no DP claim" and made["missing"] == ["evidence.audit_verdict"]
    assert made["privacy"]["epsilon"] is None and "contradicted" in made["fields"]["evidence"]["audit"]


def test_records_know_their_settings_and_damage_is_named(tmp_path: Path) -> None:
    experiment = small(base=RUN)[0]
    path = save_record({"verdict": "holds", "trials": []}, experiment, tmp_path)
    found = load_record(experiment, tmp_path)
    assert found is not None and (found.settings, found.verdict) == (settings_hash(experiment), "holds")
    assert load_record(small("privacy.clipping=split", "model=neumf", base=RUN)[0], tmp_path) is None
    path.write_text("{")
    with pytest.raises(FedrecError, match="audit again"):
        load_record(experiment, tmp_path)
