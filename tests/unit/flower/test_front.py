"""The front: what a device needs is passed, byte for byte; every other path, key and size is refused unread."""

import asyncio
import base64
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.superlink.main import create_app
from hypothesis import given
from hypothesis import strategies as st

from fedrec.flower.front import DEVICE_PATHS, FLEET, KEYLESS_PATHS, Front
from fedrec.ops.connections import Limits, Rate

PULL = b"/v1/fleet/pull-messages"
KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
FORM = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


class One:
    """Keys of which one is admitted."""

    def find(self, pem: bytes) -> ec.EllipticCurvePublicKey | None:
        return KEY.public_key() if pem == KEY.public_key().public_bytes(*FORM) else None


def headers(key: ec.EllipticCurvePrivateKey = KEY, late: float = 0.0, named: Any = None) -> list[tuple[bytes, bytes]]:
    """Sign a time as Flower's SuperNode does."""
    time = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=late)).isoformat().encode()
    pem = (named or key).public_key().public_bytes(*FORM)
    return [
        (b"content-type", b"application/x-protobuf"),
        (b"flwr-public-key", base64.b64encode(pem)),
        (b"flwr-timestamp", time),
        (b"flwr-signature", base64.b64encode(key.sign(time, ec.ECDSA(hashes.SHA256())))),
        (b"x-forwarded-for", b"1.2.3.4"),
    ]


async def parts() -> AsyncIterator[bytes]:
    yield b"ans"
    yield b"wer"


class Bench:
    """A front before a SuperLink that notes what it gets."""

    def __init__(self, limits: Limits | None = None, keys: Any = "one") -> None:
        self.got = list[tuple[str, bytes]]()
        self.passed = dict[str, str]()
        self.read = 0
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer), base_url="http://127.0.0.1:1")
        self.front = Front(client, One() if keys == "one" else keys, limits or Limits())

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.passed = dict(request.headers)
        self.got.append((request.url.raw_path.decode(), await request.aread()))
        return httpx.Response(200, content=parts(), headers={"content-type": "x/y", "server": "secret"})

    def ask(
        self, path: bytes = PULL, sent: list[tuple[bytes, bytes]] | None = None, *, method: str = "POST",
        query: bytes = b"", body: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> int:  # fmt: skip
        """Ask once; return the status."""
        said = list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            self.read += 1
            return {"type": "http.request", "body": b"body", "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http", "method": method, "raw_path": path, "path": path.decode("latin-1"), "query_string": query,
            "headers": headers() if sent is None else sent, "client": ("127.0.0.1", 1),
        }  # fmt: skip
        asyncio.run(self.front(scope, body or receive, send))
        self.said = said
        return int(said[0]["status"])


def test_what_an_admitted_device_asks_is_passed_without_what_only_looks_like_it() -> None:
    bench = Bench()
    for path in sorted(DEVICE_PATHS):
        assert bench.ask(path) == 200
    assert bench.got == [(path.decode(), b"body") for path in sorted(DEVICE_PATHS)]
    assert "x-forwarded-for" not in bench.passed and bench.passed["flwr-timestamp"]
    assert bench.said[0]["headers"] and b"server" not in dict(bench.said[0]["headers"])
    assert bench.front.counted == {"passed": len(DEVICE_PATHS)}


def flower_paths() -> list[tuple[bytes, str]]:
    """Return every path and method that the installed SuperLink serves."""
    found = create_app().openapi()["paths"]
    return [(path.encode(), method.upper()) for path, methods in found.items() for method in methods]


def test_no_other_path_of_flowers_is_passed() -> None:
    served = flower_paths()
    assert {path for path, _ in served} >= KEYLESS_PATHS and len(served) > 50, "Flower's list is not what it was"
    for keys, allowed in ((One(), DEVICE_PATHS), (None, KEYLESS_PATHS)):
        bench = Bench(keys=keys)
        for path, method in [*served, (b"/docs", "GET"), (b"/openapi.json", "GET"), (b"/", "GET")]:
            wanted = 200 if method == "POST" and path in allowed else 404
            assert bench.ask(path, method=method) == wanted, path
        assert {path.encode() for path, _ in bench.got} == allowed


def misspelt() -> st.SearchStrategy[bytes]:
    """Draw spellings that some server takes for a path of Flower's."""
    base = st.sampled_from([path for path, _ in flower_paths()])
    changes = st.sampled_from([
        lambda p: p.upper(), lambda p: p.replace(b"/", b"//", 1), lambda p: p + b"/", lambda p: p.replace(b"e", b"%65"),
        lambda p: FLEET + b".." + p[3:], lambda p: FLEET + b"%2e%2e/" + p[4:], lambda p: p.replace(b"/", b"%2f"),
        lambda p: p + b";x", lambda p: p + b"%00", lambda p: b"http://localhost" + p, lambda p: p.replace(b"/", b"\\"),
        lambda p: PULL + b"/../.." + p[3:], lambda p: p + b" ", lambda p: p.replace(b"-", b"_"), lambda p: b"." + p,
    ])  # fmt: skip
    return st.builds(lambda path, change: change(path), base, changes) | st.binary(max_size=60)


@given(misspelt())
def test_no_spelling_is_taken_for_a_path(path: bytes) -> None:
    bench = Bench()
    assert (bench.ask(path) == 404 and not bench.got) or path in DEVICE_PATHS


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post", "CONNECT", "PRI"])
def test_no_other_method_is_passed(method: str) -> None:
    bench = Bench()
    assert bench.ask(method=method) == 404 and not bench.got
    assert bench.ask(query=b"a=b") == 404 and not bench.got


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([], 401),
        (headers(OTHER, named=KEY), 401),
        (headers(late=400), 401),
        (headers(late=-86_400), 401),  # made when the tests are collected: far enough ahead for a long suite
        ([*headers()[:3], (b"flwr-signature", b"!")], 401),
        ([*headers()[:2], (b"flwr-timestamp", b"yesterday"), headers()[3]], 401),
        ([*headers()[:2], (b"flwr-timestamp", b"2026-01-01T00:00:00"), headers()[3]], 401),
    ],
)
def test_nobody_without_an_admitted_key_is_passed(sent: list[tuple[bytes, bytes]], status: int) -> None:
    bench = Bench()
    assert bench.ask(sent=sent) == status and not bench.got
    assert bench.front.counted == {"unsigned": 1}


