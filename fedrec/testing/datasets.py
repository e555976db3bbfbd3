"""What every data set promises; and a small run, to see a part of one's own play with the others."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest

from fedrec.data.dataset import Dataset, DataSource
from fedrec.experiment.extensions import as_overrides
from fedrec.experiment.settings import load
from fedrec.simulation import Simulation, new_run
from fedrec.testing.models import made_by

SMALL = ("dataset=synthetic", "dataset.users=40", "dataset.items=60", "dataset.interactions=900")
QUICK = ("rounds=2", "evaluation.baselines=[]", "privacy=none")


def run_small(
    *overrides: str, config_dirs: Iterable[str | Path] = (), allow: Iterable[str] = (), small: Iterable[str] = SMALL
) -> dict[str, Any]:
    """Run two rounds on forty synthetic users in a folder that is thrown away; return what metrics.json would say.

    `overrides` win; nothing is charged to the ledgers of this machine.
    """
    asked = [*small, *QUICK, *overrides, *as_overrides(config_dirs, allow)]
    with tempfile.TemporaryDirectory() as place, mock.patch.dict(os.environ, FEDREC_STATE=place):
        settings, folder = new_run(load([*asked, f"output={place}", "name=small"]))
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            return Simulation(settings, folder).simulate()


class DatasetContract:
    """Checks of one data set: `make()` builds its source, which loads without a network."""

    make: ClassVar[Callable[[], DataSource]]

    @pytest.fixture(scope="class")
    def dataset(self) -> Dataset:
        """The data set, loaded once."""
        return made_by(type(self))().load()

    def test_rows_lie_within_what_the_tables_say(self, dataset: Dataset) -> None:
        """Items are rows of the catalogue, and everybody has a row of their own."""
        items, users = len(dataset.catalogue), dataset.interactions.users
        assert items > 0 and users > 0 and len(dataset.devices) == users
        for user in range(min(users, 200)):
            device = dataset.devices[user]
            held = np.concatenate([device.history, device.validation, device.test])
            assert device.user == user and ((held >= 0) & (held < items)).all()
            assert len(device.values) == len(device.history)

    def test_test_items_are_held_out(self, dataset: Dataset) -> None:
        """At most one item for validation and for the test, and the split says its rule.

        A publisher's split may hold out more for the test: nothing then that the device has used before.
        """
        assert dataset.split
        for device in (dataset.devices[user] for user in range(len(dataset.devices))):
            assert len(device.validation) <= 1
            assert len(device.test) <= 1 or not np.isin(device.test, device.known).any()

    def test_items_have_ids_titles_and_finite_features(self, dataset: Dataset) -> None:
        """Ids are unique, so that a catalogue can travel and be looked up."""
        catalogue = dataset.catalogue
        assert len(set(catalogue.ids.tolist())) == len(catalogue) == len(catalogue.titles)
        assert catalogue.features.shape == (len(catalogue), len(catalogue.feature_names))
        assert np.isfinite(catalogue.features).all()

    def test_loading_again_gives_the_same(self, dataset: Dataset) -> None:
        """The population's name too: it is whose privacy is spent."""
        again = made_by(type(self))().load()
        assert again.population == dataset.population and dataset.population
        assert again.catalogue.ids.tolist() == dataset.catalogue.ids.tolist()
        for user in range(min(len(dataset.devices), 50)):
            one, other = dataset.devices[user], again.devices[user]
            assert np.array_equal(one.history, other.history) and np.array_equal(one.test, other.test)

    def test_what_was_repaired_is_said_in_numbers(self, dataset: Dataset) -> None:
        """Every repair is a pair of words and a count, which metrics.json can hold."""
        assert json.loads(json.dumps(dict(dataset.repairs))) == dict(dataset.repairs)
        assert all(count > 0 for _, count in dataset.repairs)
