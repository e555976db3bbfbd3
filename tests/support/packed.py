"""Replies that hold packed whole numbers: what they say, and the largest that they could."""

from collections.abc import Mapping

import numpy as np

from fedrec.federated.exchange import ExpectedUpdate
from fedrec.messages import Arrays, Message
from fedrec.privacy.grid import pack_integers, packed_bits
from fedrec.privacy.mechanisms.protocol import Mechanism


def largest(reply: Message) -> Message:
    """Return a reply whose packed numbers are all the largest that may be packed."""
    most = reply.header["count"] * 2 ** reply.header["grid"]["bits"]
    numbers = {name: 64 * len(words) // packed_bits(most) for name, words in reply.arrays.items()}
    return Message(reply.header, {n: pack_integers(np.full(size, most), most) for n, size in numbers.items()})


def worth_of(reply: Message, mechanism: Mechanism, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Return what the numbers of a reply are worth."""
    form = ExpectedUpdate(mechanism, shapes).form
    assert form is not None
    return form.unpack(reply).values()
