"""`fedrec server status`: the address, the devices admitted, and how the last run goes."""

import json
from typing import Any

from fedrec.ops import processes
from fedrec.server.home import ServerHome
from fedrec.server.registry import Registry


def summary(home: ServerHome) -> dict[str, Any]:
    """Return what `fedrec server status --json` prints."""
    address = home.address()
    run = json.loads(home.status.read_text()) if home.status.exists() else None
    return {
        "address": str(address),
        "up": processes.listens(address.port),
        "tls": not address.insecure,
        "devices": [device.device for device in Registry(home).devices().values()],
        "run": run,
    }


def in_words(values: dict[str, Any]) -> list[str]:
    """Return the summary as lines for a person."""
    how = "TLS, admitted keys only" if values["tls"] else "without TLS, this machine only"
    lines = [f"{values['address']} is {'up' if values['up'] else 'not up'} ({how})"]
    lines.append(f"{len(values['devices'])} devices admitted")
    if run := values["run"]:
        spent = "no privacy" if run["epsilon"] is None else f"epsilon {run['epsilon']:.2f}"
        lines.append(
            f"run {run['run']}: round {run['round']} of {run['rounds']}, {spent}; {run['answered']} answers, "
            f"{run['declined']} declined, {run['late']} late, {run['refused']} refused"
        )
    return lines
