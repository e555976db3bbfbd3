"""Which admitted devices are there now: found by a signed hello, each on the node that its key speaks from."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue
from fedrec.federated.exchange import NodeDirectory
from fedrec.messages import FailedReply, Message, sanitize_text
from fedrec.ops.keys import signed
from fedrec.server.home import Admitted

HELLO_SECONDS, HELLO_BYTES = 60.0, 1 << 18
LOOK_SECONDS = 2.0
SILENT_SECONDS = 120.0  # until a node that did not answer a hello is greeted again; doubles each time
STATE_SECONDS = 60.0  # between two lines that say what is waited for


@dataclass(frozen=True, slots=True)
class EnrolledDirectory(NodeDirectory):
    """The devices of a server; `hosted` is brought up to date by `refresh`, between rounds."""

    devices: Mapping[str, Admitted] = field(default_factory=dict[str, Admitted])
    catalogue: Catalogue | None = None
    tell: Callable[[str], None] = print
    evaluating: set[int] = field(default_factory=set[int])  # rows whose person lets them be evaluated
    turned_away: dict[int, str] = field(default_factory=dict[int, str])
    silent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])

    def set_aside(self, faults: Mapping[int, str]) -> None:
        """Ask the devices of these nodes no more in this run."""
        for node, reason in faults.items():
            row = int(self.hosted.pop(node)[0])
            name = next((d.device for d in self.devices.values() if d.row == row), f"row {row}")
            self.faulty[row] = reason
            self.tell(f"device {name} is set aside for this run: {reason}"[:200])

    def refresh(self) -> None:
        """Greet nodes that are new, forget those that are gone; a node that lies is turned away, the run goes on."""
        here = set(self.nodes.ids())
        for gone in self.hosted.keys() - here:
            del self.hosted[gone]
        now = time.monotonic()
        resting = {node for node, (until, _) in self.silent.items() if until > now}
        fresh = here - self.hosted.keys() - self.turned_away.keys() - resting
        nonces = {node: secrets.token_hex(16) for node in fresh}
        hellos = {node: self._message("hello", nonce=nonces[node]) for node in fresh}
        lacking, answered = list[int](), set[int]()
        for node, reply in self.nodes.request(hellos, HELLO_SECONDS, HELLO_BYTES):
            header = reply.header
            if node not in hellos or node in answered:
                continue
            answered.add(node)
            if isinstance(reply, FailedReply) and reply.unreachable:
                continue  # it was killed, or is being replaced: greeted again at the next look
            if (wrong := self._wrong(header, nonces.get(node, ""))) is not None:
                self.turned_away[node] = wrong
                self.tell(f"node {node} is turned away: {wrong}")
                continue
            self._host(node, self.devices[str(header["device"])].row, header.get("evaluates") is True)
            if self.catalogue is not None and header.get("catalogue") != wire.digest(self.catalogue):
                lacking.append(node)
        self._rest(fresh - answered)
        self._send_catalogue(lacking)
        ordered = dict(sorted(self.hosted.items(), key=lambda pair: int(pair[1][0])))
        self.hosted.clear()
        self.hosted.update(ordered)

    def _rest(self, silent: set[int]) -> None:
        """Greet those who said nothing, or took no catalogue, ever more rarely: after twice as long each time."""
        for node in silent:
            pause = 2 * self.silent.get(node, (0.0, SILENT_SECONDS / 2))[1]
            self.silent[node] = (time.monotonic() + pause, pause)

    def _wrong(self, header: dict[str, Any], nonce: str) -> str | None:
        """Return what is wrong with a hello, or None."""
        if "error" in header:
            return sanitize_text(header["error"])
        if header.get("fedrec") != version("fedrec"):
            return f"it runs fedrec {sanitize_text(header.get('fedrec'))}, the server {version('fedrec')}"
        device, proof = str(header.get("device")), str(header.get("proof"))
        admitted = self.devices.get(device)
        if admitted is None or admitted.revoked:
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

    def _send_catalogue(self, nodes: list[int]) -> None:
        if not nodes or self.catalogue is None:
            return
        header, arrays = wire.encode(self.catalogue)
        request = Message(self._message("catalogue", catalogue=header).header, arrays)
        for node, reply in self.nodes.request(dict.fromkeys(nodes, request), HELLO_SECONDS):
            if "error" in reply.header:
                self.tell(f"node {node} did not take the catalogue: {sanitize_text(reply.header['error'])}")
                self.hosted.pop(node, None)
                self._rest({node})

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