def test_a_key_that_is_not_admitted_is_told_so_in_flowers_way() -> None:
    bench = Bench()
    for path in sorted(DEVICE_PATHS):
        assert bench.ask(path, headers(OTHER)) == (412 if path.endswith(b"/activate-node") else 401)
    assert not bench.got and bench.front.counted == {"not_admitted": len(DEVICE_PATHS)}


def test_a_large_body_of_a_stranger_is_never_read_and_its_connection_closed() -> None:
    bench = Bench()
    for length, status in ((60 << 20, 401), (200 << 20, 413)):
        assert bench.ask(sent=[(b"content-length", str(length).encode())]) == status
        assert (b"connection", b"close") in bench.said[0]["headers"]
    assert bench.read == 0 and not bench.got


def test_a_devices_body_ends_at_the_limit_and_at_its_time() -> None:
    bench = Bench(Limits(body_mib=1, body_seconds=0.05))

    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(1 << 18), "more_body": True}

    async def silent() -> dict[str, Any]:
        await asyncio.sleep(5)
        raise AssertionError

    assert bench.ask(body=endless) == 413 and bench.front.counted["size"] == 1
    assert bench.ask(sent=[*headers(), (b"content-length", b"100000")], body=silent) == 408
    assert not bench.got


def test_too_many_requests_are_put_off_so_that_flower_tries_again() -> None:
    bench = Bench(Limits(device_requests_per_second=1.0))
    assert [bench.ask() for _ in range(4)] == [200, 200, 503, 503]
    assert bench.front.counted == {"passed": 2, "rate": 2}


def test_a_rate_fills_up_again_and_forgets_who_asked_long_ago() -> None:
    now = [0.0]
    rate = Rate(1.0, lambda: now[0])
    assert [rate.take("a") for _ in range(3)] == [True, True, False]
    now[0] = 1.0
    assert rate.take("a") and not rate.take("a") and rate.take("b")
    for who in range(5000):
        rate.take(who)
    assert rate.take("a")
