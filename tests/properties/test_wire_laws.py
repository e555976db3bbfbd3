"""What travels arrives as it was sent, and what was changed on the way is noticed: messages, catalogues, files."""

import csv
import json
import math
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrec.data import catalogue as wire
from fedrec.data.catalogue import Catalogue, common_words, films, multi_hot, split_genres, year_of
from fedrec.data.io.csv_files import COLUMNS, Row, mapping, read_device_file
from fedrec.device.saved_state import request_fingerprint
from fedrec.errors import FedrecError, RefusedError
from fedrec.flower.codec import MESSAGE_TYPES, decode, decode_reply, encode, encode_request
from fedrec.flower.transport import InProcessGrid
from fedrec.messages import HEADER, Message, RejectedReplyError, pack, sanitize_text, unpack, validate_reply

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.text(string.ascii_letters + "/._", min_size=1, max_size=10).filter(lambda name: name != HEADER)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ARRAYS = st.dictionaries(
    NAME,
    st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=3,
)
MESSAGES = st.builds(Message, st.dictionaries(TEXT, JSON, max_size=4), ARRAYS)


def equal(one: Message, other: Message) -> bool:
    if one.header != other.header or one.arrays.keys() != other.arrays.keys():
        return False
    pairs = [(one.arrays[name], other.arrays[name]) for name in one.arrays]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@settings(max_examples=60)
@given(MESSAGES)
def test_a_message_arrives_as_it_was_sent_by_itself_and_inside_flowers(message: Message) -> None:
    assert equal(unpack(pack(message)), message)
    assert equal(decode(encode(message)), message)
    assert pack(unpack(pack(message))) == pack(message)


@settings(max_examples=30)
@given(MESSAGES, st.data())
def test_strides_are_no_part_of_a_message(message: Message, data: st.DataObject) -> None:
    turned = Message(message.header, {name: array.T for name, array in message.arrays.items()})
    assert equal(unpack(pack(turned)), turned)


def test_every_kind_of_request_has_a_handler_and_goes_to_its_node() -> None:
    InProcessGrid(ClientApp(), 1)  # what lets messages be made here
    assert set(MESSAGE_TYPES.values()) == {"query", "train", "evaluate"}
    for kind, handler in MESSAGE_TYPES.items():
        made = encode_request(41, Message({"kind": kind}, {"x": np.arange(3)}))
        assert (made.metadata.dst_node_id, made.metadata.message_type) == (41, handler)
        failed = FlowerMessage(Error(code=0, reason="no such node"), reply_to=made)
        assert decode_reply(failed).header == {"error": "Flower says: no such node"}


ASKED = {"protocol": 1, "run": "r", "round": 3, "hash": "h", "devices": [4, 9]}
HONEST = {"protocol": 1, "run": "r", "round": 3, "hash": "h", "count": 2, "loss": 1.5, "examples": 4}
SHAPES = {"w": (2, 2), "b": (2,)}


