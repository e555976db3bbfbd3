"""A SuperLink that stands on a busy machine: a longer wait for its data base, and a SuperExec that comes back."""

import subprocess
import sys
from pathlib import Path

from fedrec.flower.own_superlink import AGAIN, start_again

FAILS_TWICE = """
import pathlib, sys
file = pathlib.Path(sys.argv[1])
file.open("a").write("x")
sys.exit(len(file.read_text()) < 3)
"""
ENDURED = """
import importlib, sys
from fedrec.flower import own_superlink
own_superlink.endure()
program = importlib.import_module("flwr.superlink.cli.flower_superlink")
print(program._get_superexec_command("127.0.0.1:1", None, None, 1, False)[:3])
print("_get_superexec_command" in program.SuperLinkLifespan._start_superexec_if_needed.__code__.co_names)
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import text
state = LinkStateFactory(sys.argv[1], NoOpFederationManager(), ObjectStoreFactory(sys.argv[1])).state()
for name in ("busy_timeout", "cache_size"):
    print(state._engine.connect().execute(text(f"pragma {name}")).scalar())
"""


def test_what_failed_is_started_again_until_it_ends_well(tmp_path: Path) -> None:
    command = start_again([sys.executable, "-c", FAILS_TWICE, str(tmp_path / "runs")])
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "runs").read_text() == "xxx"


def test_nothing_is_started_again_for_a_superlink_that_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = ["/bin/sh", "-c", AGAIN, str(gone.pid), sys.executable, "-c", FAILS_TWICE, str(tmp_path / "runs")]
    subprocess.run(command, check=False, timeout=60)
    assert not (tmp_path / "runs").exists()


def test_flower_waits_a_minute_for_its_data_base_and_starts_runs_through_a_keeper(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDURED, str(tmp_path / "flower.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"['/bin/sh', '-c', {AGAIN!r}]", "True", "60000", "-256"]
