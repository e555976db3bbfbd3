"""What is installed: one package, and a command that works from anywhere."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, **more)  # type: ignore[call-overload]


@pytest.mark.slow
def test_a_plain_install_works_from_the_root_folder(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    assert run(*pip, "torch").returncode == 0
    installed = run(*pip, str(ROOT))
    assert installed.returncode == 0, installed.stderr
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert (site / "fedrec" / "app" / "conf" / "config.yaml").exists()
    assert not [name for name in ("server", "client", "conf", "simulations", "tests") if (site / name).exists()]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FEDREC_STATE": str(tmp_path / "state")}
    command = [str(tmp_path / "venv" / "bin" / "fedrec"), "simulate", "rounds=1", f"output={tmp_path / 'runs'}"]
    done = run(*command, "evaluation.baselines=[popularity]", cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    assert "above popularity" in done.stdout or "popularity's" in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_shipped_data_with_its_terms_and_no_other(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    data = [name for name in names if name.endswith((".parquet", ".csv", ".zip", ".dat", ".npz"))]
    assert {Path(name).parent.name for name in data} == {"ml-latest-small"}
    assert any(name.endswith("shipped/ml-latest-small/README.txt") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedrec"}
