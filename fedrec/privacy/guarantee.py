"""What a mechanism guarantees, in typed terms: unit, neighbouring relation, who is trusted.

The words in JSON are the values of the enums. Plain Python: a device decides on what it is asked with nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class Unit(StrEnum):
    """The unit of privacy: what of a person an epsilon hides."""

    NONE = "none"
    INTERACTION = "interaction"
    USER = "user"


class Relation(StrEnum):
    """The neighbouring relation: which two worlds an epsilon compares."""

    NONE = "none"
    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"


class Trust(StrEnum):
    """Who is trusted with what a device computes before noise is added."""

    NONE = "none"
    DEVICE = "device"  # nobody else
    SUMS = "sums"  # the server sees sums over many devices alone, if it follows the protocol of secure aggregation
    GATEWAY = "gateway"  # the node that holds the user
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class PrivacyGuarantee:
    """What a mechanism promises beside its numbers; `fedrec.privacy.wording.format_guarantee` writes the sentence.

    `sampling` is what the guarantee assumes of who takes part when; "" where the kind of trust says it.
    """

    unit: Unit
    relation: Relation
    trust: Trust
    adversary: str = ""
    release_set: str = ""
    sampling: str = ""

    @property
    def protects(self) -> bool:
        """Say whether it protects anything."""
        return self.unit != Unit.NONE

    @property
    def hides_who_came(self) -> bool:
        """Say whether how many took part in a round is a secret of the server's, on which the guarantee rests.

        Where devices or gateways add the noise, whoever it protects from sees who sends anything.
        """
        return self.trust == Trust.SERVER

    def charges_each_device(self, cohort_rate: float) -> bool:
        """Say whether each device is charged for itself: where whoever it protects from sees who takes part in what.

        A secure sum over everybody in every round is charged to all alike.
        """
        return self.trust in (Trust.DEVICE, Trust.GATEWAY) or (self.trust == Trust.SUMS and cohort_rate < 1)

    def json(self) -> dict[str, str]:
        """Return the guarantee under the keys that every result has for it."""
        return {
            "unit": self.unit,
            "neighbouring": self.relation,
            "trust": self.trust,
            "adversary": self.adversary,
            "release_set": self.release_set,
            "sampling": self.sampling,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the guarantee of a result; what it leaves out is none, or not said."""
        said = {name: str(values.get(name, "")) for name in ("adversary", "release_set", "sampling")}
        return cls(
            unit=Unit(values.get("unit", Unit.NONE)),
            relation=Relation(values.get("neighbouring", Relation.NONE)),
            trust=Trust(values.get("trust", Trust.NONE)),
            **said,
        )


def common_terms(kinds: Iterable[tuple[str, str]]) -> tuple[Unit, Relation]:
    """Return the (unit, relation) in which budgets of these kinds add up: that of one kind alone is its own.

    Several add up in terms that each of them keeps. One interaction where one hides no more; else one user. Replaced by
    any other, for a mechanism that hides whether a user is there lets the user's data change twice as far as they may
    come or go, and a change of one interaction is a change of the user's data.
    """
    found = set(kinds)
    if len(found) == 1:
        ((unit, relation),) = found
        return Unit(unit), Relation(relation)
    alone = Unit.INTERACTION in {unit for unit, _ in found}
    return (Unit.INTERACTION if alone else Unit.USER), Relation.REPLACE_ONE
