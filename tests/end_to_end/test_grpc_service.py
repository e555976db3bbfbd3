"""The device's recommender over gRPC: answers from the device's own store, for this machine alone."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fedrec.data import catalogue as catalogues
from fedrec.device import recommender_pb2 as wire
from fedrec.device import recommender_pb2_grpc as stubs
from fedrec.device import saved_state
from fedrec.device.grpc_service import Service, checked_address, started
from fedrec.device.home import Enrolment, Home
from fedrec.device.recommender import DeviceRecommender
from fedrec.device.saved_state import DevicePrivate
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import Message
from tests.support.tiny import catalogue, small

ROOT = Path(__file__).parents[2]
ITEMS = 40


def home_with(path: Path, model: str, events: int = 6) -> Home:
    """A device that has received a model and a catalogue, and used the first items."""
    home = Home(path)
    home.write_enrolment(Enrolment("127.0.0.1:1"))
    store, items = home.store(), catalogue(ITEMS)
    saved_state.save_catalogue(store, Message(*catalogues.encode(items)))
    give_model(store, model)
    for n in range(events):
        store.log_event(f"i{n}", at=float(n))
    store.close()
    return home


def give_model(store: Any, model: str, round_number: int = 3, items: int = ITEMS) -> None:
    experiment, _ = small(f"model={model}", *(["algorithm.head=20"] if model == "ease" else []))
    built, rng = experiment.model(catalogue(items)), np.random.default_rng(round_number)
    arrays = {n: rng.normal(0, 0.5, a.shape).astype(np.float32) for n, a in built.shared_arrays().items()}
    if "head_items" in arrays:
        arrays["head_items"] = np.arange(20, dtype=np.float32)
    header = {"run": "r", "round": round_number, "experiment": experiment.document}
    saved_state.save_model(store, Message(header, arrays))


class Client:
    """A client of one service on a socket in a folder."""

    def __init__(self, home: Home) -> None:
        self.home, self.service = home, Service(home)
        self.address = f"unix:{home.path / 'r.sock'}"
        self.server, _ = started(self.service, self.address)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = stubs.RecommenderStub(self.channel)

    def ids(self, k: int = 5, **more: Any) -> list[str]:
        return [one.id for one in self.stub.Recommend(wire.RecommendRequest(k=k, **more)).items]

    def close(self) -> None:
        self.channel.close()
        self.server.stop(None).wait()
        self.service.close()


@pytest.fixture
def client(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client(home_with(tmp_path / "h", getattr(request, "param", "mf")))
    yield made
    made.close()


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize("client", ["mf", "neumf", "ease", "content", "popularity"], indirect=True)
def test_recommends_what_was_not_used_and_counts_a_new_event_at_once(client: Client) -> None:
    first = client.ids(5)
    assert len(set(first)) == 5 and not {f"i{n}" for n in range(6)} & set(first)
    assert first == client.ids(5) and client.ids(40)[:5] == first and len(client.ids(40)) == ITEMS - 6
    assert first[0] not in client.ids(5, without=[first[0]])
    logged = client.stub.LogEvent(wire.Event(item=first[0], kind="watch"))
    assert logged.new and logged.in_catalogue and first[0] not in client.ids(5)
    again = wire.Event(item="i20", time=5.0)
    assert client.stub.LogEvent(again).new and not client.stub.LogEvent(again).new
    strange = client.stub.LogEvent(wire.Event(item="not in it"))
    assert strange.new and not strange.in_catalogue


def test_a_new_event_moves_the_scores_of_all_other_items(client: Client) -> None:
    before = {one.id: one.score for one in client.stub.Recommend(wire.RecommendRequest(k=40)).items}
    client.stub.LogEvent(wire.Event(item="i30"))
    after = {one.id: one.score for one in client.stub.Recommend(wire.RecommendRequest(k=40)).items}
    assert before.keys() - after.keys() == {"i30"}
    assert np.mean([before[name] != score for name, score in after.items()]) > 0.9


@pytest.mark.parametrize("client", ["mf", "ease", "content", "popularity"], indirect=True)
def test_shares_add_up_to_the_score(client: Client) -> None:
    told = [
        one for one in client.stub.Recommend(wire.RecommendRequest(k=12, explain=True)).items if one.HasField("why")
    ]
    assert told
    for one in told:
        alone = client.stub.Explain(wire.ExplainRequest(item=one.id))
        for why, most in ((one.why, 3), (alone, 6)):
            assert why.score == pytest.approx(one.score, abs=1e-5) and len(why.shares) == most
            listed = sum(share.share for share in why.shares)
            assert why.own + listed + why.others == pytest.approx(one.score, abs=1e-5)
        assert {share.id for share in alone.shares} == {f"i{n}" for n in range(6)} and alone.others == 0
        assert [share.id for share in one.why.shares] == [share.id for share in alone.shares][:3]


@pytest.mark.parametrize("client", ["neumf"], indirect=True)
def test_a_model_that_cannot_tell_says_so(client: Client) -> None:
    code, said = refused(lambda: client.stub.Explain(wire.ExplainRequest(item="i9")))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "can't say why" in said
    assert not any(one.HasField("why") for one in client.stub.Recommend(wire.RecommendRequest(explain=True)).items)
    assert not client.stub.Status(wire.StatusRequest()).explains


def test_forgetting_brings_items_back_and_leaves_nothing_learned(client: Client) -> None:
    store = client.home.store()
    DevicePrivate(store, "r").save(0, {"user.weight": np.ones((1, 32), np.float32)}, 3)
    assert client.stub.Forget(wire.ForgetRequest(item="i2")).interactions == 1
    assert "i2" in client.ids(40) and not np.array_equal(
        saved_state.newest_private(store)["user.weight"], np.ones((1, 32))
    )
    assert client.stub.Forget(wire.ForgetRequest(everything=True)).interactions == 5
    assert len(client.ids(40)) == ITEMS and not store.history() and not saved_state.newest_private(store)
    store.close()
    code, said = refused(lambda: client.stub.Forget(wire.ForgetRequest()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "everything = true" in said


def test_a_new_round_and_events_of_other_processes_are_seen(client: Client) -> None:
    before, store = client.ids(5), client.home.store()
    assert client.stub.Status(wire.StatusRequest()).round == 3
    give_model(store, "mf", 4)
    assert client.ids(5) != before and client.stub.Status(wire.StatusRequest()).round == 4
    now = client.ids(1)[0]
    store.log_event(now)
    store.close()
    assert now not in client.ids(40)


def ranked(client: Client) -> list[tuple[str, float]]:
    return [(one.id, one.score) for one in client.stub.Recommend(wire.RecommendRequest(k=40)).items]


def test_events_that_come_late_or_twice_count_as_if_read_from_the_store(client: Client) -> None:
    for item, at in (("i9", 100.0), ("i8", 2.5), ("i9", 100.0), ("i7", 100.0), ("i7", 50.0)):
        client.stub.LogEvent(wire.Event(item=item, time=at))
    desk = DeviceRecommender(client.home.store())
    assert desk.events() == client.service._recommender.events() and len(desk.events()) == 10
    assert ranked(client) == [(f"i{one.item}", one.score) for one in desk.recommend(40, [])]
    desk.store.close()


def test_model_and_catalogue_are_read_again_only_where_they_changed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.ids()
    read, store = list[str](), client.home.store()
    real_model, real_catalogue = saved_state.model, saved_state.model_catalogue
    monkeypatch.setattr(saved_state, "model", lambda s: (read.append("model"), real_model(s))[1])
    monkeypatch.setattr(saved_state, "model_catalogue", lambda s: (read.append("catalogue"), real_catalogue(s))[1])
    saved_state.note(store, "declined")
    store.log_event("i33")
    assert "i33" not in client.ids(40) and read == []
    give_model(store, "mf", 5)
    assert client.stub.Status(wire.StatusRequest()).round == 5 and read == ["model"]
    saved_state.save_catalogue(store, Message(*catalogues.encode(catalogue(ITEMS + 1))))
    read.clear()
    assert client.stub.Status(wire.StatusRequest()).items == ITEMS and read == ["model", "catalogue"]
    store.close()


def test_a_model_is_served_with_its_own_catalogue_until_another_follows(tmp_path: Path) -> None:
    """A run on other items sends its catalogue first: what is here already goes on, also after a restart."""
    home = home_with(tmp_path / "h", "mf")
    store = home.store()
    before, client = DeviceRecommender(store).recommend(5, []), Client(home)
    served = client.ids()
    for items in (ITEMS + 1, ITEMS + 2):
        saved_state.save_catalogue(store, Message(*catalogues.encode(catalogue(items))))
        assert DeviceRecommender(store).recommend(5, []) == before and DeviceRecommender(store).forget("i20") == 0
        assert client.ids() == served
    give_model(store, "mf", 4, ITEMS + 2)
    assert len(DeviceRecommender(store).recommend(100, [])) == len(client.ids(100)) == ITEMS + 2 - 6
    client.close()
    assert saved_state.model_catalogue(store) is not None and saved_state.load(store, saved_state.OLDER) is None


def test_what_is_too_old_is_forgotten_without_any_training(client: Client) -> None:
    client.home.policy.write_text("[store]\nretention_days = 1\n")
    client.stub.LogEvent(wire.Event(item="i30"))
    client.service.look()
    assert client.stub.Status(wire.StatusRequest()).interactions == 1 and len(client.ids(40)) == ITEMS - 1


def test_status_counts_and_names_no_item(client: Client) -> None:
    said = client.stub.Status(wire.StatusRequest())
    assert (said.items, said.interactions, said.model, said.run) == (ITEMS, 6, "MatrixFactorization", "r")
    assert said.explains and "i2" not in str(said)


MISTAKES = {
    "an unknown item": (
        lambda s: s.Explain(wire.ExplainRequest(item="item 3x")),
        "NOT_FOUND",
        "no item is called",
    ),
    "an unknown item to leave out": (
        lambda s: s.Recommend(wire.RecommendRequest(without=["?"])),
        "NOT_FOUND",
        "'?'",
    ),
    "too many": (lambda s: s.Recommend(wire.RecommendRequest(k=10**6)), "INVALID_ARGUMENT", "at most 1000"),
    "an event without an item": (lambda s: s.LogEvent(wire.Event()), "INVALID_ARGUMENT", "item is empty"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_a_code_and_words(client: Client, mistake: str) -> None:
    call, code, words = MISTAKES[mistake]
    found, said = refused(lambda: call(client.stub))
    assert found.name == code and words in said


def test_before_the_first_round_events_are_kept_and_the_rest_says_what_is_missing(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    home.write_enrolment(Enrolment("127.0.0.1:1"))
    client = Client(home)
    assert client.stub.LogEvent(wire.Event(item="i1")).new
    code, said = refused(lambda: client.ids())
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "no model has reached this device" in said
    assert client.stub.Status(wire.StatusRequest()).interactions == 1
    client.close()


def test_health_and_reflection_answer_and_many_clients_at_once(client: Client) -> None:
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", "fedrec.v1.Recommender"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    reflected = reflection.ServerReflectionInfo(iter([asked]))
    names = {service.name for service in next(reflected).list_services_response.service}
    assert {"fedrec.v1.Recommender", "grpc.health.v1.Health"} <= names
    with ThreadPoolExecutor(8) as pool:
        assert len({tuple(ids) for ids in pool.map(lambda _: client.ids(5), range(40))}) == 1


def test_the_socket_is_its_owners_alone_and_a_second_service_is_refused(client: Client) -> None:
    path = client.home.path / "r.sock"
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with pytest.raises(FedrecError, match=r"answers at .* already"):
        started(client.service, client.address)


def test_a_socket_left_by_a_killed_service_is_taken_over_and_a_file_is_not(tmp_path: Path) -> None:
    home = home_with(tmp_path / "h", "popularity")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.path / "r.sock"))
    client = Client(home)
    assert len(client.ids(3)) == 3
    client.close()
    (tmp_path / "file").write_text("mine")
    service = Service(home)
    with pytest.raises(FedrecError, match="is no socket"):
        started(service, f"unix:{tmp_path / 'file'}")
    service.close()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("address", ["0.0.0.0:5000", "192.168.0.7:5000", "[::]:80", "example.org:80"])
def test_nothing_but_this_machine_may_ask(address: str) -> None:
    with pytest.raises(RefusedError, match="recommendations are for itself"):
        checked_address(address)


def test_addresses_of_this_machine_pass_and_nonsense_is_named() -> None:
    for good in ("unix:/run/r.sock", "127.0.0.1:0", "localhost:8100", "[::1]:8100"):
        assert checked_address(good) == good
    for bad in ("8100", "127.0.0.1:x", "127.0.0.1:99999"):
        with pytest.raises(FedrecError, match="unix:PATH or HOST:PORT expected"):
            checked_address(bad)
    with pytest.raises(FedrecError, match="at most 100 bytes"):
        checked_address("unix:/" + "x" * 120)


def network_sockets(pid: int) -> list[str]:
    """Return the sockets of a process that are not local to the machine's files."""
    inodes = {
        line.split()[9]
        for kind in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    }
    opened = list[str]()
    for path in list(Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            opened.append(os.readlink(path))
    return [name for name in opened if name.startswith("socket:[") and name[8:-1] in inodes]


def test_a_network_socket_would_be_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert len(network_sockets(os.getpid())) >= 1


def test_the_command_serves_until_it_is_told_to_stop_and_survives_kill(tmp_path: Path) -> None:
    home = home_with(tmp_path / "h", "mf")
    address = f"unix:{home.path / 'recommend.sock'}"
    command = [sys.executable, "-m", "fedrec", "client", "serve", "--home", str(home.path)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=240)
                stub = stubs.RecommenderStub(channel)
                assert len(stub.Recommend(wire.RecommendRequest(k=3)).items) == 3
                assert not network_sockets(process.pid)
                stub.LogEvent(wire.Event(item=f"i{10 + number}"))
        finally:
            process.send_signal(number)
            said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "Recommendations for apps on this device at unix:" in said
    store = home.store()
    assert len(store.history()) == 8
    store.close()


def test_the_service_needs_no_torch(tmp_path: Path) -> None:
    from tests.unit.numpy_engine.test_numpy_engine import BLOCKED

    home = home_with(tmp_path / "h", "mf")
    code = f"""
from pathlib import Path
from fedrec.device.home import Home
from fedrec.device.grpc_service import Service, recommender_pb2
service = Service(Home(Path({json.dumps(str(home.path))})))
print(len(service.Recommend(recommender_pb2.RecommendRequest(k=4, explain=True), None).items), "torch" in sys.modules)
service.close()
"""
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "4 False", done.stderr


def test_the_checked_in_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--grpc_python_out={tmp_path}", "fedrec/device/recommender.proto"], cwd=ROOT, check=True)
    for name in ("recommender_pb2.py", "recommender_pb2_grpc.py"):
        assert (tmp_path / "fedrec/device" / name).read_text() == (ROOT / "fedrec/device" / name).read_text()
