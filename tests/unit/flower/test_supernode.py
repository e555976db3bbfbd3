"""A device runs its own client app, whatever a server sends."""

import importlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supernode.runtime import run_clientapp

from fedrec.device import client_app
from fedrec.flower import supernode

ROOT = Path(__file__).parents[3]


def test_flower_still_loads_the_app_by_the_two_names_that_are_replaced() -> None:
    for name in ("install_from_fab", "get_load_client_app_fn"):
        assert name in vars(run_clientapp) and name in run_clientapp.run_clientapp.__code__.co_names


def test_every_program_that_a_task_could_start_is_replaced(tmp_path: Path) -> None:
    assert set(TASK_TYPE_TO_COMMAND.values()) == {"flwr-clientapp", *supernode.REFUSED}
    found = supernode.environment(tmp_path, {"PATH": "/usr/bin"})
    first = Path(found["PATH"].split(":")[0])
    assert {path.name for path in first.iterdir()} == set(TASK_TYPE_TO_COMMAND.values())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in first.iterdir())
    done = subprocess.run([first / "flwr-agentapp"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "refused" in done.stderr


def test_the_installed_app_is_loaded_and_the_delivered_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    app = client_app.make_client_app()
    monkeypatch.setattr(client_app, "make_client_app", lambda: app)
    importlib.import_module("flwr.supernode.cli.flwr_clientapp")  # the package calls a function by its name too

    loaded = []

    def task() -> None:
        run_clientapp.install_from_fab(b"not even an archive", skip_prompt=True)  # type: ignore[arg-type]
        loaded.append(run_clientapp.get_load_client_app_fn("", None, True)("id", "version", "hash"))  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules["flwr.supernode.cli.flwr_clientapp"], "flwr_clientapp", task)
    for name in ("install_from_fab", "get_load_client_app_fn"):
        monkeypatch.setattr(run_clientapp, name, getattr(run_clientapp, name))
    client_app.run_pinned()
    assert loaded == [app] and "client.app" not in sys.modules


LEAN = """
import sys
from fedrec.flower import supernode as installed
program, run = installed.load_task_program()
assert callable(program.flwr_clientapp) and {"install_from_fab", "get_load_client_app_fn"} <= vars(run).keys()
sys.argv = ["flwr-clientapp", "--help"]
try:
    program.flwr_clientapp()
except SystemExit as end:
    assert not end.code
servers = ("sqlalchemy", "uvicorn", "fastapi.routing", "flwr.supernode.cli.flower_supernode")
print([name for name in servers if name in sys.modules])
"""


def test_a_task_loads_none_of_the_servers() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_a_flower_that_wants_more_gets_it() -> None:
    """Where something is taken from a module that was left out, all is loaded as Flower does."""
    broken = """
import sys
from fedrec.flower import supernode as installed
real = installed.leave_out
def too_much():
    real()
    del sys.modules["fastapi"].status
installed.leave_out = too_much
program, run = installed.load_task_program()
from fastapi import FastAPI
from flwr.supercore.error import http_error_translator
print(callable(program.flwr_clientapp), callable(run.run_clientapp), callable(http_error_translator))
"""
    done = subprocess.run([sys.executable, "-c", broken], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True True True"], done.stderr


def test_the_app_that_flower_loads_and_the_one_that_is_pinned_handle_the_same_messages_alike() -> None:
    from client import app as module

    loaded, pinned = module.app._registered_funcs, client_app.make_client_app()._registered_funcs
    assert loaded.keys() == pinned.keys() and len(pinned) == 3 and set(pinned.values()) == {client_app.answer}
    for function in loaded.values():
        assert function.__code__.co_names == ("answer",) and module.answer is client_app.answer
