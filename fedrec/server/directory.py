"""Which admitted devices are there now: found by a signed hello, each on the node that its key speaks from."""

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue
from fedrec.federated.exchange import NodeDirectory, Transport
from fedrec.flower.transport import SentRequests
from fedrec.messages import ECHO, LINE, FailedReply, Message, sanitize_text
from fedrec.ops.keys import signed
from fedrec.server.home import Admitted

HELLO_SECONDS, HELLO_BYTES = 60.0, 1 << 18
HELLO_EACH_SECONDS = 1.0  # more, for each node that was asked at once: their answers are pulled one by one
LOOK_SECONDS = 2.0
SILENT_SECONDS = 120.0  # until a node that did not answer a hello is greeted again; doubles each time
STATE_SECONDS = 60.0  # between two lines that say what is waited for
HELLO = {"fedrec": str, "device": str, "proof": str, "evaluates": bool}
Heard = Callable[[int, Message, dict[int, tuple[int, bool]]], None]


class Mail(Transport, Protocol):
    """A transport whose answers are collected whenever one looks."""

    def send(self, requests: Mapping[int, Message], reply_bytes: int, end: float) -> SentRequests:
        """Send each node its request; none of the answers counts after `end`, by `time.monotonic`."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What some nodes were sent, until when they may answer, and what is made of each answer."""

    sent: SentRequests
    until: float
    heard: Heard


