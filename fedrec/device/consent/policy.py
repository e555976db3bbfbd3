"""What the person of a device allows, in the tables [privacy] and [packages] of the device's policy.toml."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from fedrec.errors import FedrecError, suggest
from fedrec.experiment.instantiate import check_package
from fedrec.privacy.guarantee import Trust

TRUST: dict[str, str] = {
    Trust.DEVICE: "nobody but this device",
    Trust.GATEWAY: "the gateway that this device belongs to",
    Trust.SERVER: "the server",
    Trust.NONE: "everybody: nothing is protected",
}
TEMPLATE = """[privacy]
# What a server may ask of this device. A round that asks for more is declined, and nothing is sent.
largest_epsilon_per_year = 10.0  # of all rounds of 365 days together, at this delta
delta = 1e-5
least_noise_multiplier = 0.3     # noise over clip, each time that this device's data are used
largest_clip = 10.0              # how much this device may move the model at once
trust = ["device", "gateway", "server"]  # who may be trusted with what this device sends; "none": no protection at all

[packages]
# allow = ["my_package"]         # installed here by you beside fedrec: a server may ask for its models and algorithms
"""


@dataclass(frozen=True, slots=True)
class ConsentPolicy:
    """The limits of one device. `trust` lists who may be trusted; with "none" in it even unprotected rounds pass."""

    largest_epsilon_per_year: float = 10.0
    delta: float = 1e-5
    least_noise_multiplier: float = 0.3
    largest_clip: float = 10.0
    trust: tuple[str, ...] = (Trust.DEVICE, Trust.GATEWAY, Trust.SERVER)

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str = "policy.toml") -> "ConsentPolicy":
        """Return the policy of a [privacy] table; what it leaves out is as above, and every mistake is named."""
        known = {field.name for field in fields(cls)}
        for key in table:
            if key not in known:
                raise FedrecError(f"{where}: privacy.{key} does not exist.{suggest(key, known)}")
        numbers = {key: _number(value, f"{where}: privacy.{key}") for key, value in table.items() if key != "trust"}
        if numbers.get("delta", 0) >= 1:
            raise FedrecError(f"{where}: privacy.delta={numbers['delta']}: must lie below 1")
        policy = replace(cls(), **numbers)
        return replace(policy, trust=_trust(table["trust"], where)) if "trust" in table else policy

    @classmethod
    def load(cls, path: Path) -> "ConsentPolicy":
        """Return the policy of a file; one that can't be read is an error, never a policy that allows more."""
        return cls.of(read_table(path, "privacy"), str(path))


def read_table(path: Path, name: str) -> dict[str, Any]:
    """Return one table of a policy's file, empty where it has none; a file that can't be read is an error."""
    try:
        table = tomllib.loads(path.read_text()).get(name, {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedrecError(f"{path}: {error}") from error
    if not isinstance(table, dict):
        raise FedrecError(f"{path}: {name} must be a table, [{name}]")
    return cast(dict[str, Any], table)


def packages_of(table: Mapping[str, Any], where: str = "policy.toml") -> tuple[str, ...]:
    """Return the packages that a [packages] table allows by name; none where it says nothing."""
    for key in table:
        if key != "allow":
            raise FedrecError(f"{where}: packages.{key} does not exist.{suggest(key, ('allow',))}")
    names = table.get("allow", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast(list[Any], names)):
        raise FedrecError(f'{where}: packages.allow={names}: a list of names is expected, such as ["my_package"]')
    return tuple(check_package(name, f"{where}: packages.allow:") for name in cast(list[str], names))


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise FedrecError(f"{where}={value}: a number above 0 is expected")
    return float(value)


def _trust(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise FedrecError(f'{where}: privacy.trust={value}: a list is expected, such as ["device"]')
    for name in cast(list[Any], value):
        if name not in TRUST:
            raise FedrecError(f"{where}: privacy.trust: {name} does not exist.{suggest(str(name), TRUST)}")
    return tuple(cast(list[str], value))
