"""Devices of a real server in this process: they speak Flower's Fleet API over TLS, some of them as they should."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.federation import NoOpFederationManager
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrec.device.device import Device
from fedrec.device.home import Home
from fedrec.errors import FedrecError
from fedrec.messages import Message, unpack
from fedrec.numpy_engine import node as _warm  # noqa: F401  # imported before a deadline runs
from fedrec.server.home import Registry, ServerHome
from tests.support.hostile_replies import Asked, Honest, Object, Store

LOOK_SECONDS, BEAT_SECONDS = 0.5, 300.0
Answer = Callable[[Honest], Store | None]  # of an honest reply: what is sent instead, None for nothing


@dataclass
class FleetDevice:
    """One device: its home, and how it answers each kind of message, honestly where nothing is said."""

    home: Home
    server: str
    authority: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    drips: bool = False  # uploads them byte by byte
    uploads: int | None = None  # how many objects of an update at most
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        key = serialization.load_ssh_private_key(self.home.key.read_bytes(), None)
        self._key = key, key.public_key()
        signing = NodeAuthHttpInterceptor(*self._key)  # type: ignore[arg-type]
        versions = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        self._client = FleetHttpClient.from_server_address(
            self.server, False, str(self.authority), interceptors=[versions, signing]
        )

    def connect(self) -> None:
        public = public_key_to_bytes(self._key[1])  # type: ignore[arg-type]
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_MAX_INTERVAL)
        self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        self._beaten = time.monotonic()

    def look(self) -> None:
        """Answer what there is by now; tell now and then that this device is still there, or it is forgotten."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            interval = HEARTBEAT_MAX_INTERVAL
            self._client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=interval))
            self._beaten = time.monotonic()
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        for proto, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            asked = Asked(self._node.node_id, tree.object_id, proto.metadata.message_type, proto.metadata.run_id)
            request = self._read(asked, tree)
            self.heard.append(request.header["kind"])
            self._answer(request, asked)

    def _read(self, asked: Asked, tree: ObjectTree) -> Message:
        while tree.children[0].children:
            tree = tree.children[0]
        contents = list[bytes]()
        for child in tree.children:
            request = PullObjectRequest(node=self._node, run_id=asked.run, object_id=child.object_id)
            while not (found := self._client.PullObject(request)).object_available:
                time.sleep(0.05)
            contents.append(found.object_content.partition(b"\0")[2])
        return unpack(b"".join(contents))

    def _answer(self, request: Message, asked: Asked) -> None:
        try:
            reply = Device(self.home).answer(request)
        except FedrecError as error:
            reply = Message({"error": str(error)})
        honest = Honest(reply, asked)
        store = self.answers.get(request.header["kind"], lambda honest: honest.packed())(honest)
        if store is not None:
            with contextlib.suppress(httpx.HTTPError):  # the SuperLink does not take all of it
                self._push(asked, store, request.header["kind"] in ("train", "evaluate"))

    def _push(self, asked: Asked, store: Store, stalls: bool) -> None:
        head, tree = MessageProto(), store.message.tree()
        head.CopyFrom(store.proto)
        head.metadata.message_id = tree.object_id
        if not head.HasField("error"):
            head.content.SetInParent()
        request = PushMessagesRequest(
            node=self._node, messages_list=[head], message_object_trees=[tree], clientapp_runtime_list=[1.0]
        )
        pushed = self._client.PushMessages(request)
        wanted = set(pushed.objects_to_push)
        for one in unique(store.message.all())[: self.uploads if stalls else None]:
            if one.uploaded and one.name in wanted:
                content = PushObjectRequest(
                    node=self._node, run_id=asked.run, session_id=pushed.session_id, object_id=one.name,
                    object_content=one.content(),
                )  # fmt: skip
                self._drip(content) if self.drips and stalls else self._client.PushObject(content)

    def _drip(self, content: PushObjectRequest) -> None:
        """Upload an object byte by byte."""
        whole, http = content.SerializeToString(), self._client._client
        headers = {
            "content-type": PROTOBUF_MEDIA_TYPE,
            "accept": PROTOBUF_MEDIA_TYPE,
            "content-length": str(len(whole)),
        }

        def slowly() -> Generator[bytes]:
            for place in range(len(whole)):
                time.sleep(1.0)
                yield whole[place : place + 1]

        url = f"https://{self.server}/v1/fleet/push-object"
        request = http.build_request("POST", url, content=slowly(), headers=headers)
        self._client._send(ProtobufRequestContext("/flwr.proto.Fleet/PushObject", content, request))


def unique(objects: Iterable[Object]) -> list[Object]:
    return list({one.name: one for one in objects}.values())


@contextlib.contextmanager
def played(devices: list[FleetDevice], threads: int = 4) -> Generator[None]:
    """Let the devices answer, a few at a time, until the block ends."""
    over = threading.Event()

    def play(mine: list[FleetDevice]) -> None:
        for device in mine:
            device.connect()
        while not over.is_set():
            for device in mine:
                with contextlib.suppress(httpx.HTTPError):  # tried again, as a SuperNode does
                    device.look()
            over.wait(LOOK_SECONDS)

    workers = [threading.Thread(target=play, args=(devices[n::threads],), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        over.set()
        for worker in workers:
            worker.join(30)


def admit_all(home: ServerHome) -> None:
    """Register all admitted devices in Flower's own database: its command takes seconds for each."""
    registry = Registry(home)
    state = LinkStateFactory(
        str(home.database), NoOpFederationManager(), ObjectStoreFactory(str(home.database))
    ).state()
    for device in registry.admitted():
        key = serialization.load_ssh_public_key(device.key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key_to_bytes(key), 0)
        registry.registered(device.device)