@dataclass(frozen=True, slots=True)
class EnrolledDirectory(NodeDirectory):
    """The devices of a server; `hosted` is brought up to date by `refresh`, between rounds."""

    nodes: Mail
    devices: Mapping[str, Admitted] = field(default_factory=dict[str, Admitted])
    catalogue: Catalogue | None = None
    tell: Callable[[str], None] = print
    revoked: Callable[[], Collection[int]] = frozenset  # rows that may not take part at this moment
    barred: set[int] = field(default_factory=set[int])  # the same, when it was last looked
    evaluating: set[int] = field(default_factory=set[int])  # rows whose person lets them be evaluated
    turned_away: dict[int, str] = field(default_factory=dict[int, str])
    silent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    asked: list[Asked] = field(default_factory=list[Asked])  # hellos and catalogues that are still to be answered

    def set_aside(self, faults: Mapping[int, str]) -> None:
        """Ask the devices of these nodes no more in this run."""
        for node, reason in faults.items():
            self.faulty[int(self.hosted[node][0])] = reason
            self.tell_of(node, f"is set aside for this run: {reason}")
            del self.hosted[node]

    def tell_of(self, node: int, what: str) -> None:
        """Say something of the device of a node, in one line of its own."""
        row = int(self.hosted[node][0])
        name = next((d.device for d in self.devices.values() if d.row == row), f"row {row}")
        self.tell(f"device {name} {what}"[:LINE])

    def refresh(self) -> None:
        """Greet nodes that are new, hear those that have answered by now, forget those that are gone or revoked.

        Nobody is waited for here; a node that lies is turned away, the run goes on.
        """
        here, now = set(self.nodes.ids()), time.monotonic()
        for gone in self.hosted.keys() - here:
            del self.hosted[gone]
        self.barred.clear()
        self.barred.update(self.revoked())
        for node in [node for node, rows in self.hosted.items() if int(rows[0]) in self.barred]:
            self.tell_of(node, "was revoked, and is asked no more")
            del self.hosted[node]
        resting = {node for node, (until, _) in self.silent.items() if until > now}
        pending = {node for asked in self.asked for node in asked.sent.unanswered}
        fresh = here - self.hosted.keys() - self.turned_away.keys() - resting - pending
        nonces = {node: secrets.token_hex(16) for node in fresh}
        self._ask({node: self._message("hello", nonce=nonces[node]) for node in fresh}, partial(self._greeted, nonces))
        lacking = self._hear()
        if lacking and self.catalogue is not None:
            header, arrays = wire.encode(self.catalogue)
            request = Message(self._message("catalogue", catalogue=header).header, arrays)
            self._ask(dict.fromkeys(lacking, request), partial(self._taken, lacking))
            self._hear()
        ordered = dict(sorted(self.hosted.items(), key=lambda pair: int(pair[1][0])))
        self.hosted.clear()
        self.hosted.update(ordered)

    def _ask(self, requests: dict[int, Message], heard: "Heard") -> None:
        if requests:
            end = time.monotonic() + HELLO_SECONDS + HELLO_EACH_SECONDS * len(requests)
            self.asked.append(Asked(self.nodes.send(requests, HELLO_BYTES, end), end, heard))

    def _hear(self) -> dict[int, tuple[int, bool]]:
        """Take what was answered by now; return the devices that lack the catalogue, by node: (row, evaluates)."""
        lacking = dict[int, tuple[int, bool]]()
        for asked in list(self.asked):
            while found := list(asked.sent.collect()):
                for node, reply in found:
                    asked.heard(node, reply, lacking)
            if time.monotonic() >= asked.until:
                self._rest(asked.sent.unanswered)
                list(asked.sent.give_up())
            if not asked.sent.unanswered:
                self.asked.remove(asked)
        return lacking

    def _rest(self, silent: set[int]) -> None:
        """Greet those who said nothing, or took no catalogue, ever more rarely: after twice as long each time."""
        for node in silent:
            pause = 2 * self.silent.get(node, (0.0, SILENT_SECONDS / 2))[1]
            self.silent[node] = (time.monotonic() + pause, pause)

    def _greeted(
        self, nonces: Mapping[int, str], node: int, reply: Message, lacking: dict[int, tuple[int, bool]]
    ) -> None:
        """Host the device that answered a hello, or turn its node away."""
        if isinstance(reply, FailedReply) and reply.unreachable:
            return  # it was killed, or is being replaced: greeted again at the next look
        if (wrong := self._wrong(reply, nonces.get(node, ""))) is not None:
            self.turned_away[node] = wrong
            self.tell(f"node {node} is turned away: {wrong}"[:LINE])
            return
        header = reply.header
        device = self.devices[header["device"]].row, header["evaluates"]
        if self.catalogue is not None and header["catalogue"] != wire.digest(self.catalogue):
            lacking[node] = device
        else:
            self._host(node, *device)

    def _taken(
        self, sent: Mapping[int, tuple[int, bool]], node: int, reply: Message, _: dict[int, tuple[int, bool]]
    ) -> None:
        """Host the device that took the catalogue."""
        if "error" in reply.header:
            self._rest({node})
            self.tell(f"node {node} did not take the catalogue: {sanitize_text(reply.header['error'])}"[:LINE])
        else:
            self._host(node, *sent[node])

    def _wrong(self, reply: Message, nonce: str) -> str | None:
        """Return what is wrong with a hello, or None."""
        header = reply.header
        if "error" in header:
            return sanitize_text(header["error"])
        if header.get("fedrec") != version("fedrec"):
            return f"it runs fedrec {sanitize_text(header.get('fedrec'))}, the server {version('fedrec')}"
        kinds = {key: type(value) for key, value in header.items() if key not in ECHO}
        if reply.arrays or kinds not in ({**HELLO, "catalogue": str}, {**HELLO, "catalogue": type(None)}):
            return "its hello has other keys or values than a device's"
        if any(header.get(key) != self.header[key] for key in ECHO):
            return "its hello answers another request"
        device, proof = header["device"], header["proof"]
        admitted = self.devices.get(device)
        if admitted is None or admitted.row in self.barred:
            return f"device {sanitize_text(device)} is not admitted"
        if admitted.row in self.faulty:
            return f"device {sanitize_text(device)} is set aside for this run"
        if not signed(admitted.key, f"{self.header['run']} {nonce} {device}", proof):
            return f"it is not device {sanitize_text(device)}: its signature is wrong"
        return None

    def _host(self, node: int, row: int, evaluates: bool) -> None:
        """Put a device on its node; a device that came back as another node has left the old one."""
        for old in [n for n, rows in self.hosted.items() if rows[0] == row]:
            del self.hosted[old]
        self.hosted[node] = np.array([row], np.int64)
        (self.evaluating.add if evaluates else self.evaluating.discard)(row)

    def _message(self, kind: str, **more: Any) -> Message:
        return Message({**self.header, "kind": kind, "devices": [], **more})

    def wait(self, wanted: int, seconds: float = float("inf")) -> int:
        """Wait until `wanted` devices are there, at most so long; return how many are."""
        end, told = time.monotonic() + seconds, 0.0
        while True:
            self.refresh()
            if len(self.hosted) >= wanted or time.monotonic() >= end:
                return len(self.hosted)
            if time.monotonic() - told >= STATE_SECONDS:
                self.tell(f"waiting for devices: {len(self.hosted)} of {wanted} are there")
                told = time.monotonic()
            time.sleep(LOOK_SECONDS)
