"""The front: all that listens outside. It passes what an admitted device needs of Flower's Fleet API, nothing else.

Flower 1.41 answers devices, operators and its own ServerApps on one port, and asks only the first for a key. So the
SuperLink listens on loopback, and this ASGI application stands before it. A request is judged by its raw path, its
declared length and its signature, in this order, before its body is read.
"""

import asyncio
import base64
import binascii
import datetime
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from fedrec.ops.connections import ANSWER_SECONDS, Limits, Rate

FLEET = b"/v1/fleet/"
# A SuperNode ends by itself at a 401; at its first request it says why (exit code 305) only after another status, for
# which Flower takes 412. After a 403 it does neither.
ACTIVATE = FLEET + b"activate-node"
DEVICE_PATHS = frozenset(
    FLEET + name
    for name in (
        b"activate-node", b"deactivate-node", b"send-node-heartbeat", b"pull-messages", b"push-messages", b"get-run",
        b"get-fab", b"push-object", b"pull-object", b"confirm-message-received",
    )
)  # fmt: skip
# A SuperNode without a key of its own makes one at every start and registers it: only where no key is asked for.
KEYLESS_PATHS = DEVICE_PATHS | {FLEET + b"register-node", FLEET + b"unregister-node"}
PASSED_HEADERS = (b"content-type", b"content-length", b"accept")
RETURNED_HEADERS = ("content-type", "content-length")
REFUSED_BODY_BYTES = 64 << 10  # of a refused request, read and dropped so that its sender hears why
REFUSED_BODY_SECONDS = 5.0
REASONS = {
    "path": "another path, method or spelling than a device needs",
    "size": "a body over the limit",
    "unsigned": "no valid signature of the time by the key that is named",
    "not_admitted": "a key that is not admitted",
    "rate": "too many requests from one address or device",
    "slow": "a body that did not arrive in time",
    "upstream": "the SuperLink did not answer",
}


class Keys(Protocol):
    """The public keys that are admitted at this moment."""

    def find(self, pem: bytes) -> ec.EllipticCurvePublicKey | None:
        """Return the admitted key that Flower writes as `pem`, None where there is none."""
        ...


