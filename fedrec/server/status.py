"""How the server and its run go: `fedrec server status`, and the file behind the Prometheus metrics."""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedrec.messages import DECLINED
from fedrec.ops import processes
from fedrec.ops.prometheus import Metric, text
from fedrec.privacy.wording import format_epsilon
from fedrec.server.home import Registry, ServerHome
from fedrec.storage.run_folder import atomic_write

if TYPE_CHECKING:
    from fedrec.federated.state import RoundReport, RunContext

LATE, LOST = "no answer before the deadline", "Flower says"  # the second: the device went away, or its app was killed
STATES = {
    "round": "The last finished round.",
    "rounds": "Rounds to play.",
    "epsilon": "Epsilon spent by the run so far; absent without privacy.",
    "round_seconds": "How long the last round took.",
}
COUNTED = {
    "asked": "Requests sent to devices since the run began or went on.",
    "answered": "Answers that counted.",
    "late": "Requests without an answer before the deadline.",
    "declined": "Requests that a device's own policy declined.",
    "refused": "Answers that did not count: errors, wrong shapes, not a number.",
    "bytes_down": "Bytes sent to devices.",
    "bytes_up": "Bytes received from devices.",
}


def write_status(home: ServerHome, context: "RunContext", done: "Sequence[RoundReport]") -> None:
    """Write what the rounds since the start or resume came to; exact, for the operator alone, not for publication."""
    reasons = [reason for report in done for reason in report.rejected.values()]
    late = sum(reason == LATE or LOST in reason for reason in reasons)
    declined = sum(DECLINED in reason for reason in reasons)
    answered = sum(report.answered for report in done)
    values: dict[str, Any] = {
        "at": time.time(),
        "private": context.experiment.mechanism.private,
        "run": context.folder.path.name,
        "round": done[-1].round,
        "rounds": context.experiment.rounds,
        "asked": answered + len(reasons),
        "drawn": sum(report.cohort for report in done),
        "answered": answered,
        "late": late,
        "declined": declined,
        "refused": len(reasons) - late - declined,
        "epsilon": done[-1].epsilon,
        "round_seconds": done[-1].seconds,
        "bytes_down": sum(report.bytes_down for report in done),
        "bytes_up": sum(report.bytes_up for report in done),
    }
    atomic_write(home.status, json.dumps(values).encode() + b"\n", 0o600)


def page(home: ServerHome) -> str:
    """Return the metrics: the devices admitted, and how the run that was started last goes.

    Whoever may log in here can read them, and those who collect them keep them: of a run with a guarantee they hold
    nothing that tells how many answered. `fedrec server status` is for the operator alone, and exact.
    """
    run = json.loads(home.status.read_text()) if home.status.exists() else {}
    hidden = {*COUNTED, "round_seconds"} if run.get("private") else set[str]()
    admitted = len(Registry(home).admitted())
    figures = [Metric("fedrec_devices_admitted", "Devices admitted.", float(admitted))]
    figures += front_figures(home, bool(hidden))
    for key, said in {**STATES, **COUNTED}.items():
        value = None if key in hidden else run.get(key)
        figures.append(Metric(f"fedrec_{key}", said, None if value is None else float(value), key in COUNTED))
    return text(figures, {"run": str(run["run"])} if run else {})


def front_figures(home: ServerHome, hidden: bool) -> list[Metric]:
    """Return what the front passed and refused since the server came up; `hidden`: not how much it passed."""
    from fedrec.flower.front import REASONS

    counted = json.loads(home.counted.read_text()) if home.counted.exists() else {}
    figures = [Metric("fedrec_connections", "Connections open now.", counted.get("open", 0.0))]
    passed = None if hidden else float(counted.get("passed", 0))
    figures.append(Metric("fedrec_requests_passed", "Requests passed to Flower.", passed, True))
    reasons = {**REASONS, "connections": "connections over the limits"}
    for reason, said in reasons.items():
        name, value = f"fedrec_refused_{reason}", counted.get(reason, 0)
        figures.append(Metric(name, f"Refused: {said}.", float(value), True))
    return figures


def summary(home: ServerHome) -> dict[str, Any]:
    """Return what `fedrec server status --json` prints."""
    address = home.address()
    run = json.loads(home.status.read_text()) if home.status.exists() else None
    return {
        "address": str(address),
        "up": processes.listens(address.port),
        "ended": home.ended.read_text().strip() if home.ended.exists() else None,
        "tls": not address.insecure,
        "devices": [device.device for device in Registry(home).admitted()],
        "run": run,
    }


def in_words(values: dict[str, Any]) -> list[str]:
    """Return the summary as lines for a person."""
    how = "TLS; nothing but devices of admitted keys" if values["tls"] else "without TLS and keys, this machine only"
    lines = [f"{values['address']} is {'up' if values['up'] else 'not up'} ({how})"]
    if values["ended"]:
        lines.append(values["ended"])
    lines.append(f"{len(values['devices'])} devices admitted")
    if run := values["run"]:
        spent = format_epsilon(run["epsilon"])
        lines.append(
            f"run {run['run']}: round {run['round']} of {run['rounds']}, {spent}; {run['answered']} answers, "
            f"{run['declined']} declined, {run['late']} late, {run['refused']} refused"
        )
    return lines
