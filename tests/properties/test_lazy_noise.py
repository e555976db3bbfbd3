"""Noise that waits has the law of noise at every step: on rows that were read and rows that never were.

All draws are seeded: a run passes always or never.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from fedrec.algorithms.base import RoundContext
from fedrec.algorithms.fedavg import FedAvg
from fedrec.data.interactions import DeviceTable
from fedrec.models.base import TrainableRecommender
from fedrec.models.mf import MatrixFactorization
from fedrec.models.neumf import NeuMF
from fedrec.privacy.mechanisms.interaction import InteractionLevel
from fedrec.training.batches import CohortData
from fedrec.training.kernels.engine import KernelEngine
from fedrec.training.vectorized import stacked_model as steps
from fedrec.training.vectorized.engine import VectorizedEngine
from tests.support.tiny import catalogue

ITEMS, STEPS, RATE, CLIP, Z, DENOMINATOR = 12, 3, 0.5, 0.2, 1.3, 4.0
STD = RATE * Z * CLIP / DENOMINATOR
SETTINGS = FedAvg(learning_rate=RATE, negatives=0)
MECHANISM = InteractionLevel(
    noise_multiplier=Z, clip=CLIP, local_steps=STEPS, denominator=DENOMINATOR, sample_rate=0.7, randomness="seeded"
)


class Straight(TrainableRecommender):
    """Its losses are linear: every example's gradient is known, whatever the noise did before; `scale` is idle."""

    shared = frozenset({"item.weight", "scale.weight", "scale.bias"})
    by_item = frozenset({"item.weight"})
    stackable, ratings = True, True

    def __init__(self) -> None:
        super().__init__()
        self.item, self.user, self.scale = nn.Embedding(ITEMS, 2), nn.Embedding(1, 3), nn.Linear(1, 1)
        self.items = ITEMS
        self.criterion = lambda logits, values: logits[..., 0]

    def forward(self, items: Tensor) -> Tensor:
        return 1e-3 * self.item(items).sum(-1)

    def scores(self, history: Tensor) -> Tensor:
        return self.item.weight.sum(1)


def devices(*lines: list[int]) -> DeviceTable:
    start = np.cumsum([0, *map(len, lines)])
    items = np.array([item for line in lines for item in line], np.int32)
    return DeviceTable(start, start[1:], start[1:], items, np.ones(len(items), np.float32), ITEMS)


def sums(
    model: TrainableRecommender, table: DeviceTable, times: int, kind: Any = VectorizedEngine
) -> dict[str, np.ndarray]:
    """Return the sum of the devices' changes, `times` over with fresh draws: [times, ...] by name."""
    engine, users, sent = kind(model, SETTINGS), np.arange(len(table)), model.shared_arrays()
    private, own = engine.first_private(0, users), CohortData(table, users)
    found = [
        MECHANISM.privatize_cohort(
            engine.train(sent, own, private, MECHANISM, (0, 1 + n)).stack, MECHANISM.random(n)
        ).arrays
        for n in range(times)
    ]
    return {name: np.stack([one[name] for one in found]).astype(np.float64) for name in found[0]}


TABLE = devices([0, 1, 2], [0, 0, 3, 4], [], [5])  # rows 6.. are never touched


def test_every_row_gets_the_variance_of_every_step_and_device() -> None:
    found = sums(Straight(), TABLE, 800)
    expected = STD**2 * STEPS * len(TABLE)
    item = found["item.weight"]  # [times, V, 2]
    slope = 1e-3 * RATE / DENOMINATOR * 0.7 * STEPS
    uses = np.bincount(TABLE.item, minlength=ITEMS)
    assert np.abs(item.mean(0) + slope * uses[:, None]).max() < 5 * (expected / len(item)) ** 0.5
    ratio = item.var(0) / expected
    assert np.abs(ratio - 1).max() < 5 * (2 / len(item)) ** 0.5
    flat = (item - item.mean(0)).reshape(len(item), -1) / expected**0.5
    off = np.corrcoef(flat.T)[np.triu_indices(flat.shape[1], 1)]
    assert np.abs(off).max() < 5 / len(item) ** 0.5
    for rows in (flat[:, : 2 * 6], flat[:, 2 * 6 :]):  # touched, untouched: also in the tails
        assert stats.kstest(rows.ravel(), "norm").pvalue > 1e-3
        beyond = int((np.abs(rows) > 3.5).sum())
        assert stats.poisson.interval(1 - 1e-5, 2 * stats.norm.sf(3.5) * rows.size)[0] <= beyond
        assert beyond <= stats.poisson.interval(1 - 1e-5, 2 * stats.norm.sf(3.5) * rows.size)[1]


def test_layers_that_no_loss_reaches_are_noised_too() -> None:
    found = sums(Straight(), TABLE, 800)
    for name in ("scale.weight", "scale.bias"):
        assert found[name].var() / (STD**2 * STEPS * len(TABLE)) == pytest.approx(1, abs=5 * (2 / 800) ** 0.5)


