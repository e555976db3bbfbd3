"""Contracts for parts of one's own: subclass a suite, say how the part is made, and pytest runs every check.

    import fedrec.testing
    from my_package.models import MyModel

    class TestMyModel(fedrec.testing.ModelContract):
        make = MyModel

fedrec's own models, algorithms and mechanisms are held to the same suites. Needs pytest.
"""

import pytest

for _name in ("models", "algorithms", "mechanisms", "datasets"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")  # so that a failed check shows the values

from fedrec.testing.algorithms import AlgorithmContract
from fedrec.testing.datasets import DatasetContract, run_small
from fedrec.testing.mechanisms import MechanismContract
from fedrec.testing.models import ModelContract

__all__ = ["AlgorithmContract", "DatasetContract", "MechanismContract", "ModelContract", "run_small"]
