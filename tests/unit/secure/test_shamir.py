"""Sharing modulo 2^256 + 297: any threshold of shares gives the secret, and fewer fit any secret."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import FedrecError
from fedrec.secure.shamir import PRIME, SHARE_BYTES, lagrange_weights, rebuild_secret, split_secret

FIXED = json.loads((Path(__file__).parent / "shamir.json").read_text())


def shares_of(secret: bytes, holders: int, threshold: int) -> dict[int, bytes]:
    made = split_secret(secret, holders, threshold, np.random.bytes)
    return dict(enumerate(made, start=1))


def fermat(base: int) -> bool:
    return pow(base, PRIME - 1, PRIME) == 1


def test_the_modulus_is_the_least_prime_above_all_secrets() -> None:
    """By Fermat's test at twenty bases; what lies between fails it at one."""
    assert PRIME > 1 << 256 and all(fermat(base) for base in range(2, 22))
    assert all(pow(3, p - 1, p) != 1 for p in range((1 << 256) + 1, PRIME, 2))


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_every_threshold_of_every_five_holders_rebuilds_it(secret: bytes) -> None:
    for threshold in range(1, 6):
        shares = shares_of(secret, 5, threshold)
        assert all(len(share) == SHARE_BYTES for share in shares.values())
        for places in combinations(shares, threshold):
            assert rebuild_secret({place: shares[place] for place in places}) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """Two shares of a threshold of three: for any secret there is a third share that makes them its own."""
    shares = shares_of(bytes(range(32)), 5, 3)
    weights = lagrange_weights((1, 2, 4))
    known = sum(w * int.from_bytes(shares[place]) for w, place in zip(weights, (1, 2), strict=False))
    for other in (bytes(32), b"\x07" * 32):
        third = (int.from_bytes(other) - known) * pow(weights[2], -1, PRIME) % PRIME
        assert rebuild_secret({1: shares[1], 2: shares[2], 4: third.to_bytes(SHARE_BYTES)}) == other


def test_shares_are_fresh_and_none_is_the_secret() -> None:
    secret = np.random.bytes(32)
    one, two = shares_of(secret, 4, 2), shares_of(secret, 4, 2)
    assert not {*one.values()} & {*two.values()}
    assert all(secret not in share for share in one.values())


def test_the_weights_are_those_of_lagrange() -> None:
    """At any places, they take the powers 1, x, x^2 to 1, 0, 0."""
    places = (2, 3, 7, 90)
    for power, wanted in enumerate((1, 0, 0, 0)):
        assert sum(w * x**power for w, x in zip(lagrange_weights(places), places, strict=True)) % PRIME == wanted


@pytest.mark.parametrize("fixed", FIXED, ids=lambda fixed: f"{fixed['threshold']} of {fixed['holders']}")
def test_fixed_vectors(fixed: dict[str, object]) -> None:
    """Coefficients and shares as another implementation of the same arithmetic wrote them."""
    secret, drawn = bytes.fromhex(str(fixed["secret"])), bytes.fromhex(str(fixed["random"]))
    made = split_secret(secret, fixed["holders"], fixed["threshold"], lambda size: drawn[:size])  # type: ignore[arg-type]
    assert [share.hex() for share in made] == fixed["shares"]


@pytest.mark.parametrize(
    ("length", "holders", "threshold"), [(31, 5, 3), (33, 5, 3), (32, 5, 6), (32, 5, 0), (32, 0, 0)]
)
def test_what_cannot_be_shared_is_named(length: int, holders: int, threshold: int) -> None:
    with pytest.raises(FedrecError, match="can't be shared"):
        split_secret(bytes(length), holders, threshold)


def test_what_is_no_share_is_named() -> None:
    shares = shares_of(bytes(range(32)), 5, 3)
    for wrong in (b"", shares[1][:-1], shares[1] + b"\0", b"\xff" * SHARE_BYTES, PRIME.to_bytes(SHARE_BYTES)):
        with pytest.raises(FedrecError, match="a number below the prime"):
            rebuild_secret({1: wrong, 2: shares[2], 3: shares[3]})
    missing = PRIME - 1 - int.from_bytes(bytes(range(32)))  # to the largest number, which is no secret
    beyond = (int.from_bytes(shares[1]) + missing * pow(lagrange_weights((1, 2, 3))[0], -1, PRIME)) % PRIME
    with pytest.raises(FedrecError, match="no secret in common"):
        rebuild_secret({1: beyond.to_bytes(SHARE_BYTES), 2: shares[2], 3: shares[3]})
