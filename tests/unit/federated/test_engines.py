"""Which engine trains a run: settled where it begins, kept where it goes on, said where it is not the one asked for."""

import io
from pathlib import Path

import pytest

from fedrec import simulation
from fedrec.errors import FedrecError
from fedrec.experiment.experiment import ENGINES
from fedrec.experiment.settings import load, read
from fedrec.federated.exchange import LocalTransport
from fedrec.federated.node import explain_sequential, settle_engine
from fedrec.report.console import Progress
from fedrec.simulation import Simulation, new_run, resumed_run
from fedrec.storage.run_folder import RunFolder
from fedrec.training.kernels import compiled, forms
from tests.support.tiny import FREE, SMALL, session, small

TINY = ["dataset.users=12", "rounds=1", "evaluation.baselines=[]", "model.dim=4"]


def begun(path: Path, *overrides: str) -> tuple[str, RunFolder]:
    settings, folder = new_run(load([*SMALL, *TINY, f"output={path}", "name=one", *overrides]))
    assert read(folder.config).document == settings.document
    return settings.document["engine"], folder


def simulated(folder: RunFolder) -> tuple[str, str]:
    """Return what trained, and what was said."""
    said = io.StringIO()
    settings, _ = resumed_run(str(folder.path))
    values = Simulation(settings, folder, lambda: LocalTransport(2), Progress(said)).simulate()
    return values["engine"], said.getvalue()


@pytest.mark.parametrize(
    ("overrides", "engine"),
    [
        (["model=mf", "privacy=none"], "kernel"),
        (["model=mf", "privacy=interaction"], "kernel"),
        (["model=neumf", "privacy=none"], "kernel"),
        (["model=neumf", "model.layers=[]", "privacy=none"], "vectorized"),
        (["model=pfedrec", "privacy=none"], "vectorized"),
        (["model=mf", "privacy=gateway"], "vectorized"),
        (["model=mf", "privacy=none", "algorithm.optimizer=adam"], "vectorized"),
        (["model=mf", "privacy=none", "engine=reference"], "reference"),
    ],
)
def test_auto_is_settled_where_a_run_begins(tmp_path: Path, overrides: list[str], engine: str) -> None:
    assert begun(tmp_path, *overrides)[0] == engine


def test_a_run_on_real_devices_settles_nothing(tmp_path: Path) -> None:
    settings, _ = new_run(load([*FREE, *TINY, "model=mf", f"output={tmp_path}", "name=one"]), simulated=False)
    assert settings.document["engine"] == "auto"


def test_a_run_that_began_as_auto_goes_on_with_many_devices_at_once(tmp_path: Path) -> None:
    _, folder = begun(tmp_path, "model=mf", "privacy=none")
    folder.config.write_text(folder.config.read_text().replace("engine: kernel", "engine: auto"))
    engine, said = simulated(folder)
    assert engine == "cohort" and "kernel" not in said


def test_without_numba_a_new_run_says_so_and_one_that_began_with_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, began = begun(tmp_path / "before", "model=mf", "privacy=none")
    for module in (forms, simulation):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    engine, folder = begun(tmp_path / "after", "model=mf", "privacy=none")
    assert engine == "vectorized"
    engine, said = simulated(folder)
    assert engine == "cohort" and "trains without its kernel: numba is not installed here: pip install numba" in said
    with pytest.raises(FedrecError, match=r"engine=kernel needs numba, .*pip install numba"):
        simulated(began)


def test_a_kernel_that_was_asked_for_in_vain_is_told_and_another_engine_trains(tmp_path: Path) -> None:
    _, folder = begun(tmp_path, "model=pfedrec", "privacy=none", "engine=kernel")
    engine, said = simulated(folder)
    assert engine == "cohort" and "trains without a kernel: PFedRec has no kernel" in said


def test_compiling_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, dataset = small("model=mf", "engine=kernel", *TINY)
    with session(experiment, dataset, tmp_path / "run") as context:
        for there, note in ((False, "compiles its kernel once, which takes some seconds"), (True, None)):
            monkeypatch.setattr("fedrec.training.kernels.engine.compiled_before", lambda function, there=there: there)
            assert context.engine == "kernel" and context.engine_note == note


def test_what_does_not_train_is_not_said_to_lack_a_kernel(tmp_path: Path) -> None:
    plain = [setting for setting in TINY if not setting.startswith("model.")]
    settings, folder = new_run(
        load([*SMALL, *plain, f"output={tmp_path}", "name=one", "model=popularity", "privacy=none", "engine=kernel"])
    )
    assert settings.document["engine"] == "kernel"
    assert "kernel" not in simulated(folder)[1]


def test_what_is_compiled_is_kept_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path))
    assert compiled.kernel_cache().parent == tmp_path

    @compiled.compiled
    def twice(number: float) -> float:
        return 2 * number

    assert not compiled.compiled_before(twice) and twice(2.0) == 4.0 and compiled.compiled_before(twice)
    assert [path.suffix for path in sorted(tmp_path.rglob("*.nb*"))] == [".nbc", ".nbi"]


def test_every_engine_has_a_reason_or_trains() -> None:
    for engine in ENGINES:
        experiment, dataset = small("model=mf", f"engine={engine}", *TINY)
        model = experiment.build_model(dataset.catalogue)
        assert (explain_sequential(experiment, model) is None) == (engine != "reference")
        assert settle_engine(experiment, model) == ("kernel" if engine == "auto" else engine)
