"""The wire format, and replies that must not count. Invariant S1."""

import contextlib
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.messages import Message, RejectedReplyError, pack, unpack, validate_reply

SHAPES = {"emb": (4, 3), "b": (3,)}
ASKED = {"protocol": 1, "run": "r", "round": 3, "hash": "h", "devices": [0, 1, 2]}
ECHO = {"protocol": 1, "run": "r", "round": 3, "hash": "h"}


def honest(**changes: object) -> Message:
    arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return Message({**ECHO, "count": 3, **changes}, arrays)


def replaced(name: str, array: np.ndarray) -> Message:
    return Message(honest().header, {**honest().arrays, name: array})


def test_an_honest_reply_counts_in_whatever_order_its_arrays_come() -> None:
    validate_reply(honest(), ASKED, SHAPES)
    validate_reply(Message(honest().header, dict(reversed(honest().arrays.items()))), ASKED, SHAPES)
    validate_reply(honest(loss=1.5, examples=7), ASKED, SHAPES)


NAN_ROW = np.where(np.eye(4, 3) > 0, np.nan, 1).astype(np.float32)
HOSTILE: dict[str, Callable[[], Message]] = {
    "1 nan_row": lambda: replaced("emb", NAN_ROW),
    "2 one_nan": lambda: replaced("b", np.array([1, np.nan, 1], np.float32)),
    "3 inf": lambda: replaced("emb", np.full((4, 3), np.inf, np.float32)),
    "14 wrong_shape_broadcast": lambda: replaced("emb", np.ones((1, 3), np.float32)),
    "15 wrong_shape": lambda: replaced("emb", np.ones((5, 3), np.float32)),
    "16 wrong_dtype_f64": lambda: replaced("emb", np.ones((4, 3))),
    "17 wrong_dtype_int": lambda: replaced("emb", np.ones((4, 3), np.int64)),
    "18 wrong_dtype_complex": lambda: replaced("emb", np.ones((4, 3), np.complex64)),
    "19 wrong_dtype_str": lambda: replaced("emb", np.full((4, 3), "x")),
    "20 missing_key": lambda: Message(honest().header, {"emb": np.ones((4, 3), np.float32)}),
    "21 extra_key": lambda: replaced("z", np.ones(2, np.float32)),
    "32 loss_nan": lambda: honest(loss=float("nan"), examples=3),
    "29 loss_list": lambda: honest(loss=[1, 2], examples=3),
    "30 examples_missing": lambda: honest(loss=1.0),
    "8 count_huge": lambda: honest(count=10**18),
    "11 count_negative": lambda: honest(count=-1),
    "9 count_nan": lambda: honest(count=float("nan")),
    "count_true": lambda: honest(count=True),
    "count_missing": lambda: Message(ECHO, honest().arrays),
    "36 stale_round": lambda: honest(round=2),
    "37 wrong_run": lambda: honest(run="other"),
    "53 wrong_plan": lambda: honest(hash="other"),
    "54 error": lambda: Message({"error": "out of\nmemory" + "!" * 999}),
    "loss_huge": lambda: honest(loss=10**400, examples=3),
    "examples_huge": lambda: honest(loss=1.0, examples=10**400),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_reply_is_rejected_with_a_reason_that_holds_none_of_its_data(kind: str) -> None:
    with pytest.raises(RejectedReplyError) as caught:
        validate_reply(HOSTILE[kind](), ASKED, SHAPES)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_packing_is_lossless() -> None:
    message = Message({"a": [1, "é"], "n": None}, {"x": np.arange(6).reshape(2, 3), "f": np.array([[1.5]], np.float32)})
    again = unpack(pack(message))
    assert again.header == message.header
    assert all(
        np.array_equal(again.arrays[n], a) and again.arrays[n].dtype == a.dtype for n, a in message.arrays.items()
    )


def claims(shape: list[int]) -> bytes:
    header = json.dumps({"emb": {"dtype": "F32", "shape": shape, "data_offsets": [0, 64]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 200, pack(honest())[:50], claims([10**12]), claims([2**63, 2]), claims([-1]), claims([16])],
    ids=["empty", "garbage", "truncated", "claims 1e12", "overflows", "negative", "no header"],
)
def test_bytes_that_are_no_message_are_rejected_before_they_are_believed(content: bytes) -> None:
    with pytest.raises(RejectedReplyError):
        unpack(content)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_damaged_bytes_never_raise_anything_else(place: int, value: int, cut: int) -> None:
    whole = bytearray(pack(honest()))
    whole[place % len(whole)] = value
    for content in (bytes(whole), bytes(whole[: cut % len(whole)])):
        with contextlib.suppress(RejectedReplyError):
            unpack(content)
