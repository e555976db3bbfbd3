"""A fedrec message inside a Flower message: one array of bytes that Flower carries and never interprets."""

import sys
from typing import Any, cast

from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedrec import messages

RECORD, ARRAY = "fedrec", "message"
MESSAGE_TYPES = {"hello": "query", "catalogue": "query", "train": "train", "secure": "query", "evaluate": "evaluate"}


def encode(message: messages.Message) -> RecordDict:
    """Pack a fedrec message into the content of a Flower message."""
    data = messages.pack(message)
    array = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
    return RecordDict({RECORD: ArrayRecord({ARRAY: array})})


def decode(content: RecordDict, most_bytes: int = sys.maxsize) -> messages.Message:
    """Unpack the fedrec message; raise `RejectedReplyError` for content that holds none, or more than `most_bytes`."""
    try:
        data = cast(Any, content[RECORD])[ARRAY].data
        if len(data) > most_bytes:
            raise messages.RejectedReplyError(messages.TOO_LARGE)
        return messages.unpack(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise messages.RejectedReplyError(f"not a fedrec message ({type(error).__name__})") from error


def encode_request(node: int, request: messages.Message) -> Message:
    """Address a request to a node."""
    return Message(encode(request), dst_node_id=node, message_type=MESSAGE_TYPES[request.header["kind"]])


def decode_reply(message: Message, most_bytes: int = sys.maxsize) -> messages.Message:
    """Return what a reply holds; one that is larger, or holds no message of ours, becomes a `FailedReply`."""
    if message.has_error():
        return messages.FailedReply.of(f"Flower says: {message.error.reason}", unreachable=True)
    try:
        return decode(message.content, most_bytes)
    except messages.RejectedReplyError as error:
        return messages.FailedReply.of(str(error))
