"""A run folder of fedrec 0.1.0 resumes and recommends: its classes have other names now, and its hashes stand.

tests/golden/run-0.1.0.zip was made by 0.1.0: mf, privacy=user, killed in the second of three rounds of its baseline
without privacy, with the ledger of that run, and under whole/ how the same baseline ended where nobody killed it.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedrec.cli.main import main
from fedrec.errors import RefusedError
from fedrec.experiment.instantiate import ALIASES, foreign_targets
from fedrec.experiment.settings import read
from fedrec.privacy.ledger.account import check_terms_unchanged
from fedrec.simulation import begun_as
from fedrec.storage.run_folder import RunFolder, load_checkpoint
from fedrec.study.compare import groups_of

GOLDEN = Path(__file__).parents[1] / "golden" / "run-0.1.0.zip"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path)
    monkeypatch.setenv("FEDREC_STATE", str(tmp_path / "state"))
    return tmp_path / "run"


def test_it_resumes_to_the_same_arrays_and_keeps_its_files(old: Path) -> None:
    before, kept = (old / "config.yaml").read_bytes(), (old / "model.safetensors").read_bytes()
    main(["simulate", "--resume", str(old), "--json"])
    values = json.loads((old / "metrics.json").read_text())
    assert (values["model"], values["algorithm"], values["mechanism"]) == ("mf", "fedadam", "user")
    assert values["engine"] == "cohort"  # it began before there were kernels
    assert values["ended_early"] is None and 7.9 < values["privacy"]["epsilon"] <= 8
    assert (old / "config.yaml").read_bytes() == before and (old / "model.safetensors").read_bytes() == kept
    baseline = RunFolder(old / "baselines" / "no_privacy")
    found, whole = load_checkpoint(baseline.checkpoints), load_checkpoint(old.parent / "whole")
    assert found is not None and whole is not None and found.round == whole.round == 3
    assert found.notes["experiment"] == whole.notes["experiment"]  # the hash of the old document
    for name, array in whole.state.items():
        np.testing.assert_allclose(found.state[name], array, rtol=1e-6, atol=1e-7)
    values = [np.fromfile(path / "values.f32", np.float32) for path in (baseline.private, old.parent / "whole")]
    np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-7)


def test_it_recommends(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recommend", str(old), "--user", "3"])
    assert "1  Item" in capsys.readouterr().out
    main(["recommend", str(old), "--likes", "Item 3"])
    assert "From Item 3" in capsys.readouterr().out


def test_its_document_is_read_as_it_stands(old: Path) -> None:
    settings = read(old / "config.yaml")
    saved = load_checkpoint(old / "checkpoint")
    assert saved is not None
    experiment = settings.experiment
    assert experiment.node()["privacy"]["_target_"] == "fedrec.privacy.user.UserLevel" and not list(
        foreign_targets(experiment.node())
    )
    calibrated = experiment.calibrated(experiment.dataset.load())
    assert calibrated.hash == saved.notes["experiment"] and calibrated.mechanism.name == "user"


def test_a_baseline_of_other_settings_is_not_taken_for_the_same(old: Path) -> None:
    experiment = read(old / "config.yaml").experiment
    folder = RunFolder(old / "baselines" / "no_privacy")
    node = json.loads(folder.config.read_text().partition("\n")[2])
    renamed = experiment.varied({**node, "privacy": {"_target_": "fedrec.privacy.mechanisms.none.NoPrivacy"}})
    assert begun_as(renamed, folder).hash == experiment.varied(node).hash != renamed.hash
    other = renamed.varied({"seed": 7})
    assert begun_as(other, folder) is other
    folder.config.write_text("# broken\n{")
    assert begun_as(renamed, folder) is renamed


def test_it_compares_with_a_run_of_today_by_the_names_of_today(old: Path, tmp_path: Path) -> None:
    """The ledger's account holds the class name alone, which has not changed."""
    main(["simulate", "--resume", str(old), "--json"])
    main(["simulate", "dataset=synthetic", "dataset.users=12", "dataset.items=20", "dataset.interactions=150",
          "evaluation.baselines=[]", "evaluation.negatives=5", "model=mf", "model.dim=4", "privacy=user", "rounds=2",
          "algorithm.epochs=1", f"output={tmp_path}", "name=new", "--json"])  # fmt: skip
    groups = groups_of([str(old), str(tmp_path / "new")])
    assert [group.said for group in groups] == ["rounds=3", "rounds=2"]
    with pytest.raises(RefusedError, match="mechanism was UserLevel"):
        check_terms_unchanged("run", {"mechanism": "UserLevel"}, {"mechanism": "Other"})


def test_every_class_of_the_old_configuration_has_an_alias(old: Path) -> None:
    text = (old / "config.yaml").read_text()
    named = {line.split()[-1] for line in text.splitlines() if "_target_" in line}
    moved = {name for name in named if name in ALIASES}
    assert moved >= {"fedrec.cohort.Cohort", "fedrec.models.mf.MatrixFactorisation", "fedrec.privacy.user.UserLevel"}
