"""`fedrec client status`: in words, whether this device trains, and why not."""

import socket
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fedrec.device import catalogue, saved_state
from fedrec.device.availability import AvailabilityPolicy, System, check_conditions
from fedrec.device.consent.consent import MEANS
from fedrec.device.consent.ledger import format_year
from fedrec.device.device import consent_of
from fedrec.device.home import Home
from fedrec.ops import processes
from fedrec.ops.keys import device_id
from fedrec.ops.prometheus import Metric, text
from fedrec.privacy.guarantee import Trust
from fedrec.privacy.wording import TRUST

CONNECT_SECONDS = 3.0


def status(home: Home, system: System | None = None) -> dict[str, Any]:
    """Return what `fedrec client status --json` prints; no item is named in it."""
    enrolment, store, running = home.enrolment(), home.store(), processes.running(home.path)
    try:
        found = check_conditions(AvailabilityPolicy.of(home), system or System(), datetime.now())
        against = [said for allowed, said in found if not allowed]
        note, model = saved_state.load(store, "note"), saved_state.model(store)
        events = store.history()
        return {
            "device": device_id(home.public_key.read_bytes()),
            "home": str(home.path),
            "server": enrolment.server,
            "up": bool(running),
            "trouble": trouble(enrolment.server, running),
            "may_train": not against,
            "conditions": [{"allowed": allowed, "said": said} for allowed, said in found],
            "why": ", ".join(against) or None,
            "last": None if note is None else {"text": note.header["text"], "at": note.header["at"]},
            "interactions": len(events),
            "privacy": consent_of(home).status(),
            "catalogue": None if (pin := catalogue.pinned(store)) is None else asdict(pin),
            "answered": saved_state.count_answers(store),
            "model_round": None if model is None else model.header["round"],
        }
    finally:
        store.close()


def trouble(server: str, running: dict[str, Any]) -> str | None:
    """Return what keeps a device that is up from its server: what ended it last, or that nobody listens there."""
    if not running or running.get("trouble"):
        return running.get("trouble")
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return f"the server {server} does not answer ({error.strerror or 'no answer'}); it is tried again and again"
    return None


def in_words(values: dict[str, Any]) -> list[str]:
    """Return the status as lines for a person."""
    if not values["up"]:
        state = f"not training: not up (fedrec client up --home {values['home']})"
        state += f"; and {values['why']}" if values["why"] else ""
    elif against := [text for text in (values["trouble"], values["why"]) if text]:
        state = f"not training: {'; and '.join(against)}"
    else:
        state = "ready: trains when the server asks"
    lines = [state, *(f"  {'yes' if c['allowed'] else 'no '}  {c['said']}" for c in values["conditions"])]
    if values["last"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(values["last"]["at"]))
        lines.append(f"last: {values['last']['text']} ({at})")
    privacy = values["privacy"]
    others = [name for name in privacy["trust"] if name != Trust.DEVICE]
    lines += [f"trusts {TRUST[name]}: {MEANS[name]}" for name in others or [Trust.DEVICE]]
    lines += [f"privacy: {line}" for line in format_year(privacy)]
    lines += catalogue.in_words(values["catalogue"] and catalogue.CataloguePin(**values["catalogue"]))
    lines.append(
        f"{values['interactions']:,} interactions kept, {values['answered']:,} rounds answered, "
        f"device {values['device']} of {values['server']}"
    )
    return lines


def page(home: Home) -> str:
    """Return this device's metrics, for whoever may read loopback here: counts, no item and no time of an event."""
    store = home.store()
    try:
        rounds, down, up = saved_state.traffic(store)
        declined = len(consent_of(home).status()["declined"])
    finally:
        store.close()
    return text(
        [
            Metric(f"fedrec_device_{name}", said, float(value), counter=True)
            for name, said, value in (
                ("rounds_answered", "Rounds answered.", rounds),
                ("reasons_declined", "Different reasons for which rounds were declined.", declined),
                ("bytes_down", "Bytes of the requests answered.", down),
                ("bytes_up", "Bytes of the answers.", up),
            )
        ],
        {},
    )
