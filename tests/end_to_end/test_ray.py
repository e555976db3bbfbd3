"""The same apps on Ray, by the command; offline, with the result of the in-process grid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrec.cli.main import main
from tests.support.tiny import SMALL

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "user", "interaction"])
def test_flwr_run_gives_what_the_in_process_grid_gives(tmp_path: Path, privacy: str) -> None:
    seeded = [] if privacy == "none" else ["privacy.randomness=seeded"]
    overrides = [*SMALL, "model=mf", "rounds=3", f"privacy={privacy}", *seeded]
    overrides += ["evaluation.baselines=[]", "nodes=2", f"output={tmp_path}"]
    command = [sys.executable, "-m", "fedrec", "ray", *overrides, "name=ray"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    main(["simulate", *overrides, "name=here"])
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "ray"))
    assert ours.keys() == theirs.keys()
    exact = privacy != "none"  # releases are whole numbers, without privacy sums are floats
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], array, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("here", "ray")]
    assert results[0]["test"] == results[1]["test"]
    here, ray = (released(tmp_path / name) for name in ("here", "ray"))
    assert here == ray and len(here) == 3 * (privacy == "user")


def released(folder: Path) -> list[bytes]:
    """Return what the mechanism released in each round, as it is kept."""
    return [path.read_bytes() for path in sorted((folder / "releases").glob("round-*.safetensors"))]
