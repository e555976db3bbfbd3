"""Real devices: the same result as the simulation, one answer a round, and nobody who was not admitted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrec.cli.main import main
from fedrec.cli.server import run as server_command
from fedrec.device import saved_state
from fedrec.device.device import Device
from fedrec.device.status import status
from fedrec.errors import FedrecError, RefusedError
from fedrec.messages import PROTOCOL, Message
from fedrec.ops.keys import device_id, new_key, sign, signed
from fedrec.privacy.mechanisms import base
from fedrec.privacy.noise import SeededNoise
from fedrec.server import deployment as room
from fedrec.server.runs import completed
from fedrec.server.status import page
from fedrec.storage.run_folder import load_checkpoint
from tests.support.devices import WILLING, Village


@pytest.fixture
def village(tmp_path: Path) -> Village:
    return Village(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GATHER_SECONDS", 0.0)


def arrays(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "model.safetensors")


def train(village: Village, number: int = 1, value: float = 0.0) -> Message:
    """A train request for the first device, as a server would send it."""
    folder = village.path / "runs" / "asked"
    if not folder.exists():
        village.prepare("name=asked")
    session = village.deployment(room.RunFolder(folder)).context()
    state = session.experiment.algorithm.broadcast(
        {n: a + np.float32(value) for n, a in room.load_released_state(session)[1].items()}
    )
    return next(iter(session.directory.requests("train", np.array([0]), state, round=number, privacy={}).values()))


@pytest.mark.parametrize("engine", ["torch", "light"])
def test_devices_and_their_simulation_end_with_the_same_model(tmp_path: Path, engine: str) -> None:
    village = Village(tmp_path, engine=engine)
    folder = village.prepare("name=real")
    village.deployment(folder).carry_out()
    main(["simulate", *village.overrides("name=simulated", f"dataset.histories={village.files}", "nodes=3"),
          "engine=reference", "evaluation.baselines=[]"])  # fmt: skip
    real, simulated = arrays(folder.path), arrays(tmp_path / "runs" / "simulated")
    assert real.keys() == simulated.keys()
    for name, array in simulated.items():
        np.testing.assert_allclose(real[name], array, atol=0 if engine == "torch" else 1e-5, rtol=0)
    assert [json.loads(line)["loss"] for line in (folder.path / "rounds.jsonl").read_text().splitlines()] == [None] * 3
    values = json.loads((folder.path / "metrics.json").read_text())
    assert values["engine"] == "devices" and values["test"] == {"full": {}, "sampled": {}, "users": 0}


@pytest.mark.parametrize("model", ["popularity", "ease", "order", "mf"])
def test_what_devices_release_is_to_the_last_bit_what_their_simulation_releases(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the noise of both drawn from the same seed, which no run on real devices does."""
    monkeypatch.setattr(base, "make_noise_source", lambda randomness, key: SeededNoise(*key))
    settings = ["privacy=user", "privacy.epsilon=8", "privacy.population_epsilon=8", "rounds=3"]
    settings += ["algorithm.shortest_history=2"] if model != "mf" else []  # `auto` knows a simulation's histories
    village = Village(tmp_path, engine="torch", run=["dataset=devices", f"model={model}", *settings])
    folder = village.prepare("name=real")
    village.deployment(folder).carry_out()
    simulated = village.overrides("name=simulated", f"dataset.histories={village.files}", "nodes=2")
    main(["simulate", *simulated, "engine=reference", "evaluation.baselines=[]"])
    real, here = (sorted((tmp_path / "runs" / name / "releases").iterdir()) for name in ("real", "simulated"))
    assert [path.name for path in real] == [path.name for path in here] and len(real) > 0
    assert [path.read_bytes() for path in real] == [path.read_bytes() for path in here]


def test_a_run_on_devices_names_no_item_and_no_loss_unless_allowed(village: Village) -> None:
    village.homes[1].policy.write_text(WILLING + "[sharing]\nevaluation = true\n")
    folder = village.prepare("name=real", "rounds=1")
    village.deployment(folder).carry_out()
    values = json.loads((folder.path / "metrics.json").read_text())
    assert values["test"]["users"] == 1 and 0 <= values["test"]["full"]["hr@10"] <= 1
    assert not list((folder.path / "exact").glob("users*"))


def test_a_message_twice_is_answered_by_the_same_bytes(village: Village) -> None:
    device, request = Device(village.homes[0]), train(village)
    first, second = device.answer(request), device.answer(request)
    assert first.header == second.header and first.header["count"] == 1
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    store = village.homes[0].store()
    assert saved_state.count_answers(store) == 1