@settings(max_examples=150)
@given(st.sampled_from(["protocol", "run", "round", "hash", "count", "loss", "examples"]), JSON)
def test_a_reply_with_one_field_changed_counts_only_where_the_field_still_fits(field: str, value: Any) -> None:
    reply = Message({**HONEST, field: value}, {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    fits = {
        "count": type(value) is int and 0 <= value <= 2,
        "loss": isinstance(value, int | float) and abs(value) < 1e300,
        "examples": type(value) is int and 0 <= value < 2**53,
    }.get(field, value == HONEST[field])
    if fits:
        validate_reply(reply, ASKED, SHAPES)
    else:
        with pytest.raises(RejectedReplyError):
            validate_reply(reply, ASKED, SHAPES)


@pytest.mark.parametrize("count", range(-2, 6))
def test_nobody_answers_for_more_devices_than_were_asked(count: int) -> None:
    reply = Message({**HONEST, "count": count}, {n: np.ones(shape, np.float32) for n, shape in SHAPES.items()})
    if 0 <= count <= 2:
        validate_reply(reply, ASKED, SHAPES)
    else:
        with pytest.raises(RejectedReplyError, match="count is not a number of the devices asked"):
            validate_reply(reply, ASKED, SHAPES)


@given(st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_value_that_is_no_number_anywhere_is_noticed(place: int, value: float) -> None:
    array = np.ones(4, np.float32)
    array[place] = value
    reply = Message(HONEST, {"w": array.reshape(2, 2), "b": np.ones(2, np.float32)})
    with pytest.raises(RejectedReplyError, match="w is not finite"):
        validate_reply(reply, ASKED, SHAPES)


def test_double_precision_is_taken_where_it_was_announced_alone() -> None:
    reply = Message(HONEST, {"w": np.ones((2, 2)), "b": np.ones(2, np.float32)})
    validate_reply(reply, ASKED, SHAPES, frozenset({"w"}))
    for announced in (frozenset[str](), frozenset({"b"})):
        with pytest.raises(RejectedReplyError, match="w is not float32"):
            validate_reply(reply, ASKED, SHAPES, announced)


@given(st.text(max_size=400))
def test_a_strangers_text_is_one_short_line(text: str) -> None:
    told = sanitize_text(text)
    assert len(told) <= 200 and told.isprintable() and told.splitlines() in ([], [told])
    assert all(a == b for a, b in zip(told, text, strict=False) if b.isprintable())


CATALOGUES = st.lists(st.tuples(TEXT, TEXT, st.floats(-9, 9, width=32)), max_size=6).map(
    lambda rows: Catalogue(
        np.array([row[0].rstrip("\0") for row in rows], dtype=np.str_),
        np.array([row[1].rstrip("\0") for row in rows], dtype=np.str_),
        np.array([[row[2], 1.0] for row in rows], np.float32).reshape(len(rows), 2),
        ("year", "genre:a"),
        "item file",
    )
)


@settings(max_examples=60)
@given(CATALOGUES)
def test_a_catalogue_arrives_as_it_was_sent_in_whatever_language(catalogue: Catalogue) -> None:
    again = wire.decode(*wire.encode(catalogue))
    for field in ("ids", "titles"):
        assert getattr(again, field).tolist() == getattr(catalogue, field).tolist()
    assert np.array_equal(again.features, catalogue.features)
    assert (again.feature_names, again.origin) == (catalogue.feature_names, catalogue.origin)
    assert wire.digest(again) == wire.digest(catalogue)


@settings(max_examples=40)
@given(CATALOGUES.filter(len), st.data())
def test_two_catalogues_that_differ_anywhere_have_two_names(catalogue: Catalogue, data: st.DataObject) -> None:
    header, arrays = wire.encode(catalogue)
    row = data.draw(st.integers(0, len(catalogue) - 1))
    features = catalogue.features.copy()
    features[row, 0] += 1
    titles = np.array([f"{t}!" if n == row else t for n, t in enumerate(catalogue.titles.tolist())], dtype=np.str_)
    others = (
        Catalogue(catalogue.ids, titles, catalogue.features, catalogue.feature_names, "item file"),
        Catalogue(catalogue.ids, catalogue.titles, features, catalogue.feature_names, "item file"),
        Catalogue(catalogue.ids, catalogue.titles, catalogue.features, ("year", "genre:b"), "item file"),
        Catalogue(catalogue.ids, catalogue.titles, catalogue.features, catalogue.feature_names, "interactions"),
    )
    assert len({wire.digest(catalogue), *(wire.digest(one) for one in others)}) == 5
    for broken in (
        {**arrays, "ids_end": arrays["ids_end"][::-1] + 1},
        {**arrays, "titles_end": arrays["titles_end"][:-1]},
        {**arrays, "features": arrays["features"][:-1]},
        {name: array for name, array in arrays.items() if name != "ids_text"},
    ):
        with pytest.raises(RefusedError, match="the server sent"):
            wire.decode(header, broken)


def test_features_of_films_by_hand() -> None:
    assert [year_of(title) for title in ("Heat (1995)", "Brazil (1985) ", "It (1990 TV)")] == [1995, 1985, 1990]
    assert math.isnan(year_of("1984")) and math.isnan(year_of("(1984) Now"))
    assert split_genres("Drama|Comedy") == ["Drama", "Comedy"] and split_genres("(no genres listed)") == []
    flags, names = multi_hot([["b"], [], ["a", "b"]])
    assert names == ("a", "b") and flags.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert common_words([["x", "y"], ["x", "x"], ["y", "z"]], 2) == [["x", "y"], ["x", "x"], ["y"]]
    made = films(["1", "2", "3"], ["A", "B", "C"], flags, names, [1990, math.nan, 2000])
    assert made.feature_names == ("genre:a", "genre:b", "year", "position")
    assert made.features[:, 2].tolist() == [1990, 1995, 2000]
    np.testing.assert_allclose(made.features[:, 3], [0, 1 / 3, 2 / 3])


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8).filter(str.strip)
ROWS = st.lists(
    st.tuples(CELL.map(str.strip), st.floats(0, 1e10), st.floats(-5, 5), CELL.map(str.strip)).map(
        lambda row: Row(*row)
    ),
    max_size=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, order=st.permutations(COLUMNS))
def test_a_devices_file_is_read_as_the_csv_module_writes_it(rows: list[Row], order: list[str], tmp_path: Path) -> None:
    path = tmp_path / "device.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([order, *([getattr(row, name) for name in order] for row in rows)])
    assert read_device_file(path) == rows
    renamed = path.read_text(encoding="utf-8").replace(",".join(order), ",".join(f"their {name}" for name in order), 1)
    path.write_text(renamed, encoding="utf-8", newline="")
    assert read_device_file(path, {"item": "their item"}) == [Row(row.item, 0.0, 1.0, "event") for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item,time\n", ""),
        ("item,time\n\na,1\n", ""),
        ("time,value\n1,2\n", r"device\.csv:1: no column 'item' among time, value; --columns item=NAME names it"),
        ("item,tiem\na,1\n", r"device\.csv:1: column 'tiem' is not known\. Did you mean 'time'"),
        ("item,time\na,1,2\n", r"device\.csv:2: 3 fields where the first line names 2"),
        ("item,time\na,1\n ,2\n", r"device\.csv:3: blank item"),
        ("item,time\na,soon\n", r"device\.csv:2: time 'soon': a finite number"),
        ("item,value\na,inf\n", r"device\.csv:2: value 'inf': a finite number"),
        ('item,time\n"a,1\n', r"device\.csv: not a CSV file in UTF-8"),
        ("", r"device\.csv:1: no column 'item' among none"),
    ],
)
def test_what_is_wrong_with_a_devices_file_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "device.csv"
    path.write_text(text)
    if said:
        with pytest.raises(FedrecError, match=said):
            read_device_file(path)
    else:
        assert len(read_device_file(path)) == text.count("a,")


def test_columns_of_a_device_are_mapped_by_name() -> None:
    assert mapping(None) == {} == mapping("")
    assert mapping("item=movieId, time = timestamp") == {"item": "movieId", "time": "timestamp"}
    for wrong in ("item", "item=", "itme=x", "=x"):
        with pytest.raises(FedrecError, match=r"NAME=COLUMN,\.\.\. is expected"):
            mapping(wrong)


@settings(max_examples=40)
@given(ARRAYS.filter(len), st.data())
def test_two_requests_have_one_name_only_where_they_ask_for_the_same(
    arrays: dict[str, Any], data: st.DataObject
) -> None:
    header = {"run": "r", "round": 2, "hash": "h", "part": "train", "kind": "train", "privacy": {"clip": 1.0}}
    name = request_fingerprint(Message(header, arrays))
    assert request_fingerprint(Message({**header, "extra": 1}, dict(reversed(arrays.items())))) == name
    assert request_fingerprint(unpack(pack(Message(header, arrays)))) == name
    for key in header:
        assert request_fingerprint(Message({**header, key: json.dumps(header[key]) + "?"}, arrays)) != name
    which = data.draw(st.sampled_from(sorted(arrays)))
    changed = np.append(arrays[which].reshape(-1), arrays[which].dtype.type(1))
    assert request_fingerprint(Message(header, {**arrays, which: changed})) != name
    reshaped = {**arrays, which: arrays[which][None]}
    assert request_fingerprint(Message(header, reshaped)) != name, "the same bytes of another shape"
