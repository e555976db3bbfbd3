"""`model=auto`: which model suits data, by what is public of them alone.

Public are: how many users there are, which features the items have, whether rows have times, and the privacy that is
asked for. Nothing that users did is looked at: a choice by what was found in them would have to be paid for in epsilon.

The rule, from the top; the first line that holds decides:

1. single interactions are hidden: `content` if items have features, else `popularity`. Nothing bounds what one
   interaction changes in a statistic of pairs;
2. noise hides what pairs of items tell: `popularity`. The measure is users x mu, mu the Gaussian parameter of epsilon
   and delta (Dong, Roth and Su 2022): the length of what all users add up to, over the noise on it;
3. rows have times: `order`, which items follow which;
4. items have features, and there is noise to smooth: `order` without order, which items are used together;
5. else: `ease`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from fedrec.data.catalogue import Catalogue
from fedrec.data.dataset import Dataset
from fedrec.errors import FedrecError
from fedrec.privacy.accounting.composition import noise_multiplier
from fedrec.privacy.guarantee import Trust, Unit
from fedrec.privacy.mechanisms.protocol import Mechanism, TrainingPlan
from fedrec.privacy.wording import format_epsilon

LEAST_SIGNAL = 700.0  # users x mu: below it, counts alone rise above the noise
POSITION = "position"  # an item's place in a list says nothing of the item


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, the settings that go with it, and why it was chosen, in words."""

    overrides: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{' '.join(self.overrides)}: chosen by model=auto ({self.reason}); model=NAME takes another"


class AutomaticModel:
    """Stands where a model is expected until the data are there: who composes settings replaces it by the choice."""

    name: ClassVar[str] = "auto"

    def __init__(self, catalogue: Catalogue) -> None:
        raise FedrecError("model=auto was not replaced by the model that suits the data; name one, such as model=ease")


def choose_model(dataset: Dataset, mechanism: Mechanism, plan: TrainingPlan) -> Choice:
    """Return what suits a data set under a mechanism, by what is public of both."""
    features = [name for name in dataset.catalogue.feature_names if name != POSITION]
    timed, protects = dataset.facts is None or dataset.facts.order == "time", mechanism.terms.protects
    told = f"{len(features)} item features" if features else "no item features"
    if mechanism.terms.unit == Unit.INTERACTION:
        return Choice((f"model={'content' if features else 'popularity'}",), f"{told}, each interaction hidden")
    users = f"{plan.population:,} {'user' if plan.population == 1 else 'users'}, {format_epsilon(mechanism.epsilon)}"
    if protects and users_times_mu(mechanism, plan) < LEAST_SIGNAL:
        return Choice(("model=popularity",), f"{users}: noise hides what pairs of items tell")
    reason = f"{'times' if timed else 'no times'}, {told}, {users}"
    if timed and dataset.catalogue.feature_names:
        return Choice(("model=order",), reason)
    return Choice(("model=order", "algorithm.order=false") if features and protects else ("model=ease",), reason)


def users_times_mu(mechanism: Mechanism, plan: TrainingPlan) -> float:
    """Return the length of what all users add up to over the noise on it, in one release that spends all of epsilon.

    Each adds a length of at most 1. Where devices add the noise, its square grows with their number.
    """
    multiplier = noise_multiplier(mechanism.epsilon, mechanism.delta_for(plan), ((1.0, 1.0, 1),))
    users = plan.population if mechanism.terms.trust != Trust.DEVICE else math.sqrt(plan.population)
    return users / multiplier
