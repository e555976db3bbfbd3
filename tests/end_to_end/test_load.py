"""A run on real devices under a stranger's load: it ends, and with the same bytes as without."""

import base64
import contextlib
import datetime
import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from simulations.benchmarks.front import connect, resident_mib, send_body
from simulations.devices import Walk, settle

STRANGER = "127.0.0.2"  # another address than the devices', as it would be
SETTINGS = ("model=mf", "privacy=none", "rounds=5")


def hello() -> dict[str, str]:
    """The headers by which a key that nobody admitted says that it is here."""
    key, now = ec.generate_private_key(ec.SECP384R1()), datetime.datetime.now(datetime.UTC).isoformat()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        TIMESTAMP_HEADER: now,
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(key.sign(now.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
    }


class Load:
    """What a stranger does to a port until it is told to stop; `seen` counts what came back."""

    def __init__(self, port: int, authority: Path) -> None:
        self.port, self.authority, self.seen, self.over = port, authority, Counter[str](), threading.Event()

    def bodies(self) -> None:
        self.seen[f"body {send_body(self.port, self.authority, '/v1/fleet/push-messages', 20_000_000, STRANGER)}"] += 1

    def hellos(self) -> None:
        context = ssl.create_default_context(cafile=str(self.authority))
        end = http.client.HTTPSConnection("localhost", self.port, source_address=(STRANGER, 0), context=context)
        with contextlib.closing(end):
            end.request("POST", "/v1/fleet/activate-node", b"", hello())
            self.seen[f"hello {end.getresponse().status}"] += 1

    def slow(self) -> None:
        """Headers a byte at a time, over as many connections as one address may have and more."""
        ends = list[ssl.SSLSocket]()
        for _ in range(120):
            with contextlib.suppress(OSError):
                ends.append(connect(self.port, self.authority, STRANGER))
        for byte in b"POST /v1/fleet/get-run HTTP/1.1\r\n":
            for end in ends:
                with contextlib.suppress(OSError):
                    end.send(bytes([byte]))
            if self.over.wait(1):
                break
        for end in ends:
            end.close()
        self.seen["slow"] += len(ends)

    def repeat(self, act: Callable[[], None]) -> None:
        while not self.over.is_set():
            try:
                act()
            except (OSError, http.client.HTTPException):  # hung up on, as it should be
                self.seen["closed"] += 1
            time.sleep(0.02)

    @contextlib.contextmanager
    def on(self) -> Generator[Counter[str]]:
        threads = [threading.Thread(target=self.repeat, args=(act,)) for act in (self.bodies, self.hellos, self.slow)]
        for thread in threads:
            thread.start()
        try:
            yield self.seen
        finally:
            self.over.set()
            for thread in threads:
                thread.join()


@pytest.mark.slow
def test_a_run_under_load_ends_with_the_same_bytes(tmp_path: Path) -> None:
    steps = Walk(tmp_path)
    with settle(steps, 2, "light"):
        steps.fedrec("quiet", "server", "start", "dataset.path=files/items.csv", *SETTINGS, "name=quiet")
        before = resident_mib(f"fedrec.server.front {tmp_path}")
        load = Load(steps.port, tmp_path / "server" / "certificates" / "ca.crt")
        with load.on() as seen:
            steps.fedrec("loaded", "server", "start", "dataset.path=files/items.csv", *SETTINGS, "name=loaded")
        gained = resident_mib(f"fedrec.server.front {tmp_path}") - before
        time.sleep(2)
        counted = json.loads((tmp_path / "server" / "front.json").read_text())
    quiet, loaded = (tmp_path / "runs" / name / "model.safetensors" for name in ("quiet", "loaded"))
    rounds = [json.loads(line) for line in (loaded.parent / "rounds.jsonl").read_text().splitlines()]
    assert [(row["answered"], row["released"]) for row in rounds] == [(2, True)] * 5
    assert loaded.read_bytes() == quiet.read_bytes()
    assert gained < 64
    assert seen["body 401"] and seen["hello 412"] and seen["slow"], seen
    assert counted["unsigned"] and counted["not_admitted"] and counted["connections"], counted
    print(steps.seconds, seen, f"{gained:.1f} MiB", counted)
