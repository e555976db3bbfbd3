"""The catalogue that a device has taken, pinned by its hash, features included: a server can't show it another unasked.

A server that chooses the features that one device sees can read its interactions off what it sends (Pham, Kulkarni &
Houmansadr, "RAIFLE", 2023, arXiv 2310.19163). A hash that people can compare shows whether all were sent the same.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue
from fedrec.device import saved_state
from fedrec.device.home import Home
from fedrec.device.limits import DeviceLimits, check_catalogue, check_catalogue_bytes, check_disk
from fedrec.device.store import DeviceStore
from fedrec.errors import FedrecError, OverLimitError, RefusedError
from fedrec.messages import Message

PIN, KEPT_RUNS = "pin", 100
SHORT, LEAST = 16, 8  # letters of a hash as people are shown it, and at least as they give it


@dataclass(frozen=True, slots=True)
class CataloguePin:
    """What was taken: its hash, its number of items, and under which hash each of the newest runs trained.

    `offered` is what a server sent since and this device did not take: its hash, its items, and when; `accepted` a hash
    that its person accepts.
    """

    hash: str
    items: int
    runs: dict[str, str] = field(default_factory=dict[str, str])
    offered: dict[str, Any] | None = None
    accepted: str | None = None


def pinned(store: DeviceStore) -> CataloguePin | None:
    """Return what this device has pinned, if it has a catalogue; one that came before there were pins is pinned now."""
    if (kept := saved_state.load(store, PIN)) is not None:
        return CataloguePin(**kept.header)
    held = saved_state.catalogue(store)
    return None if held is None else _save(store, CataloguePin(wire.digest(held), len(held)))


def take_catalogue(home: Home, store: DeviceStore, request: Message) -> None:
    """Keep the catalogue that a server sent, if it is the first, the same, or one that this device's person accepts.

    Any other is noted as offered, and `RefusedError`; one that is empty, too large, or none, is `OverLimitError`.
    """
    limits, header = DeviceLimits.of(home), request.header.get("catalogue")
    check_catalogue_bytes(limits, header, request)
    check_disk(limits, home.path, request.bytes)
    found = wire.decode(cast(dict[str, Any], header), request.arrays)
    check_catalogue(limits, found)
    digest, before = wire.digest(found), pinned(store)
    if before is not None and digest != before.hash and not _accepted(limits, before, digest, found):
        _note_offer(store, before, digest, len(found))
        raise RefusedError("this device has taken another catalogue; its person is asked")
    with store.transaction():
        saved_state.save_catalogue(store, Message(cast(dict[str, Any], header), request.arrays))
        _save(store, CataloguePin(digest, len(found), {} if before is None else before.runs))


def check_same_in_run(store: DeviceStore, run: str) -> None:
    """Remember under which catalogue a run trains; raise `OverLimitError` where it has trained under another one."""
    pin = pinned(store)
    if pin is None:
        raise RefusedError("this device has no catalogue yet")
    if pin.runs.get(run, pin.hash) != pin.hash:
        raise OverLimitError("the catalogue has changed in the middle of this run: it goes on with a new run alone")
    if run not in pin.runs:
        newest = list({**pin.runs, run: pin.hash}.items())[-KEPT_RUNS:]
        _save(store, replace(pin, runs=dict(newest)))


def accept(store: DeviceStore, digest: str) -> CataloguePin:
    """Let the catalogue be taken whose hash begins so, once a server sends it again; return the new state."""
    pin = pinned(store)
    offered = None if pin is None else pin.offered
    if pin is None or offered is None or len(digest) < LEAST or not str(offered["hash"]).startswith(digest):
        shown = "no other catalogue was offered" if offered is None else f"{offered['hash'][:SHORT]} was offered"
        raise FedrecError(f"--accept {digest}: {shown}; {LEAST} letters of its hash or more are expected")
    return _save(store, replace(pin, accepted=str(offered["hash"])))


def in_words(pin: CataloguePin | None) -> list[str]:
    """Return the state as lines for a person."""
    if pin is None:
        return ["catalogue: none yet"]
    lines = [f"catalogue: {pin.items:,} items, {pin.hash[:SHORT]} (compare it with others': it should be the same)"]
    if pin.offered is not None:
        digest, items = str(pin.offered["hash"])[:SHORT], int(pin.offered["items"])
        waits = "accepted, and taken once the server sends it again"
        todo = waits if pin.accepted == pin.offered["hash"] else f"fedrec client catalogue --accept {digest} takes it"
        lines.append(f"the server offers another one: {items:,} items, {digest}; {todo}")
    return lines


def _accepted(limits: DeviceLimits, before: CataloguePin, digest: str, found: Catalogue) -> bool:
    """Say whether another catalogue may take the place: never by itself where it has fewer items."""
    by_itself = limits.catalogue_changes == "accept" and len(found) >= before.items
    return by_itself or digest == before.accepted


def _note_offer(store: DeviceStore, before: CataloguePin, digest: str, items: int) -> None:
    pin = replace(before, offered={"hash": digest, "items": items, "at": time.time()})
    _save(store, pin)
    saved_state.note(store, in_words(pin)[-1])


def _save(store: DeviceStore, pin: CataloguePin) -> CataloguePin:
    saved_state.save(store, PIN, Message(asdict(pin)))
    return pin
