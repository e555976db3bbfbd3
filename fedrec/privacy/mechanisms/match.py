"""Which algorithm may go with which mechanism: only pairs for which there is an argument."""

from fedrec.errors import Refused
from fedrec.privacy.mechanisms.protocol import Mechanism

INSTEAD = {"interaction": "privacy=user", "user": "privacy=interaction"}


def check(algorithm_name: str, mechanism: Mechanism, sensitivity: float | None, unit: str) -> None:
    """Raise `Refused`, naming both, where the algorithm has no sensitivity to one `unit`: noise would hide nothing.

    `sensitivity` is `math.inf` where the mechanism itself bounds the contribution (training), finite for a statistic.
    """
    if unit != "none" and sensitivity is None:
        raise Refused(
            f"{algorithm_name} and {type(mechanism).__name__} have no argument together: nothing bounds what one "
            f"{unit} changes. Try {INSTEAD.get(unit, 'another privacy=')} or privacy=none."
        )
