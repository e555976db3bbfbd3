"""The commands that show models side by side: what their splits and samplers hold."""

import numpy as np

from fedrec.rng import CounterRNG
from fedrec.training.batches import Histories, NegativeSampler
from simulations.paper.cold_start import without
from simulations.paper.pfedrec_leak import OutsideOfAll
from tests.support.tiny import small


def test_the_published_sampler_avoids_what_is_held_out_and_ours_does_not() -> None:
    devices = small()[1].devices
    users = np.arange(len(devices))
    histories = Histories.at(devices, users)
    bytes_in_flight = [np.concatenate([devices[user].validation, devices[user].test]) for user in users.tolist()]
    drawn = {
        "leaky": OutsideOfAll(devices).draw(CounterRNG(0), histories, 0, 20),
        "ours": NegativeSampler(devices.items).draw(CounterRNG(0), histories, 0, 20),
    }
    met = dict.fromkeys(drawn, 0)
    for name, negatives in drawn.items():
        assert negatives.shape == (*histories.items.shape, 20)
        for user in users.tolist():
            own = negatives[user, : histories.sizes[user]]
            met[name] += int(np.isin(own, bytes_in_flight[user]).sum())
            assert not np.isin(own, devices[user].history).any()
    assert met["leaky"] == 0 and met["ours"] > 100


def test_devices_train_without_new_items_and_are_asked_for_all_of_them() -> None:
    devices = small()[1].devices
    new = np.random.default_rng(1).random(devices.items) < 0.2
    cold = without(devices, new)
    assert len(cold) == len(devices) and sum(len(device.test) for device in cold) > 50
    for before, after in zip(devices, cold, strict=True):
        everything = np.concatenate([before.history, before.validation, before.test])
        assert after.history.tolist() == everything[~new[everything]].tolist()
        assert after.test.tolist() == everything[new[everything]].tolist() and not len(after.validation)
