"""What the same run costs at another delta: epsilon at the configured delta, and at users^-1.1.

    python -m fedrec.study.deltas dataset=ml-1m dataset.path=FILE model=order privacy=user --epsilons 1 2 4 8

Nothing is trained and nobody is charged: the noise is calibrated as for a run, and the events that its rounds would be
charged with are accounted at both. One line for each epsilon.
"""

import argparse
import json
from dataclasses import asdict, dataclass

from fedrec.errors import FedrecError
from fedrec.experiment.settings import Settings, load
from fedrec.node.node import load_dataset
from fedrec.privacy.accounting.composition import epsilon_of
from fedrec.privacy.ledger.projection import projected
from fedrec.privacy.mechanisms.protocol import Mechanism, Plan


@dataclass(frozen=True, slots=True)
class Costs:
    """One run's epsilon at its own delta and at users^-1.1, and the terms of both."""

    unit: str
    neighbouring: str
    trust: str
    delta: float
    epsilon: float
    delta_by_users: float
    epsilon_by_users: float


def costs(mechanism: Mechanism, plan: Plan) -> Costs:
    """Return what all rounds of a plan cost one user at either delta, by a calibrated mechanism at user level."""
    if mechanism.terms.unit != "user":
        raise FedrecError(f"users^-1.1 is for units that are users, not '{mechanism.terms.unit}': take privacy=user")
    total = projected(mechanism, plan, plan.rounds)
    delta, other = mechanism.delta_for(plan), plan.population**-1.1
    terms = mechanism.terms
    return Costs(
        terms.unit, terms.neighbouring, terms.trust, delta, epsilon_of(total, delta), other, epsilon_of(total, other)
    )


def of(settings: Settings) -> Costs:
    """Return the costs of what these settings would train."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    return costs(experiment.mechanism, experiment.plan(dataset))


def main() -> None:
    """Print one JSON object for each epsilon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    for epsilon in options.epsilons:
        print(json.dumps(asdict(of(load([*options.overrides, f"privacy.epsilon={epsilon:g}"])))), flush=True)


if __name__ == "__main__":
    main()
