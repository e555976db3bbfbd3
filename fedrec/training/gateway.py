"""DP-SGD on the users of one gateway: one user's whole batch is one example.

Shapes: U users, u of them in one part, n interactions of the longest history among those, 1+k columns (a positive and
its negatives). A user is one example of n * (1+k) columns, so that what Opacus clips is a user's whole gradient;
reshaped to users x interactions before the embedding, it would be one interaction's.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.data.interactions import DeviceData
from fedrec.errors import FedrecError
from fedrec.messages import Arrays
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, Mechanism
from fedrec.rng import Stream
from fedrec.training.batches import Epoch, Histories, LocalTrainingConfig, NegativeSampler, epochs, open_draws
from fedrec.training.sgd import optimizer

LARGEST_PART = 1 << 17  # columns of all users of one part, padding included: what memory holds at once
WHOLE = 1 << 30  # a batch that holds any history


class UsersAsExamples(TrainableRecommender):
    """A model with a row of the private tables for each of U users, whose examples are users.

    A batch holds, a line a user: `items` the user's row, then its n * (1+k) columns; `values` how many interactions
    are real, then their ratings [n]. The loss of a user is the sum over its interactions, over `denominator` or their
    number.
    """

    shared: frozenset[str] = frozenset()
    padded_examples = True

    def __init__(self, model: TrainableRecommender, private: Sequence[Arrays], denominator: float | None) -> None:
        super().__init__()
        self.model, self.items, self._denominator = copy.deepcopy(model).train(), model.items, denominator
        self.tables: dict[str, nn.Parameter] = {}
        for name, parameter in list(self.model.named_parameters()):
            if name not in model.shared:
                rows = torch.from_numpy(np.concatenate([one[name] for one in private])).to(parameter.device)
                self.tables[name] = nn.Parameter(rows, requires_grad=False)
                place, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(place), leaf, self.tables[name])

    def loss(self, batch: Batch) -> Tensor:
        """Return one value per user [u]."""
        users, counts, ratings = len(batch.items), batch.values[:, 0], batch.values[:, 1:]
        self.model.pooled_user_rows = batch.items[:, 0]
        logits = self.model(batch.items[:, 1:])  # [u, n * (1+k)]
        width = ratings.shape[1]
        each = self.model.criterion(logits.reshape(users * width, -1), ratings.reshape(-1)).reshape(users, width)
        real = torch.arange(width, device=each.device) < counts.unsqueeze(1)
        return (each * real).sum(1) / (self._denominator or counts.clamp(min=1))

    def private_gradients(self, parts: Sequence[Batch]) -> list[Tensor]:
        """Return the gradient of each private table [U, ...]: a user's row has that of the user's own loss."""
        found = [torch.zeros_like(table) for table in self.tables.values()]
        for part in parts if found else ():
            for table in self.tables.values():
                table.requires_grad_(True)
            grads = torch.autograd.grad(self.loss(part).sum(), list(self.tables.values()), allow_unused=True)
            for sums, grad in zip(found, cast("tuple[Tensor | None, ...]", grads), strict=True):
                sums += 0 if grad is None else grad
            for table in self.tables.values():
                table.requires_grad_(False)
        return found

    def scores(self, history: Tensor) -> Tensor:
        """Not asked here: users are ranked for on their own."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PooledTraining:
    """How the shared arrays changed, each user's new private arrays, and the exact loss over `examples`."""

    change: Arrays
    private: list[Arrays]
    loss: float
    examples: int


