"""Parts of a package of one's own keep the promises that fedrec's do, by the suites that fedrec publishes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrec.data.catalogue import Catalogue
from fedrec.experiment.instantiate import allow, instantiate
from fedrec.models.base import Recommender
from fedrec.testing import (
    AlgorithmContract,
    DatasetContract,
    MechanismContract,
    ModelContract,
    ServerOptimizerContract,
    run_small,
)
from tests.support.own_package import NAME, importable, write_package


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with importable(write_package(tmp_path_factory.mktemp("own"))) as root:
        allow(NAME)
        yield root


def own(group: str, place: str, **settings: Any) -> Callable[[], Any]:
    """Return what makes a part of the package as a configuration names it: it is imported when it is asked for."""
    return lambda: instantiate({"_target_": f"{NAME}.{place}", **settings}, group)


def own_model(catalogue: Catalogue) -> Recommender:
    return own("model", "model.ShopMf", _partial_=True, dim=3)()(catalogue)


class TestOwnModel(ModelContract):
    make = staticmethod(own_model)


class TestOwnAlgorithm(AlgorithmContract):
    make = staticmethod(own("algorithm", "parts.Momentum"))
    model = staticmethod(own_model)


class TestOwnServerOptimizer(ServerOptimizerContract):
    make = staticmethod(own("algorithm", "parts.Momentum"))
    model = staticmethod(own_model)


class TestOwnMechanism(MechanismContract):
    make = staticmethod(own("privacy", "parts.Promise", clip=0.3))


class TestOwnDataset(DatasetContract):
    make = staticmethod(own("dataset", "parts.Shop"))


def test_they_play_together(package: Path) -> None:
    """Chosen by name from a folder laid out like fedrec's, all of them in one run."""
    conf = package / NAME / "conf"
    parts = {"algorithm/momentum": "Momentum", "privacy/promise": "Promise", "dataset/shop": "Shop"}
    for place, name in parts.items():
        (conf / place).parent.mkdir(exist_ok=True)
        (conf / f"{place}.yaml").write_text(f"_target_: {NAME}.parts.{name}\n")
    chosen = [f"model={NAME}", "algorithm=momentum", "privacy=promise", "dataset=shop"]
    metrics = run_small(*chosen, config_dirs=[conf], allow=[NAME], small=[])
    names = (metrics["model"], metrics["algorithm"], metrics["mechanism"])
    assert names == (NAME, "momentum", "promise")
    assert metrics["dataset"]["users"] == 40 and 0 <= metrics["test"]["full"]["ndcg@10"] <= 1
    assert metrics["privacy"]["unit"] == "user" and metrics["privacy"]["epsilon"] > 0
