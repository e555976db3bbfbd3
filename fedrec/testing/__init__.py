"""Contracts for parts of one's own: subclass a suite, say how the part is made, and pytest runs every check.

    import fedrec.testing
    from my_package.models import MyModel

    class TestMyModel(fedrec.testing.ModelContract):
        make = MyModel

fedrec's own models, algorithms and mechanisms are held to the same suites. Needs pytest.
"""

import pytest

for _name in ("models", "algorithms", "mechanisms", "datasets", "optimizers"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")  # before they are imported: a failed check shows its values

from fedrec.testing.algorithms import AlgorithmContract  # noqa: E402
from fedrec.testing.datasets import DatasetContract, run_small  # noqa: E402
from fedrec.testing.mechanisms import MechanismContract  # noqa: E402
from fedrec.testing.models import ModelContract  # noqa: E402
from fedrec.testing.optimizers import ServerOptimizerContract  # noqa: E402

__all__ = [
    "AlgorithmContract",
    "DatasetContract",
    "MechanismContract",
    "ModelContract",
    "ServerOptimizerContract",
    "run_small",
]
