"""A secret shared among holders: any `threshold` of them can rebuild it, and fewer learn nothing of it.

Shamir, "How to share a secret", 1979, over the whole numbers modulo the least prime above 2^256, so that any 32 bytes
are a secret. Holder number i = 1, 2, ... has the value at i of a random polynomial that is the secret at 0. Numbers of
holders are small, so that a Lagrange weight is a quotient of products of small numbers: exact, and quick.

Python's whole numbers take a time that depends on their values. A share is made once, by the one who knows the secret,
and rebuilt by the one who may; who measures times on that machine is not defended against.
"""

import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import accumulate

from fedrec.errors import FedrecError

PRIME = (1 << 256) + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
COEFFICIENT_BYTES = 48  # so that a coefficient is uniform to 2^-128


def split_secret(
    secret: bytes, holders: int, threshold: int, random: Callable[[int], bytes] = os.urandom
) -> list[bytes]:
    """Return the shares of holders 1 to `holders`, 33 bytes each; any `threshold` of them give the secret back.

    `random(n)` gives n random bytes. A secret that is not 32 bytes, or a threshold that is not between 1 and `holders`,
    is `FedrecError`.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise FedrecError(f"{len(secret)} bytes can't be shared among {holders} so that {threshold} rebuild them")
    drawn = random(COEFFICIENT_BYTES * (threshold - 1))
    parts = [drawn[at : at + COEFFICIENT_BYTES] for at in range(0, len(drawn), COEFFICIENT_BYTES)]
    coefficients = [int.from_bytes(part) % PRIME for part in parts] + [int.from_bytes(secret)]
    return [_value_at(place, coefficients).to_bytes(SHARE_BYTES) for place in range(1, holders + 1)]


def rebuild_secret(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of which these are shares, by number of holder: exactly as many as the threshold.

    A share that is no number below the prime, or shares that have no secret in common, are `FedrecError`; wrong shares
    mostly give a wrong secret, which only who knows something about it can notice.
    """
    places = tuple(sorted(shares))
    values = [int.from_bytes(shares[place]) for place in places]
    if any(len(shares[place]) != SHARE_BYTES for place in places) or any(value >= PRIME for value in values):
        raise FedrecError(f"a share is a number below the prime, in {SHARE_BYTES} bytes")
    secret = sum(w * value for w, value in zip(lagrange_weights(places), values, strict=True)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise FedrecError("the shares have no secret in common")
    return secret.to_bytes(SECRET_BYTES)


@lru_cache(maxsize=1 << 14)
def lagrange_weights(places: tuple[int, ...]) -> tuple[int, ...]:
    """Return what to multiply the values at these places with, modulo the prime, for their sum to be that at 0.

    The weight of x is the product over the other places y of y / (y - x).
    """
    product = math.prod(places)
    below = [x * math.prod(y - x for y in places if y != x) for x in places]
    return tuple(product * inverse % PRIME for inverse in _inverses(below))


def _value_at(place: int, coefficients: list[int]) -> int:
    """Return the polynomial's value, its highest coefficient first."""
    value = 0
    for coefficient in coefficients:
        value = (value * place + coefficient) % PRIME
    return value


def _inverses(values: list[int]) -> list[int]:
    """Return 1 / value modulo the prime for all values, for the price of one (Montgomery's trick)."""
    products = list(accumulate(values, lambda a, b: a * b % PRIME, initial=1))
    inverse, found = pow(products[-1], -1, PRIME), list[int]()
    for value, before in zip(reversed(values), reversed(products[:-1]), strict=True):
        found.append(inverse * before % PRIME)
        inverse = inverse * value % PRIME
    return found[::-1]
