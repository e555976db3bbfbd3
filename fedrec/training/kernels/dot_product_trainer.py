"""Trains models whose logit is a dot product: what `dot_product` and `private_dot_product` are given and give back."""

import numpy as np
from numpy.typing import NDArray

from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.models.closed_forms import DotProduct
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.kernels import dot_product as kernel
from fedrec.training.kernels import private_dot_product as dp_kernel
from fedrec.training.kernels.late_noise import LateNoise, WholeKind
from fedrec.training.kernels.places import Due, Places
from fedrec.training.kernels.trainer import Trained, Trainer


class DotProductTrainer(Trainer[kernel.Broadcast]):
    """Trains matrix factorisation, and whatever else has its closed form."""

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig, form: DotProduct) -> None:
        super().__init__(model, settings)
        self._form, self._buffers = form, dict(model.named_buffers())

    @property
    def compiled(self) -> tuple[object, object]:
        """The outermost compiled function, and that of DP-SGD."""
        return kernel.descend, dp_kernel.descend_privately

    def sent(self, broadcast: Arrays) -> kernel.Broadcast:
        """Return vectors and biases, laid out as the loops are compiled for."""
        form, learns = self._form, self._form.vectors in self.shapes
        vectors = broadcast[form.vectors] if learns else self._buffers[form.vectors].numpy()
        flat = np.ascontiguousarray(broadcast[form.bias].reshape(-1), np.float32)
        vectors = np.ascontiguousarray(vectors, np.float32)
        scale, offset = np.float32(form.scale), np.float32(form.offset)
        return kernel.Broadcast(vectors, learns, flat, scale, offset, self.loss)

    def descend(self, sent: kernel.Broadcast, places: Places, private: Arrays) -> Trained:
        """Train devices without privacy."""
        kept, settings = self._kept(sent, private, places, np.float32), self.settings
        steps = kernel.Descent(settings.batch_size, settings.learning_rate, settings.denominator or 0.0)
        kernel.descend(sent, places, kernel.scratch(places, sent.vectors.shape[1]), kept, steps)
        return self._trained(private, kept)

    def descend_privately(
        self, sent: kernel.Broadcast, places: Places, due: Due, private: Arrays, late: LateNoise
    ) -> Trained:
        """Train devices by DP-SGD."""
        whole = late.kind(places)
        kept = self._kept(sent, private, places, whole)
        device, (columns, dim) = (
            kernel.scratch(places, sent.vectors.shape[1]),
            (kept.rows.shape[1], kept.users.shape[1]),
        )
        shapes = (dim, (len(device.bias), columns), len(device.bias))
        sums = dp_kernel.Sums(*(np.empty(shape, whole) for shape in shapes))
        noise = dp_kernel.Noise(
            late.of_steps((len(kept.users), late.steps, dim), whole),
            late.of_rows(due, columns, whole),
            late.of_rows(due, 1, whole)[:, 0],
        )
        grid = late.grid.vectors
        steps = dp_kernel.PrivateDescent(grid.length, grid.clip, late.unit(grid))
        dp_kernel.descend_privately(sent, places, (device, sums), kept, (due, noise), steps)
        return self._trained(private, kept)

    def _kept(
        self, sent: kernel.Broadcast, private: Arrays, places: Places, kind: WholeKind | type[np.float32]
    ) -> kernel.Kept:
        users, dim = private[self._form.user], sent.vectors.shape[1]
        users = np.array(users.reshape(len(users), dim), np.float32, order="C")
        rows, columns = len(places.item), dim if sent.learns else 0
        return kernel.Kept(users, np.zeros(len(users)), np.empty((rows, columns), kind), np.empty(rows, kind))

    def _trained(self, private: Arrays, kept: kernel.Kept) -> Trained:
        rows: dict[str, NDArray[np.float32]] = {self._form.vectors: kept.rows, self._form.bias: kept.bias[:, None]}
        users = {self._form.user: kept.users.reshape(private[self._form.user].shape)}
        return Trained(users, kept.loss, {name: rows[name] for name in self.shapes}, {})
