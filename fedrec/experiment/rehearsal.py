"""A run tried before anything is charged: what would fail in it fails here, on items that nobody used."""

import numpy as np
import torch

from fedrec.algorithms.base import RoundContext
from fedrec.data.dataset import Dataset
from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError, RefusedError
from fedrec.evaluation.batched import count_rivals, with_targets
from fedrec.experiment.experiment import Experiment
from fedrec.messages import Arrays
from fedrec.models.sequential import SequentialRecommender
from fedrec.privacy.mechanisms.protocol import TrainingPlan
from fedrec.privacy.release import cut_to, total_of
from fedrec.rng import Stream

USED = 8  # items of the device that nobody has
_tried = set[str]()  # experiments and data sets of this process that can be played


def rehearse(experiment: Experiment, dataset: Dataset) -> None:
    """Play the rounds of a calibrated experiment on one device that used a few public items, and rank items for it.

    Training does in its first round what it does in each; a statistic has rounds that differ. Whatever the run could
    not do on this catalogue is `FedrecError`. Nothing is charged, kept or told.
    """
    key = f"{experiment.hash} {dataset.population}"
    if key in _tried:
        return
    try:
        state = _played(experiment, dataset)
        model, device = experiment.build_model(dataset.catalogue), public_device(len(dataset.catalogue))
        arrays = experiment.algorithm.broadcast(state)
        model.load({name: array for name, array in arrays.items() if name in model.shared})
        private = {name: torch.from_numpy(array[None]) for name, array in model.private_arrays().items()}
        history = torch.from_numpy(device.history.astype(np.int64)).to(experiment.accelerator)
        with torch.no_grad():
            model.scores_many([history], {name: array.to(experiment.accelerator) for name, array in private.items()})
    except FedrecError:
        raise
    except np.linalg.LinAlgError:
        pass  # what one device says may have no solution where the sum over all has
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        named = ", ".join(f"{kind}={name}" for kind, name in experiment.names().items())
        raise RefusedError(f"{named}: can't be played on {dataset.name} ({type(error).__name__}: {error})") from error
    _tried.add(key)


def public_device(items: int) -> DeviceData:
    """Return a device that used the first items of the catalogue, and holds nothing out."""
    history, none = np.arange(min(items, USED), dtype=np.int32), np.zeros(0, np.int32)
    return DeviceData(0, history, np.ones(len(history), np.float32), none, none, np.zeros(0, np.float32))


def _played(experiment: Experiment, dataset: Dataset) -> Arrays:
    algorithm = experiment.algorithm.with_catalogue(dataset.catalogue)
    model = experiment.build_model(dataset.catalogue)
    if isinstance(model, SequentialRecommender):
        model.ready()
    state, plan = algorithm.init(model, dataset.catalogue), experiment.plan(dataset)
    memory = experiment.mechanism.init_state(algorithm.shapes(state))
    for number in range(1, (1 if algorithm.trains else experiment.rounds) + 1):
        state, memory = _round(experiment, dataset, plan, (state, memory), number)
    return state


def _round(
    experiment: Experiment, dataset: Dataset, plan: TrainingPlan, states: tuple[Arrays, Arrays], number: int
) -> tuple[Arrays, Arrays]:
    """Return the states of algorithm and mechanism after a round, given those before it."""
    (state, memory), algorithm = states, experiment.algorithm.with_catalogue(dataset.catalogue)
    mechanism = experiment.mechanism.with_round_params(experiment.mechanism.round_params(memory)).in_round(plan, number)
    model = experiment.build_model(dataset.catalogue)
    device, random = public_device(len(dataset.catalogue)), mechanism.random(experiment.seed, number, Stream.SERVER)
    context = RoundContext(number, experiment.seed, mechanism)
    asked = (model, algorithm.broadcast(state), [device], [model.private_arrays()], context)
    pooled = algorithm.contribute_pooled(*asked)
    update = (
        pooled.update if pooled else mechanism.privatize_update(algorithm.contribute_many(*asked)[0].update, random)
    )
    sent, reach = mechanism.privatize_node_sum(total_of([update]), random), mechanism.noise_on_values(1)
    cut = cut_to(sent, lambda values, step: algorithm.clip_items(state, values, mechanism.terms.unit, reach, step))
    aggregate = mechanism.privatize_aggregate(mechanism.clip_node_sum(cut), plan, number, random, memory)
    return algorithm.step(state, aggregate), aggregate.mechanism_state


def check_tested(experiment: Experiment, dataset: Dataset) -> None:
    """Raise `RefusedError` where nothing could be measured: nobody's item is held out, or there is none to rank it by.

    What one user did is no population either: nobody is hidden among others, and there is nobody to learn from.
    """
    table, users = dataset.devices, experiment.evaluation.chosen(dataset.interactions.users)
    if dataset.interactions.users == 1:
        raise RefusedError(f"{dataset.name}: one user: what others did is learned from, so that 2 are the least")
    tested = with_targets(table, users, "test")
    if not len(tested):
        raise RefusedError(
            f"{dataset.name}: none of the {len(users):,} users to evaluate has an item held out to test, so that "
            "nothing could be measured; users with 3 interactions have (dataset.minimum=3 leaves the others out)"
        )
    shortest = int(np.diff(table.start)[tested].min())
    if shortest >= table.items and not count_rivals(table, tested).any():  # who used fewer items leaves rivals
        whose = "its one user has" if len(tested) == 1 else f"each of its {len(tested):,} tested users has"
        raise RefusedError(
            f"{dataset.name}: {whose} used all {table.items:,} items, so that the held-out item has no rivals: every "
            "method would rank it first, and nothing could be measured"
        )
