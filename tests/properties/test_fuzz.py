"""Whatever is made of a valid reply, document or catalogue: no crash, no hang, no growth.

Each case follows from the seed and its number. The default suite plays a fixed number of them; the slow one plays for
FUZZ_SECONDS, ten minutes where nothing is said, and prints the seed.
"""

import hashlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fedrec.data import catalogue as wire
from fedrec.device.derive import derive_rounds
from fedrec.errors import FedrecError
from fedrec.experiment.settings import load
from fedrec.messages import Message, RejectedReplyError, pack, reply_bytes, unpack, unpack_reply, validate_reply
from fedrec.server.deployment import allowed_sums
from fedrec.testing.models import catalogue
from tests.support.hostile_replies import Asked, Honest, Store, metadata, objects_of
from tests.support.mutations import mutate_array, mutate_bytes, mutate_json, mutate_object
from tests.unit.flower.test_replies import answered

SEED = int(os.environ.get("FUZZ_SEED", "15"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
HANGS_SECONDS, GROWTH_MIB, WARM = 30, 32.0, 0.2
SHAPES = {"w": (40, 10), "b": (10,)}
MOST = reply_bytes(SHAPES)
ECHO = {"protocol": 1, "run": "r", "round": 3, "hash": "h"}
ARRAYS = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
TRAIN = Message({**ECHO, "count": 1}, ARRAYS)
EVALUATE = Message({**ECHO, "count": 1, "sums": {"full_hr@10": 1.0, "sampled_ndcg@10": 0.5}})
ITEMS = catalogue(30)


def changed(draw: random.Random, message: Message) -> bytes:
    """Return a message with a part of it changed, packed, or its bytes changed."""
    try:
        match draw.randrange(3):
            case 0:
                return pack(Message(mutate_json(draw, message.header), message.arrays))
            case 1 if message.arrays:
                name = draw.choice(list(message.arrays))
                return pack(Message(message.header, {**message.arrays, name: mutate_array(draw, message.arrays[name])}))
            case _:
                return mutate_bytes(draw, pack(message))
    except (UnicodeEncodeError, AttributeError, TypeError, ValueError):  # what can't be sent at all
        return mutate_bytes(draw, pack(message))


def play_objects(draw: random.Random) -> None:
    asked = Asked()
    objects = objects_of(Honest(TRAIN).data, asked, draw.choice((1 << 20, 500)))
    try:
        for _ in range(draw.choice((1, 1, 2, 4))):
            mutate_object(draw, objects)
        store = Store(objects[0], metadata(asked))
        store.message.tree()
    except (UnicodeEncodeError, IndexError):
        return  # no sender can make it
    reply = answered(store, MOST)
    assert reply is None or isinstance(reply, Message)
    assert store.pulled <= 2 * MOST


def play_replies(draw: random.Random) -> None:
    message = draw.choice((TRAIN, EVALUATE))
    try:
        reply = unpack_reply(changed(draw, message))
        if message is TRAIN:
            validate_reply(reply, {**ECHO, "devices": [4]}, SHAPES, exact=False)
            assert reply.header == TRAIN.header and all(np.isfinite(a).all() for a in reply.arrays.values())
        else:
            assert all(0 <= value <= 1 for value in allowed_sums(reply, ECHO).values())
    except RejectedReplyError as reason:
        assert len(str(reason)) <= 250 and "\n" not in str(reason)


def play_catalogues(draw: random.Random) -> None:
    header, arrays = wire.encode(ITEMS)
    try:
        message = unpack(changed(draw, Message({"catalogue": header}, arrays)))
        found = wire.decode(message.header["catalogue"], message.arrays)
        assert len(wire.digest(found)) == 64
    except (FedrecError, KeyError):
        return


def play_documents(draw: random.Random) -> None:
    document = json.loads(DOCUMENT)
    for _ in range(draw.choice((1, 1, 2))):
        document = mutate_json(draw, document)
    text = json.dumps(document) if draw.random() < 0.9 else mutate_bytes(draw, DOCUMENT.encode()).decode("latin-1")
    header = {"experiment": text, "hash": hashlib.sha256(text.encode(errors="replace")).hexdigest()}
    try:
        derive_rounds(header, ITEMS)
    except FedrecError as error:
        assert str(error)


OVERRIDES = ["dataset=devices", "dataset.devices=3", "model=mf", "model.dim=4", "privacy=none", "rounds=2"]
DOCUMENT = load(OVERRIDES).experiment.document
PLAYS: dict[str, tuple[Callable[[random.Random], None], int]] = {
    "objects": (play_objects, 300),
    "replies": (play_replies, 2000),
    "catalogues": (play_catalogues, 1000),
    "documents": (play_documents, 60),
}


def resident_mib() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def unhung(case: str) -> Iterator[None]:
    """Raise where a case takes longer than any should."""

    def hangs(_: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{case} hangs at {frame}")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(kind: str, going: Callable[[int], Any]) -> tuple[int, float]:
    """Play cases while `going` says so; return how many, and by how much the memory grew after the first fifth."""
    play, fixed = PLAYS[kind]
    number, before = 0, resident_mib()
    while going(number):
        with unhung(f"{kind} {SEED} {number}"):
            try:
                play(random.Random(f"{kind} {SEED} {number}"))
            except Exception as error:
                raise AssertionError(f"FUZZ_SEED={SEED}, case {number} of {kind}") from error
        number += 1
        if number == int(WARM * fixed):
            before = resident_mib()
    return number, resident_mib() - before


@pytest.mark.parametrize("kind", PLAYS)
def test_no_mutation_of_something_valid_crashes_hangs_or_grows(kind: str) -> None:
    count, grown = fuzz(kind, lambda number: number < PLAYS[kind][1])
    assert count == PLAYS[kind][1] and grown < GROWTH_MIB


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAYS)
def test_nor_does_any_in_minutes(kind: str) -> None:
    end = time.monotonic() + SECONDS / len(PLAYS)
    count, grown = fuzz(kind, lambda _: time.monotonic() < end)
    print(f"{kind}, seed {SEED}: {count:,} cases, {grown:+.1f} MiB")
    assert count >= PLAYS[kind][1] and grown < GROWTH_MIB


def test_a_case_is_the_same_whenever_it_is_drawn() -> None:
    one, two = (changed(random.Random("replies 15 7"), TRAIN) for _ in range(2))
    assert one == two != pack(TRAIN)
