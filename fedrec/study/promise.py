"""What stands beside every epsilon that these commands print: its terms, the other relation, and an attacker's gain."""

from fedrec.experiment.settings import Settings
from fedrec.node.node import load_dataset
from fedrec.privacy.ledger.promise import promised


def promise(settings: Settings) -> str:
    """Return what a whole run of these settings promises, as one sentence; nothing is written or charged."""
    dataset = load_dataset(settings.experiment)
    experiment = settings.experiment.calibrated(dataset)
    return promised(experiment.mechanism, experiment.plan(dataset))
