"""What a configuration can get wrong about privacy, named by its key."""

import math

from fedrec.errors import FedrecError, Refused, nearest
from fedrec.privacy.accounting.calibration import Use, composition, noise_multiplier
from fedrec.privacy.accounting.composition import epsilon_of

LARGEST_EPSILON = 1000.0
RANDOMNESS = ("system", "seeded")


def check_positive(name: str, value: float | None) -> None:
    """Raise unless privacy.`name` is a finite number above 0, or null where that was given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise FedrecError(f"privacy.{name}={value}: must be a finite number above 0")


def check_common(epsilon: float, delta: float | None, multiplier: float | None, randomness: str) -> None:
    """Check the fields that every finite mechanism has."""
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise FedrecError(
            f"privacy.epsilon={epsilon}: must lie above 0 and at most at {LARGEST_EPSILON:.0f}; for none, privacy=none"
        )
    if delta is not None and not 0 < delta < 1:
        raise FedrecError(f"privacy.delta={delta}: must lie in (0, 1), below one over the number of privacy units")
    check_positive("noise_multiplier", multiplier)
    if randomness not in RANDOMNESS:
        raise FedrecError(f"privacy.randomness={randomness} does not exist.{nearest(randomness, RANDOMNESS)}")


def multiplier_for(epsilon: float, delta: float, uses: tuple[Use, ...], given: float | None) -> float:
    """Return the smallest noise multiplier that keeps epsilon over `uses`, or the given one if it does so too."""
    if given is None:
        return noise_multiplier(epsilon, delta, uses)
    if (cost := epsilon_of(composition(given, uses), delta)) > epsilon:
        enough = noise_multiplier(epsilon, delta, uses)
        raise Refused(
            f"privacy.noise_multiplier={given} costs epsilon {cost:.2f} over the run, more than "
            f"privacy.epsilon={epsilon}; {enough:.4f} is enough, and null finds it"
        )
    return given