@pytest.mark.parametrize("name", ["item.weight", "item_bias.weight"])
def test_a_kernel_gives_every_row_the_variance_of_every_step_and_device(name: str) -> None:
    """Users' vectors and ratings are next to nothing, so that examples are too: what varies is the noise."""
    model = MatrixFactorization(catalogue(ITEMS), dim=2, loss="mse", init_std=1e-6)
    faint = DeviceTable(TABLE.start, TABLE.start[1:], TABLE.start[1:], TABLE.item, 0 * TABLE.value, ITEMS)
    found, expected = sums(model, faint, 800, KernelEngine)[name], STD**2 * STEPS * len(TABLE)
    untouched = found[:, 6:]
    assert np.abs(untouched.var(0) / expected - 1).max() < 5 * (2 / len(found)) ** 0.5
    assert np.abs(untouched.mean(0)).max() < 5 * (expected / len(found)) ** 0.5
    off = np.corrcoef(found.reshape(len(found), -1).T)[np.triu_indices(found[0].size, 1)]
    assert np.abs(off).max() < 0.2  # of touched rows through the steps that read them
    if name == "item.weight":  # its slopes are those of faint users: first the noise of steps, then theirs
        assert (found[:, :6].var(0) / expected > 1 - 5 * (2 / len(found)) ** 0.5).all()


def test_a_kernel_of_layers_gives_them_and_rows_that_nobody_reads_all_their_noise() -> None:
    """Each array on its own grid, with one variance: of layers after each step, of the last for the sum of devices."""
    model = NeuMF(catalogue(ITEMS), dim=2, layers=(3,), loss="mse", init_std=1e-6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1e-6)
    faint = DeviceTable(TABLE.start, TABLE.start[1:], TABLE.start[1:], TABLE.item, 0 * TABLE.value, ITEMS)
    found, expected = sums(model, faint, 400, KernelEngine), STD**2 * STEPS * len(TABLE)
    for name, changes in found.items():
        still = changes[:, 6:] if name.startswith("item") else changes
        if name == "output.bias":  # the loss pulls it back towards 0 in every step
            assert still.var() / expected == pytest.approx(1, abs=0.5)
            continue
        assert still.var() / expected == pytest.approx(1, abs=5 * (2 / still.size) ** 0.5 + 0.05), name
        assert np.abs(still.mean(0)).max() < 5 * (expected / len(still)) ** 0.5, name


@pytest.mark.parametrize("kind", [MatrixFactorization, NeuMF])
def test_a_users_own_vector_has_the_noise_of_every_step(kind: Any) -> None:
    """Each step's is drawn anew, the last one's too: what a device keeps is read in its next round."""
    model = kind(catalogue(ITEMS), dim=4, loss="mse", init_std=1e-6)
    table, users = devices(*[[0]] * 300), np.arange(300)
    faint = DeviceTable(table.start, table.start[1:], table.start[1:], table.item, 0 * table.value, ITEMS)
    engine = KernelEngine(model, SETTINGS)
    private = engine.first_private(0, users)
    made = engine.train(model.shared_arrays(), CohortData(faint, users), private, MECHANISM, (0, 1))
    for name, array in made.private.items():
        assert array.var() / (STD**2 * STEPS) == pytest.approx(1, abs=0.15), name


@pytest.mark.parametrize("engine", [VectorizedEngine, KernelEngine])
def test_noise_is_there_when_a_row_is_read(engine: Any) -> None:
    """With losses that bend, what a step does depends on the noise before it: the law is that of Opacus' steps."""
    torch.manual_seed(2)
    model = MatrixFactorization(catalogue(ITEMS), dim=2, loss="mse", init_std=1.0)
    own, times = devices([0, 1, 1, 2, 3]), 250
    fast = sums(model, own, times, engine)
    slow = {name: np.empty_like(changes) for name, changes in fast.items()}
    sent = model.shared_arrays()
    private = {name: array[0] for name, array in engine(model, SETTINGS).first_private(0, np.array([0])).items()}
    for n in range(times):
        context = RoundContext(9000 + n, 0, MECHANISM)
        for name, array in SETTINGS.contribute(model, sent, own[0], private, context).update.arrays.items():
            slow[name][n] = array
    for row, column in itertools.product((0, 1, 3, 8), (0, 1)):
        same: Any = stats.ks_2samp(fast["item.weight"][:, row, column], slow["item.weight"][:, row, column])
        assert same.pvalue > 1e-3
    biases = [one["item_bias.weight"][:, :6].std(0) for one in (fast, slow)]
    assert np.abs(biases[0] / biases[1] - 1).max() < 5 / times**0.5
    together = [np.corrcoef(one["item.weight"][:, :4].reshape(times, -1).T) for one in (fast, slow)]
    assert np.abs(together[0] - together[1]).max() < 6 * (2 / times) ** 0.5


@pytest.mark.parametrize("fault", ["never read", "no rest"])
def test_the_tests_see_noise_that_is_lost(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The positive control: noise that is marked as drawn and never added, or rows that stay without."""
    if fault == "never read":
        honest = steps.StepNoise.before

        def forgetting(self: steps.StepNoise, rows: Tensor, step: int) -> None:
            tables = self._twin.item_tables()
            before = {name: layer.sums[name].clone() for name, layer in tables.items()}
            honest(self, rows, step)
            for name, layer in tables.items():
                layer.sums[name].copy_(before[name])

        monkeypatch.setattr(steps.StepNoise, "before", forgetting)
    else:
        monkeypatch.setattr(steps.StepNoise, "remaining", lambda self: {})
    item = sums(Straight(), TABLE, 700)["item.weight"]
    ratio = item.var(0) / (STD**2 * STEPS * len(TABLE))
    assert np.abs(ratio - 1).max() > 5 * (2 / len(item)) ** 0.5