class RefusedRequestError(Exception):
    """A request that goes no further: its HTTP status and why, one of `REASONS`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(slots=True)
class Front:
    """An ASGI application before a SuperLink: `keys` None asks for no key (loopback, without TLS).

    `counted` says how many requests were passed, and how many refused for each of `REASONS`.
    """

    upstream: httpx.AsyncClient
    keys: Keys | None
    limits: Limits
    counted: Counter[str] = field(default_factory=Counter[str])
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
    addresses: Rate = field(init=False)
    devices: Rate = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = Rate(self.limits.address_requests_per_second)
        self.devices = Rate(self.limits.device_requests_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request, or say why not."""
        if scope["type"] != "http":
            return
        try:
            headers = self.judge(scope)
        except RefusedRequestError as refused:
            await self.refuse(refused, scope, receive, send)
            return
        body = Body(receive, self.limits)
        try:
            await self.relay(scope, headers, body, send)
        except RefusedRequestError as refused:
            await self.refuse(refused, scope, body.receive, send)

    def judge(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the headers to pass; raise `RefusedRequestError` by what is known before the body is read."""
        paths = KEYLESS_PATHS if self.keys is None else DEVICE_PATHS
        # The bytes as they came: what another spelling means is nothing that this front decides.
        if scope["method"] != "POST" or scope["query_string"] or scope["raw_path"] not in paths:
            raise RefusedRequestError(404, "path")
        found: list[tuple[bytes, bytes]] = list(scope["headers"])
        headers = dict(found)
        if int(headers.get(b"content-length", b"0")) > self.limits.body_bytes:
            raise RefusedRequestError(413, "size")
        # 503 and not 429: Flower's SuperNode tries again after a 503, and gives up at a 429.
        if not self.addresses.take(scope["client"][0] if scope["client"] else ""):
            raise RefusedRequestError(503, "rate")
        if self.keys is not None:
            self.authenticate(headers, self.keys, 412 if scope["raw_path"] == ACTIVATE else 401)
        return [(name, value) for name, value in found if name in PASSED_HEADERS or name.startswith(b"flwr-")]

    def authenticate(self, headers: Mapping[bytes, bytes], keys: Keys, unknown: int) -> None:
        """Raise `RefusedRequestError`, for a key that is not admitted with the status `unknown`, unless
        an admitted key signed a time of now, as Flower's SuperNode does.

        The key is compared with those admitted, byte for byte: nothing that a stranger sends is parsed as a key.
        """
        timestamp = headers.get(TIMESTAMP_HEADER.encode(), b"")
        try:
            pem = base64.b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.encode(), b""), validate=True)
            signature = base64.b64decode(headers.get(FLEET_HTTP_SIGNATURE_HEADER.encode(), b""), validate=True)
            age = (self.now() - datetime.datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
        except (ValueError, TypeError, OverflowError, binascii.Error):
            raise RefusedRequestError(401, "unsigned") from None
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            raise RefusedRequestError(401, "unsigned")
        if (key := keys.find(pem)) is None:
            raise RefusedRequestError(unknown, "not_admitted")
        try:
            key.verify(signature, timestamp, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise RefusedRequestError(401, "unsigned") from None
        if not self.devices.take(pem):
            raise RefusedRequestError(503, "rate")

    async def relay(self, scope: Scope, headers: list[tuple[bytes, bytes]], body: "Body", send: Send) -> None:
        """Pass the request chunk by chunk, and the answer back."""
        request = self.upstream.build_request(
            "POST", scope["raw_path"].decode("ascii"), headers=headers, content=body.chunks()
        )
        try:
            response = await self.upstream.send(request, stream=True)
        except httpx.HTTPError:
            raise RefusedRequestError(502, "upstream") from None
        try:
            self.counted["passed"] += 1
            await send({"type": "http.response.start", "status": response.status_code, "headers": returned(response)})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()

    async def refuse(self, refused: RefusedRequestError, scope: Scope, receive: Receive, send: Send) -> None:
        """Say no and close the connection, so that what is left of the body is never read."""
        self.counted[refused.reason] += 1
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if refused.reason != "slow" and int(length) <= REFUSED_BODY_BYTES:
            await drain(receive)
        headers = {"connection": "close"} | ({"retry-after": "1"} if refused.status == 503 else {})
        await PlainTextResponse(f"{REASONS[refused.reason]}\n", refused.status, headers)(scope, receive, send)


def returned(response: httpx.Response) -> Iterable[tuple[bytes, bytes]]:
    """Return the headers of the SuperLink's answer that a device is told."""
    for name, value in response.headers.multi_items():
        if name in RETURNED_HEADERS or name.startswith("flwr-"):
            yield name.encode("latin-1"), value.encode("latin-1")


async def drain(receive: Receive) -> None:
    """Drop a small body: a connection that is closed on unread bytes is reset, and its sender hears nothing."""
    read = 0
    try:
        async with asyncio.timeout(REFUSED_BODY_SECONDS):
            while read <= REFUSED_BODY_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


@dataclass(slots=True)
class Body:
    """The body of an admitted request, never held whole; `RefusedRequestError` where it is too long or slow."""

    source: Receive
    limits: Limits
    ended: bool = False

    async def receive(self) -> Message:
        """Return the next part; after the last one, only an empty one."""
        if self.ended:
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self.source()
        self.ended = not message.get("more_body")
        return message

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the parts."""
        read, loop = 0, asyncio.get_running_loop()
        end = loop.time() + self.limits.body_seconds
        while not self.ended:
            try:
                async with asyncio.timeout_at(end):
                    message: dict[str, Any] = dict(await self.receive())
            except TimeoutError:
                raise RefusedRequestError(408, "slow") from None
            if message["type"] == "http.disconnect":
                raise RefusedRequestError(400, "slow")
            chunk: bytes = message.get("body", b"")
            read += len(chunk)
            if read > self.limits.body_bytes:
                raise RefusedRequestError(413, "size")
            if chunk:
                yield chunk


def upstream(port: int, authority: str | None) -> httpx.AsyncClient:
    """Return the way to a SuperLink on loopback, over TLS where `authority` names the certificate to check it by."""
    # Never through a proxy that the environment names, and with no certificates but our own.
    verify = ssl.create_default_context(cafile=authority) if authority else False
    scheme = "https" if authority else "http"
    limits = httpx.Limits(max_connections=128, max_keepalive_connections=32)
    return httpx.AsyncClient(
        base_url=f"{scheme}://127.0.0.1:{port}", headers={"accept-encoding": "identity"},
        verify=verify, trust_env=False, limits=limits, timeout=ANSWER_SECONDS,
    )  # fmt: skip
