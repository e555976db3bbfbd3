"""Parts of the user's own: by --config-dir and by entry point, each only with leave, and wherever runs are made."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedrec.errors import FedrecError, RefusedError
from fedrec.experiment import instantiate
from fedrec.experiment.extensions import as_overrides, choices, split_overrides
from fedrec.experiment.instantiate import allow_only, allowed, resolve_class
from fedrec.experiment.settings import Settings, load, read
from fedrec.privacy.ledger.projection import project, read_ledgers
from fedrec.privacy.wording import AUTHORS, format_privacy
from fedrec.recommend.finished_run import FinishedRun
from fedrec.storage.run_folder import RunFolder
from fedrec.study.results import costs, read_spent, write_spent
from fedrec.study.worker import trial
from tests.support.own_package import NAME, importable, imported, install, write_package
from tests.support.tiny import FREE, small


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    with importable(write_package(tmp_path / "own")) as root:
        yield root


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    root = write_package(tmp_path / "own")
    install(root)
    with importable(root) as found:
        yield found


def conf(root: Path) -> Path:
    return root / NAME / "conf"


def test_a_folder_laid_out_like_conf_is_searched_after_ours(package: Path) -> None:
    chosen = [*as_overrides([conf(package)], [NAME]), f"model={NAME}"]
    made = load([*FREE, *chosen, "model.dim=5"])
    assert made.document["model"] == {"_target_": f"{NAME}.model.ShopMf", "_partial_": True, "dim": 5, "scale": 0.1}
    assert made.document["allow"] == [NAME] and made.document["rounds"] == 30
    assert made.experiment.names()["algorithm"] == "fedadam"  # its own yaml says so
    assert load([*FREE, *chosen, "algorithm=fedavg"]).experiment.names()["algorithm"] == "fedavg"
    assert load([*FREE, *chosen, "model=mf"]).document["model"]["_target_"].startswith("fedrec.")


def test_without_leave_it_is_refused_by_name_and_not_imported(package: Path) -> None:
    with pytest.raises(RefusedError, match=rf"{NAME}.model.ShopMf is not one of fedrec's own.*--allow {NAME}"):
        load([*FREE, *as_overrides([conf(package)]), f"model={NAME}"]).experiment  # noqa: B018
    assert not imported()


def test_leave_is_part_of_the_experiment_and_of_what_a_run_folder_keeps(package: Path, tmp_path: Path) -> None:
    plain, with_leave = load([*FREE, "model=mf"]), load([*FREE, "model=mf", f"allow={NAME}"])
    assert "allow" not in plain.document and json.loads(plain.experiment.document).keys() == {
        *plain.experiment.node()
    } - {"allow"}
    assert plain.experiment.hash != with_leave.experiment.hash and with_leave.experiment.node()["allow"] == [NAME]
    (tmp_path / "config.yaml").write_text(Settings({**with_leave.document, "run": "r"}).yaml())
    instantiate._allowed.clear()
    assert read(tmp_path / "config.yaml").experiment.hash == with_leave.experiment.hash and allowed() == {NAME}


def test_leave_by_the_environment_is_kept_with_the_run(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_ALLOW", f"{NAME}, other")
    made = load([*FREE, f"config_dir={conf(package)}", f"model={NAME}"])
    assert made.document["allow"] == [NAME]
    assert "allow" not in load([*FREE, "model=mf"]).document


def test_a_yaml_can_not_give_itself_leave(package: Path) -> None:
    path = conf(package) / "model" / f"{NAME}.yaml"
    path.write_text(path.read_text() + f"allow: [{NAME}]\n")
    with pytest.raises(RefusedError, match="allow stands in a yaml file"):
        load([*FREE, *as_overrides([conf(package)]), f"model={NAME}"])
    with pytest.raises(RefusedError, match="allow stands in a yaml file"):
        load([*FREE, f"+allow=[{NAME}]"])
    assert not imported()


@pytest.mark.parametrize("kept", ["shop_mf", {"a": 1}, [1], [["x"]]])
def test_a_run_folder_whose_leave_is_no_list_is_an_error(tmp_path: Path, kept: object) -> None:
    document = {**load([*FREE, "model=mf"]).document, "run": "r", "allow": kept}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(FedrecError, match="a list of packages is expected"):
        read(tmp_path / "config.yaml")


def test_mistakes_in_a_folder_or_a_name_are_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "odd" / "modl").mkdir(parents=True)
    for folder, said in ((tmp_path / "none", "no such folder"), (tmp_path / "odd", "Did you mean 'model'")):
        with pytest.raises(FedrecError, match=said):
            as_overrides([folder])
        with pytest.raises(FedrecError, match=said):
            load([f"config_dir={folder}"])
    with pytest.raises(FedrecError, match="the name of a package expected"):
        load(["allow=my-package"])
    with pytest.raises(FedrecError, match=rf"model=shop_m does not exist. Did you mean '{NAME}'"):
        load([f"config_dir={conf(package)}", "model=shop_m"])
    (conf(package) / "model" / "mf.yaml").write_text("a: 1\n")
    with pytest.raises(FedrecError, match=r"model=mf is fedrec's own, and .*mf.yaml would never be read"):
        load([f"config_dir={conf(package)}", "model=mf"])
    with pytest.raises(FedrecError, match=r"model.dmi does not exist. Did you mean 'model.dim'"):
        load([f"config_dir={conf(package)}", f"allow={NAME}", f"model={NAME}", "model.dmi=3"])


def test_the_parts_of_an_audit_stand_in_an_audit_and_never_on_a_device() -> None:
    target = "fedrec.audit.threat_model.CanaryModel"
    assert resolve_class(target, "model").__name__ == "CanaryModel"
    with allow_only([]), pytest.raises(RefusedError, match="CanaryModel is no model"):
        resolve_class(target, "model")


def test_overrides_carry_folders_and_names_in_every_spelling(package: Path) -> None:
    given = ["seed=1", "allow=a", "allow=[b, 'c']", f"config_dir={conf(package)}", f"config_dir={conf(package)}"]
    rest, found = split_overrides(given)
    assert rest == ["seed=1"] and found.allow == ("a", "b", "c") and found.config_dirs == (conf(package),)
    assert split_overrides(found.overrides())[1] == found


def test_what_is_installed_is_listed_and_not_imported(installed: Path) -> None:
    found = choices("model")
    assert found[NAME] == found["popular"] == NAME and found["mf"] == "fedrec"
    assert choices("privacy")["promise"] == NAME and choices("cohort")["poisson"] == "fedrec"
    with pytest.raises(FedrecError, match=r"model=populr does not exist. Did you mean 'popular'"):
        load([*FREE, "model=populr"])
    with pytest.raises(RefusedError, match=rf"model=popular comes with the package {NAME}.*--allow {NAME}"):
        load([*FREE, "model=popular"])
    assert not imported()


def test_an_entry_point_with_leave_is_chosen_like_our_own(installed: Path) -> None:
    chosen = load([f"allow={NAME}", f"model={NAME}", "algorithm=halved", "dataset=shop", "privacy=promise",
                   "model.dim=3", "privacy.epsilon=2", "algorithm.epochs=2", "dataset.seed=5"])  # fmt: skip
    assert chosen.experiment.names() == {"model": NAME, "algorithm": "halved", "mechanism": "promise"}
    assert chosen.document["model"]["dim"] == 3 and chosen.document["dataset"]["users"] == 40
    assert chosen.document["privacy"]["noise_multiplier"] is None and chosen.document["allow"] == [NAME]
    node = load([f"allow={NAME}", "model=popular"]).document["model"]
    assert node == {"_target_": f"{NAME}.parts.Popular", "_partial_": True, "boost": 1.0, "label": "x"}
    assert load([f"allow={NAME}", "model=mf"]).document["model"]["_target_"].startswith("fedrec.")  # ours stays ours


def test_an_entry_point_whose_file_is_missing_is_an_error(installed: Path) -> None:
    (conf(installed) / "model" / f"{NAME}.yaml").unlink()
    with pytest.raises(FedrecError, match=rf"the entry point {NAME} names .* has no file {NAME}.yaml"):
        load([f"allow={NAME}", f"model={NAME}"])


def test_a_trial_of_a_study_and_its_run_folder_go_on_with_it(package: Path, tmp_path: Path) -> None:
    """What a worker is told are overrides; what is resumed or recommended from is the run's folder."""
    given = [*FREE, *as_overrides([conf(package)], [NAME]), f"model={NAME}", "rounds=2", "evaluation.baselines=[]"]
    run = RunFolder(tmp_path / "runs" / "one")
    trial(run, given, io.StringIO())
    assert json.loads((run.path / "metrics.json").read_text())["model"] == NAME
    (run.path / "metrics.json").unlink()
    instantiate._allowed.clear()
    trial(run, given, io.StringIO())
    instantiate._allowed.clear()
    finished = FinishedRun.open(run.path)
    assert finished.of_user(3).scores().shape == (60,) and allowed() == {NAME}