def test_a_round_asked_again_for_another_model_is_refused(village: Village) -> None:
    device = Device(village.homes[0])
    device.answer(train(village))
    with pytest.raises(RefusedError, match="answered already, for another model"):
        device.answer(train(village, value=1.0))


def test_killed_between_training_and_writing_it_sends_nothing_for_that_round(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round was charged: it is lost to this device rather than trained twice for one charge."""
    device, request = Device(village.homes[0]), train(village)
    with monkeypatch.context() as patched:
        patched.setattr(saved_state, "save_reply", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            device.answer(request)
    store = village.homes[0].store()
    assert (
        saved_state.count_answers(store) == 0
        and saved_state.newest_private(store) == {}
        and saved_state.model(store) is None
    )
    assert device.answer(request).header["declined"] is True and saved_state.count_answers(store) == 0
    assert device.answer(train(village, number=2)).header["count"] == 1


def test_what_the_policy_forbids_is_declined_and_not_charged(village: Village) -> None:
    home = village.homes[0]
    home.policy.write_text(WILLING.replace(', "none"', ""))
    assert Device(home).answer(train(village)).header["declined"] is True
    values = status(home)
    assert "nothing is protected" in values["last"]["text"] and values["answered"] == 0
    assert len(values["privacy"]["declined"]) == 1


def test_what_was_forgotten_meanwhile_does_not_come_back(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    device, request, home = Device(village.homes[0]), train(village), village.homes[0]
    real = saved_state.DevicePrivate.load

    def forgetful(self: saved_state.DevicePrivate, user: int, before: int) -> dict:
        store = home.store()
        store.forget(store.history()[0].item)
        store.close()
        return real(self, user, before)

    monkeypatch.setattr(saved_state.DevicePrivate, "load", forgetful)
    with pytest.raises(RefusedError, match="forgotten while"):
        device.answer(request)
    assert saved_state.count_answers(home.store()) == 0 and saved_state.newest_private(home.store()) == {}


def test_after_forgetting_a_round_is_not_answered_again(village: Village) -> None:
    device, request = Device(village.homes[0]), train(village)
    device.answer(request)
    store = village.homes[0].store()
    store.forget()
    with pytest.raises(RefusedError, match="has been forgotten"):
        device.answer(request)


def test_a_device_whose_policy_says_no_declines_and_says_why_at_home_only(village: Village) -> None:
    village.homes[0].policy.write_text('[participation]\nidle=false\ncharging=false\nunmetered=false\nhours="3-3"\n')
    village.homes[0].policy.write_text(never())
    reply = Device(village.homes[0]).answer(train(village))
    assert reply.header["declined"] is True and "outside" not in json.dumps(reply.header)
    note = saved_state.load(village.homes[0].store(), "note")
    assert note is not None and "outside" in note.header["text"]


def never() -> str:
    from datetime import datetime

    hour = (datetime.now().hour + 12) % 24
    return WILLING + f'hours = "{hour}-{hour + 1}"\n'


def test_a_round_goes_on_without_those_that_decline(village: Village) -> None:
    village.homes[0].policy.write_text(never())
    folder = village.prepare("name=real", "rounds=1")
    village.deployment(folder).carry_out()
    (line,) = [json.loads(text) for text in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert line["answered"] == 2 and list(line["rejected"].values()) == ["the device declined: its own policy said no"]
    status = json.loads(village.server.status.read_text())
    assert (status["asked"], status["answered"], status["declined"], status["late"]) == (3, 2, 1, 0)


def test_nobody_answering_stops_the_run_instead_of_spending_for_ever(village: Village) -> None:
    for home in village.homes:
        home.policy.write_text(never())
    folder = village.prepare("name=real", "rounds=9")
    with pytest.raises(FedrecError, match="no device answered in 3 rounds"):
        village.deployment(folder).carry_out()
    for home in village.homes:
        home.policy.write_text(WILLING)
    village.deployment(folder).carry_out()
    saved = load_checkpoint(folder.checkpoints)
    assert saved is not None and saved.round == 9


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ("none", "it costs no privacy"),
        ("user_local", "each invited device has spent one participation"),
    ],
)
def test_a_run_stops_after_as_many_lost_rounds_as_are_set_and_says_what_each_cost(
    village: Village, privacy: str, said: str
) -> None:
    for home in village.homes:
        home.policy.write_text(never())
    limits = [] if privacy == "none" else ["privacy.epsilon=4", "privacy.population_epsilon=8"]
    folder = village.prepare("name=real", "rounds=4", f"privacy={privacy}", *limits, "cohort.lost_rounds=2")
    with pytest.raises(FedrecError, match=r"no device answered in 2 rounds.*--resume.*cohort\.lost_rounds"):
        village.deployment(folder).carry_out()
    told = village.told.getvalue()
    assert "round 1 is lost: " in told and told.count(said) == 2 and "round 3" not in told
    assert (privacy == "none") == ("epsilon rose by" not in told)


def told_to_all(village: Village, folder: room.RunFolder) -> dict[str, object]:
    """What anybody may read of a run, less what is drawn anew in each: the model's numbers, hashes and names."""
    found = dict[str, object]()
    for path in sorted(path for path in folder.path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077):
        if all(parent.stat().st_mode & 0o077 for parent in path.parents if folder.path in (parent, *parent.parents)):
            text = path.read_text() if path.suffix in (".json", ".jsonl", ".yaml", ".md") else str(path.stat().st_size)
            text = text.replace(folder.path.name, "run")
            found[path.name] = re.sub(r"[0-9a-f]{12,64}|\"at\": [0-9.]+", "?", text)
    found["prometheus"] = page(village.server).replace(folder.path.name, "run")
    found["prometheus"] = re.sub(r"fedrec_\w+_created.*", "", str(found["prometheus"]))
    return found


@pytest.mark.parametrize("privacy", ["user", "user_adaptive", "banded"])
def test_nothing_public_tells_how_many_came(tmp_path: Path, privacy: str) -> None:
    """Where who came is a secret: with all of them and with nobody, what anybody may read is the same."""
    more = [f"privacy={privacy}", "privacy.epsilon=4", "privacy.population_epsilon=8", "rounds=2"]
    found, models, answers = list[dict[str, object]](), list[dict[str, np.ndarray]](), list[int]()
    for place in ("all", "nobody"):
        village = Village(tmp_path / place)
        for home in village.homes if place == "nobody" else []:
            home.policy.write_text(never())
        folder = village.prepare("name=real", *more, "cohort.lost_rounds=1", "cohort.minimum=2")
        village.deployment(folder).carry_out()
        lines = [json.loads(line) for line in (folder.path / "exact" / "rounds.jsonl").read_text().splitlines()]
        answers.append(sum(line["answered"] for line in lines))
        assert all(line["released"] for line in lines)
        public = told_to_all(village, folder).items()
        found.append({name: str(text).replace(str(village.path), "?") for name, text in public})
        models.append(arrays(folder.path))
    assert answers[0] > 0 == answers[1]
    assert found[0].keys() >= {"metrics.json", "rounds.jsonl", "privacy_card.json", "config.yaml", "prometheus"}
    for name in found[0]:
        assert found[0][name] == found[1][name], name
    assert all(np.any(array != 0) for array in models[1].values()), "nobody came: noise alone"


def test_a_device_that_was_set_aside_stays_so_after_a_resume(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, liar = Device.answer, village.homes[0]

    def lies(self: Device, request: Message) -> Message:
        reply = honest(self, request)
        if request.header["kind"] != "train" or self.home.path != liar.path:
            return reply
        return Message(reply.header, {name: np.full_like(array, np.nan) for name, array in reply.arrays.items()})

    folder = village.prepare("name=real")
    deployment = village.deployment(folder)
    session = deployment.context()
    with monkeypatch.context() as patched:
        patched.setattr(Device, "answer", lies)
        report = next(deployment.rounds(session))
    session.ledger.close()  # type: ignore[attr-defined]
    assert report.answered == 2 and [text for text in report.rejected.values() if text.endswith("is not finite")]
    saved = load_checkpoint(folder.checkpoints)
    assert saved is not None and list(saved.notes["set_aside"]) == ["0"]
    village.deployment(folder).carry_out()
    name = device_id(liar.public_key.read_bytes())
    assert f"is turned away: device {name} is set aside for this run" in village.told.getvalue()
    lines = [json.loads(text) for text in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [2, 2, 2]
    other = village.prepare("name=other", "rounds=1")
    village.deployment(other).carry_out()
    assert json.loads((other.path / "rounds.jsonl").read_text())["answered"] == 3, "for that run alone"


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(village: Village, tmp_path: Path) -> None:
    other = Village(tmp_path / "other")
    whole = other.prepare("name=real")
    other.deployment(whole).carry_out()
    folder = village.prepare("name=real")
    deployment = village.deployment(folder)
    session = deployment.context()
    playing = deployment.rounds(session)
    next(playing)
    session.ledger.reserve(2)  # killed in round 2, after devices had answered it
    state = session.experiment.algorithm.broadcast(load_checkpoint(folder.checkpoints).state)  # type: ignore[union-attr]
    asked = session.directory.requests("train", np.arange(3), state, round=2, privacy={})
    assert len(list(session.directory.nodes.request(asked, 60.0))) == 3
    session.ledger.close()  # type: ignore[attr-defined]
    village.deployment(folder).carry_out()
    assert all(np.array_equal(a, arrays(whole.path)[n]) for n, a in arrays(folder.path).items())
    store = village.homes[0].store()
    assert saved_state.count_answers(store) == 3


def test_who_was_not_admitted_or_lies_is_turned_away_and_the_run_goes_on(village: Village, tmp_path: Path) -> None:
    stranger = Village(tmp_path / "stranger", devices=1).homes[0]
    thief = Village(tmp_path / "thief", devices=1).homes[0]
    thief.public_key.write_bytes(village.homes[0].public_key.read_bytes())
    folder = village.prepare("name=real", "rounds=1")
    village.deployment(folder, [*village.homes, stranger, thief]).carry_out()
    assert "is not admitted" in village.told.getvalue() and "its signature is wrong" in village.told.getvalue()
    (line,) = [json.loads(text) for text in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert line["answered"] == 3


def test_a_signature_is_good_for_its_text_and_key_alone() -> None:
    private, public = new_key()
    signature = sign(private, "run nonce device")
    assert signed(public, "run nonce device", signature)
    assert not signed(public, "run other device", signature) and not signed(new_key()[1], "run nonce device", signature)
    assert not signed(public, "run nonce device", "zz") and len(device_id(public)) == 32
    with pytest.raises(FedrecError, match="not a public key"):
        device_id(b"nonsense")


def test_another_protocol_is_refused(village: Village) -> None:
    with pytest.raises(RefusedError, match="protocol"):
        Device(village.homes[0]).answer(Message({"protocol": PROTOCOL + 1, "kind": "hello"}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["dataset.histories=/tmp"], "stay where they are"),
        (["privacy=user"], "population_epsilon"),
        (["cohort.dropout=0.5"], "real ones do so themselves"),
        (["dataset=synthetic"], "fedrec simulate"),
    ],
)
def test_what_is_no_run_on_real_devices_is_refused_by_name(village: Village, more: list[str], said: str) -> None:
    from fedrec.experiment.settings import load

    base = village.overrides() if "dataset=synthetic" not in more else ["privacy=none"]
    with pytest.raises(FedrecError, match=said):
        completed(village.server, load([*base, *more]).document)


def test_a_private_run_on_devices_is_charged_and_hides_who_answered(village: Village) -> None:
    more = ["privacy=user", "privacy.population_epsilon=8", "rounds=2", "privacy.epsilon=4", "cohort.size=2"]
    folder = village.prepare("name=real", *more)
    village.deployment(folder).carry_out()
    card = json.loads((folder.path / "privacy_card.json").read_text())
    lines = [json.loads(text) for text in (folder.path / "rounds.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["epsilon"] <= 4.0 + 1e-6 and card
    spent = [part for home in village.homes for part in status(home)["privacy"]["spent"]]
    assert all(part["unit"] == "user" and part["promised"] for part in spent)
    assert all(line["answered"] is None and line["bytes_up"] is None for line in lines)


@pytest.mark.parametrize("privacy", ["user_adaptive", "user_local", "gateway", "banded", "interaction"])
def test_every_mechanism_works_on_devices(village: Village, privacy: str) -> None:
    """Each round is charged, answered through the client app and released; a device is a gateway of one."""
    more = [f"privacy={privacy}", "privacy.population_epsilon=8", "rounds=2", "privacy.epsilon=4", "cohort.size=2"]
    for home in village.homes:
        home.policy.write_text(WILLING.replace('["server", "none"]', '["device", "gateway", "server"]'))
    folder = village.prepare("name=real", *more)
    village.deployment(folder).carry_out()
    lines = [json.loads(text) for text in (folder.path / "exact" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2] and sum(line["answered"] for line in lines) > 0
    assert all(line["released"] == (line["answered"] > 0) and line["epsilon"] <= 4.0 + 1e-6 for line in lines)
    # At interaction level a device is charged for the rounds that drew it: before one was, nothing is spent.
    drawn = np.cumsum([line["cohort"] for line in lines])
    charged = [privacy != "interaction" or count > 0 for count in drawn]
    assert [line["epsilon"] > 0 for line in lines] == charged and charged[-1]
    spent = [part for home in village.homes for part in status(home)["privacy"]["spent"]]
    assert spent and {part["unit"] for part in spent} == {"interaction" if privacy == "interaction" else "user"}


def test_without_devices_the_server_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FedrecError, match="server up"):
        server_command(["start", "--home", str(tmp_path / "none")])
    with pytest.raises(FedrecError, match=r"device\.pub"):
        server_command(["admit", str(tmp_path / "none.pub"), "--home", str(tmp_path / "s")])
