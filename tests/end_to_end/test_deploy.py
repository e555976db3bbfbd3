"""The units and the image: what they start exists, they are hardened, and a stranger's folder is refused."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from fedrec.cli import client, server
from fedrec.errors import FedrecError
from fedrec.ops import processes

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = ("fedrec-client", "fedrec-server")
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectProc": "invisible",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
}


def settings(name: str) -> dict[str, list[str]]:
    found = dict[str, list[str]]()
    for line in (DEPLOY / f"{name}.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened_and_run_as_a_user_of_their_own(name: str) -> None:
    unit = settings(name)
    assert {key: unit.get(key) for key in HARDENED} == {key: [value] for key, value in HARDENED.items()}
    (user,) = unit["User"]
    assert f"\nu {user} " in (DEPLOY / "fedrec.sysusers.conf").read_text() and unit["StateDirectory"] == [user]
    assert "DynamicUser" not in unit  # an operator's command could not then share the folder


def parsed(app: typer.Typer, words: list[str]) -> str:
    """Return the command of a line whose options and arguments it takes."""
    commands = typer.main.get_command(app)
    commands.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
    return words[0]


def test_units_and_image_start_commands_that_exist() -> None:
    for name, app in (("fedrec-client", client.app), ("fedrec-server", server.app)):
        (line,) = settings(name)["ExecStart"]
        words = line.replace("${FEDREC_NAME}", "localhost").split()
        assert words[:2] == ["/usr/bin/env", "fedrec"] and parsed(app, words[3:]) == "up"
    image = (DEPLOY / "Containerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["fedrec"\]$', image, re.MULTILINE)
    for line in re.findall(r'CMD \[(?:"fedrec", )?"client", (.*)\]$', image, re.MULTILINE):
        assert parsed(client.app, re.findall(r'"(.*?)"', line)) in ("up", "health")


def test_a_device_comes_back_when_the_server_has_seen_it_go() -> None:
    assert int(settings("fedrec-client")["RestartSec"][0]) > 45 and settings("fedrec-client")["Restart"] == ["always"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name: str) -> None:
    file = str(DEPLOY / f"{name}.service")
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Unknown" not in done.stderr, done.stderr


def test_another_users_folder_is_refused_by_that_users_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root writes into a service's folder, the service can't read."""
    home = tmp_path / "home"
    home.mkdir()
    processes.check_owner(home)
    processes.check_owner(tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    for run in (client.run, server.run):
        with pytest.raises(FedrecError, match=r"belongs to user .*: run this as that user"):
            run(["status", "--home", str(home)])
    assert not list(home.iterdir())