def sentences_of_ledger(population: str) -> list[str]:
    """Return what the ledger's listing says of all runs together, and of the one run there is."""
    (listing,) = read_ledgers(population)
    return [line for line in listing.lines() if "epsilon" in line]


def projection_of(overrides: list[str]) -> str:
    experiment, dataset = small(*overrides, base=[])
    return project(experiment.mechanism, experiment.plan(dataset), "nobody yet", None).lines()[0]


def test_the_guarantee_of_a_mechanism_of_ones_own_is_its_authors_claim(installed: Path, tmp_path: Path) -> None:
    """In the card, metrics.json, the ledger, a study's costs and a projection; of ours nothing is said."""
    given = [*FREE, "model=popularity", "evaluation.baselines=[]"]
    for name, more in (("theirs", [f"allow={NAME}", "privacy=promise"]), ("ours", ["privacy=user"])):
        run = RunFolder(tmp_path / "runs" / name)
        trial(run, [*given, *more, f"dataset.population={name} people"], io.StringIO())
        write_spent(read(run.config), run)
        card, values = (json.loads((run.path / f"{f}.json").read_text()) for f in ("privacy_card", "metrics"))
        said = [card["claim"], card["mechanism"].get("claim", ""), format_privacy(values["privacy"])]
        said += [*sentences_of_ledger(f"{name} people"), costs(read_spent([run.path]))[0].meaning]
        said += [projection_of([*given, *more])]
        assert [AUTHORS in text for text in said] == [name == "theirs"] * 7
        assert values["mechanism"] == {"theirs": "promise", "ours": "user"}[name] and not card["missing"]