def train_pooled(
    model: TrainableRecommender,
    devices: Sequence[DeviceData],
    private: Sequence[Arrays],
    settings: LocalTrainingConfig,
    mechanism: Mechanism,
    key: tuple[int, int],
) -> PooledTraining:
    """Train on all users of a gateway; the change is clipped and noised by the mechanism, times its denominator.

    `key` is (seed, round); negatives come from it, as on a device, samples and noise from the mechanism's own source.
    `private` holds what each user's private arrays are now.
    """
    from fedrec.training.dp_sgd import DPSGDStep  # Opacus takes 2 seconds to import

    public = mechanism.dp_sgd()
    if public is None or not mechanism.pools_users:
        raise FedrecError(f"{type(mechanism).__name__} does not train at a gateway")
    random = mechanism.random(*key, int(devices[0].user), Stream.TRAIN)
    users, histories = UsersAsExamples(model, private, settings.denominator), stacked(devices)
    shared = DPSGDStep(users, settings, public, random)
    own = optimizer(settings, users.tables.values()) if users.tables else None
    loss, examples, place = 0.0, 0, next(model.parameters()).device
    for one in _passes(model, histories, settings, public, key):
        sampled = np.flatnonzero(random.uniform(len(devices)) < public.sample_rate)
        batches = [Batch(b.items.to(place), b.values.to(place)) for b in parts(one, histories, sampled)]
        gradients = users.private_gradients(batches)
        # The mean over users, or over interactions where the sum of a user's has a fixed denominator.
        loss += shared.step(*batches) * (settings.denominator or 1)
        examples += int(histories.sizes[sampled].sum()) if settings.denominator else len(sampled)
        for table, gradient in zip(users.tables.values(), gradients, strict=True):
            table.grad = gradient
        if own is not None:
            own.step()
            own.zero_grad(set_to_none=True)
    return PooledTraining(_change(model, users.model, public.denominator), _rows(users, len(devices)), loss, examples)


def stacked(devices: Sequence[DeviceData]) -> Histories:
    """Return the histories of devices, padded to the longest."""
    sizes = np.array([len(device.history) for device in devices], np.int64)
    items = np.zeros((len(devices), int(sizes.max(initial=0))), np.int32)
    values = np.zeros(items.shape, np.float32)
    for row, device in enumerate(devices):
        items[row, : sizes[row]], values[row, : sizes[row]] = device.history, device.values
    return Histories(np.array([device.user for device in devices], np.int64), items, values, sizes)


def parts(one: Epoch, histories: Histories, sampled: NDArray[np.int64]) -> Iterator[Batch]:
    """Yield the sampled users as batches of whole users, shortest histories first, so that little is padded."""
    columns = 1 + one.negatives.shape[2]
    rest = sampled[np.argsort(histories.sizes[sampled], kind="stable")]
    while len(rest):
        widths = histories.sizes[rest] * columns
        fits = max(1, int((widths * np.arange(1, len(rest) + 1) <= LARGEST_PART).sum()))
        chosen, rest = rest[:fits], rest[fits:]
        width = max(1, int(histories.sizes[chosen].max()))
        items = np.zeros((fits, width, columns), np.int64)
        values = np.zeros((fits, 1 + width), np.float32)
        have = min(width, histories.items.shape[1])
        items[:, :have, 0], items[:, :have, 1:] = histories.items[chosen, :have], one.negatives[chosen, :have]
        values[:, 0], values[:, 1 : 1 + have] = histories.sizes[chosen], histories.values[chosen, :have]
        flat = np.concatenate([chosen[:, None], items.reshape(fits, -1)], axis=1)
        yield Batch(torch.from_numpy(flat), torch.from_numpy(values))


def _passes(
    model: TrainableRecommender,
    histories: Histories,
    settings: LocalTrainingConfig,
    public: DPSGDConfig,
    key: tuple[int, int],
) -> Iterator[Epoch]:
    """Yield the whole history of every user, with fresh negatives, once for each step."""
    whole = LocalTrainingConfig(epochs=public.local_steps, batch_size=WHOLE)
    negatives = settings.negatives if model.negatives_useful else 0
    return epochs(histories, whole, negatives, NegativeSampler(model.items), open_draws(*key))


def _change(before: TrainableRecommender, after: TrainableRecommender, times: float) -> Arrays:
    now = after.shared_arrays()
    return {name: ((now[name] - old) * np.float32(times)) for name, old in before.shared_arrays().items()}


def _rows(users: UsersAsExamples, count: int) -> list[Arrays]:
    tables = {name: table.detach().cpu().numpy() for name, table in users.tables.items()}
    size = {name: len(table) // count for name, table in tables.items()}
    return [{n: t[row * size[n] : (row + 1) * size[n]].copy() for n, t in tables.items()} for row in range(count)]
