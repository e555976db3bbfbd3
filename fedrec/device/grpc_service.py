"""`fedrec client serve`: the device's recommender as a gRPC service for the apps on this device, and nobody else."""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fedrec.device import recommender_pb2, recommender_pb2_grpc
from fedrec.device.home import Home
from fedrec.device.recommender import DeviceRecommender, ModelNotReadyError, UnknownItemError
from fedrec.errors import FedrecError, RefusedError
from fedrec.recommend.ranker import Explainer, Explanation

NAME = recommender_pb2.DESCRIPTOR.services_by_name["Recommender"].full_name
THREADS = 4
LOOK_SECONDS, EXPIRE_SECONDS = 1.0, 3600.0
LARGEST_MESSAGE_BYTES = 1 << 20
DEFAULT_LENGTH, LONGEST = 10, 1000
SHOWN = 3  # reasons of each recommendation
STATUS: dict[type[FedrecError], grpc.StatusCode] = {
    UnknownItemError: grpc.StatusCode.NOT_FOUND,
    ModelNotReadyError: grpc.StatusCode.FAILED_PRECONDITION,
    RefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    FedrecError: grpc.StatusCode.INVALID_ARGUMENT,
}


class Service(recommender_pb2_grpc.RecommenderServicer):
    """The five calls, answered by one thread that alone touches the store."""

    def __init__(self, home: Home) -> None:
        self._home, self._expires = home, 0.0
        self._thread = ThreadPoolExecutor(1)
        self._recommender: DeviceRecommender = self._thread.submit(lambda: DeviceRecommender(home.store())).result()

    def look(self) -> None:
        """Take in what is new, and forget what is too old, before somebody asks."""
        self._thread.submit(self._look).result()

    def _look(self) -> None:
        with contextlib.suppress(FedrecError):  # whoever asks is told
            if time.monotonic() >= self._expires:
                self._expires = time.monotonic() + EXPIRE_SECONDS
                self._recommender.expire(self._home)
            self._recommender.refresh()

    def close(self) -> None:
        """Close the store and end the thread."""
        self._thread.submit(self._recommender.store.close).result()
        self._thread.shutdown()

    def Recommend(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the best items that were not used yet."""
        return self._call(context, lambda: self._recommend(request))

    def LogEvent(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Remember an interaction."""
        value = request.value if request.HasField("value") else 1.0
        at = request.time if request.HasField("time") else None
        return self._call(context, lambda: self._logged(request.item, request.kind or "event", value, at))

    def Explain(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return why an item has its score."""
        return self._call(context, lambda: self._in_words(self._recommender.explain(request.item)))

    def Forget(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Forget one item, or everything."""
        return self._call(context, lambda: self._forgotten(request))

    def Status(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return what there is to recommend from."""
        return self._call(context, self._status)

    def _call(self, context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
        try:
            return self._thread.submit(work).result()
        except FedrecError as error:
            code = next(code for kind, code in STATUS.items() if isinstance(error, kind))
            context.abort(code, str(error))

    def _status(self) -> Any:
        return recommender_pb2.DeviceStatus(**self._recommender.status())

    def _recommend(self, request: Any) -> Any:
        if request.k > LONGEST:
            raise FedrecError(f"k={request.k}: at most {LONGEST} expected")
        found = self._recommender.recommend(request.k or DEFAULT_LENGTH, list(request.without))
        catalogue, told = (
            self._recommender.served().catalogue,
            Explainer(self._recommender.ranker()) if request.explain else None,
        )
        reply = recommender_pb2.Recommendations()
        for one in found:
            line = reply.items.add(id=catalogue.ids[one.item], title=catalogue.titles[one.item], score=one.score)
            why = told and told.of(one.item, one.score, SHOWN)
            if why:
                line.why.CopyFrom(self._in_words(why))
        return reply

    def _logged(self, item: str, kind: str, value: float, at: float | None) -> Any:
        if not item:
            raise FedrecError("item is empty: the id of an item expected")
        new, known = self._recommender.log_event(item, kind, value, at)
        return recommender_pb2.Logged(new=new, in_catalogue=known)

    def _forgotten(self, request: Any) -> Any:
        if not request.item and not request.everything:
            raise FedrecError("say what to forget: item, or everything = true")
        return recommender_pb2.Forgotten(interactions=self._recommender.forget(request.item or None))

    def _in_words(self, found: Explanation) -> Any:
        catalogue = self._recommender.served().catalogue
        told = recommender_pb2.Explanation(score=found.score, own=found.own, others=found.others)
        for reason in found.reasons:
            told.shares.add(id=catalogue.ids[reason.item], title=catalogue.titles[reason.item], share=reason.share)
        return told


def checked_address(address: str) -> str:
    """Return the address if only this machine can reach it: unix:PATH, or HOST:PORT with a loopback host."""
    if address.startswith("unix:"):
        if len(address.removeprefix("unix:").encode()) > 100:
            raise FedrecError(f"{address}: a Unix socket's path holds at most 100 bytes; give a shorter one")
        return address
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise FedrecError(f"--address {address}: unix:PATH or HOST:PORT expected")
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise RefusedError(
            f"--address {address}: this device's recommendations are for itself; use unix:PATH or 127.0.0.1:{port}"
        )
    return address


def started(service: Service, address: str) -> tuple[grpc.Server, int]:
    """Return the started server and its port (for a socket: 1); health and reflection beside the service."""
    limits = [("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=limits)
    recommender_pb2_grpc.add_RecommenderServicer_to_server(service, server)
    state = health.HealthServicer(experimental_non_blocking=True)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    before = os.umask(0o177)  # the socket is its owner's alone from its first moment
    try:
        port = bound(server, address)
        server.start()
    finally:
        os.umask(before)
    for name in ("", NAME):
        state.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, port


def bound(server: grpc.Server, address: str) -> int:
    """Bind the server; a socket that a dead service left is removed, one that answers is an error."""
    path = Path(address.removeprefix("unix:"))
    if address.startswith("unix:") and path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FedrecError(f"{path} exists and is no socket: choose another --address")
        if answers(address):
            raise FedrecError(f"a recommender answers at {address} already")
        path.unlink()
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise FedrecError(f"{address} can't be used: something else is there, or the folder is missing") from error


def answers(address: str) -> bool:
    """Say whether something answers at an address."""
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1.0)
        except grpc.FutureTimeoutError:
            return False
    return True


def serve(home: Home, address: str | None, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT."""
    from fedrec.ops import processes

    place = checked_address(address or f"unix:{home.path / 'recommend.sock'}")
    home.enrolment()
    with processes.stoppable():
        service = Service(home)
        server, port = started(service, place)
        try:
            named = place if place.startswith("unix:") else f"{place.rpartition(':')[0]}:{port}"
            say(f"Recommendations for apps on this device at {named}; Ctrl-C stops it")
            while server.wait_for_termination(LOOK_SECONDS):
                service.look()
        finally:
            server.stop(grace=1.0).wait()
            service.close()
