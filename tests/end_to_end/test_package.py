"""What is installed: one package, no global names, and a command that works from anywhere, whatever lies there.

The quick installs here take fedrec alone, and find what it depends on in this environment: nothing is downloaded.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk

from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]
GLOBAL = ("server", "client", "simulations", "tests", "conf", "app")
TINY = [*SMALL, "rounds=1", "model=mf", "model.dim=2", "evaluation.baselines=[]"]
IMPORTED = """
import importlib.util, json, sys
before = list(sys.path)
import fedrec
from fedrec import paths
found = [name for name in {names} if importlib.util.find_spec(name) is not None]
told = {{"found": found, "same_path": sys.path == before, "file": fedrec.__file__, "app": str(paths.app_dir())}}
print(json.dumps(told))
"""
SIMULATED = """
import sys
from fedrec.cli.main import main
before, sys.argv = list(sys.path), ["fedrec", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
assert sys.path == before, set(sys.path) ^ set(before)
new = sorted({module.partition(".")[0] for module in sys.modules} & {names})
assert not new, new
"""


def run(*command: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, **more)


def installed(folder: Path, *what: str) -> Path:
    """Install something into an environment of its own that borrows all else from this one; return its Python."""
    venv.create(folder)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    (folder / "borrowed").mkdir()
    for place in {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}:
        for entry in place.iterdir():
            if "fedrec" not in entry.name:  # neither this environment's fedrec nor what points at it
                (folder / "borrowed" / entry.name).symlink_to(entry)
    (site / "00_borrowed.pth").write_text(str(folder / "borrowed"))  # read first; .pth files in it are not read
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = run(*pip, "--no-build-isolation", *what)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@dataclass(frozen=True)
class Install:
    """One way to install fedrec: its Python, and where the package then lies."""

    python: Path
    place: Path

    def run(self, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in a folder, without what this process was told of where to look."""
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return run(str(self.python), *command, cwd=folder, env=variables)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def install(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "editable":
        return Install(installed(folder, "--editable", str(ROOT)), ROOT)
    return Install(installed(folder, str(wheel)), folder)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with modules and a package of the names that fedrec's own folders have; to import one is an error."""
    folder = tmp_path / "crowded"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text("rounds: none of these\n")
    for name in GLOBAL:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of this folder was imported')\n")
    return folder


def test_nothing_but_fedrec_becomes_importable(install: Install, tmp_path: Path) -> None:
    done = install.run(tmp_path, "-c", IMPORTED.format(names=GLOBAL))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["found"] == [] and said["same_path"]
    assert Path(said["file"]).is_relative_to(install.place)
    for part in ("pyproject.toml", "server/app.py", "client/app.py", "conf/config.yaml"):
        assert (Path(said["app"]) / part).is_file(), part


def test_a_simulation_leaves_the_path_alone_and_takes_nothing_from_its_folder(install: Install, crowded: Path) -> None:
    """Python itself puts the folder first among the places to look, where there would be modules of every name."""
    done = install.run(crowded, "-c", SIMULATED.replace("{names}", repr(set(GLOBAL))), "simulate", *TINY, "name=here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (crowded / "runs" / "here" / "metrics.json").exists()


def test_the_test_would_notice(install: Install, crowded: Path) -> None:
    done = install.run(crowded, "-c", "import server")
    assert done.returncode == 1 and "the server.py of this folder was imported" in done.stderr


def test_flower_gets_the_same_app_from_the_wheel_as_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    names = list[set[str]]()
    for number, folder in enumerate((tmp_path / "fedrec" / "app", ROOT)):
        fab = tmp_path / f"{number}.fab"
        fab.write_bytes(build_fab_from_disk(folder))
        content = zipfile.ZipFile(fab)
        names.append(
            {name for name in content.namelist() if not name.startswith(".info") and "__pycache__" not in name}
        )
        for name in ("server/app.py", "client/app.py", "conf/config.yaml", "pyproject.toml"):
            assert name in names[-1], name
    assert names[0] == names[1]
    assert {name.split("/")[0] for name in names[0] if "/" in name} == {"server", "client", "conf"}


def test_the_wheel_holds_the_shipped_data_with_its_terms_and_no_other(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    data = [name for name in names if name.endswith((".parquet", ".csv", ".zip", ".dat", ".npz"))]
    assert {Path(name).parent.name for name in data} == {"ml-latest-small"}
    assert any(name.endswith("shipped/ml-latest-small/README.txt") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedrec"}


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run Python with the wheel's fedrec before every other, in its children too."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")

    def start(*command: str, folder: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "TMPDIR": str(tmp_path)}
        return run(sys.executable, *command, cwd=folder, env=variables)

    return start


@pytest.mark.slow
def test_real_devices_train_from_the_wheel(
    unpacked: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """The measurement runs from the checkout; what it starts runs elsewhere, and so from the wheel."""
    where = unpacked("-c", "import fedrec; print(fedrec.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "site")
    measured = unpacked("-m", "simulations.devices", "--nodes", "1", "--engine", "light", "--rounds", "2", folder=ROOT)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    assert json.loads(measured.stdout)["answered"] == 2


@pytest.mark.slow
def test_a_plain_install_works_from_the_root_folder(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    assert run(*pip, "torch").returncode == 0
    plain = run(*pip, str(ROOT))
    assert plain.returncode == 0, plain.stderr
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert (site / "fedrec" / "app" / "conf" / "config.yaml").exists()
    assert not [name for name in GLOBAL if (site / name).exists()]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FEDREC_STATE": str(tmp_path / "state")}
    command = [str(tmp_path / "venv" / "bin" / "fedrec"), "simulate", "rounds=1", f"output={tmp_path / 'runs'}"]
    done = run(*command, "evaluation.baselines=[popularity]", cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    assert "above popularity" in done.stdout or "popularity's" in done.stdout
