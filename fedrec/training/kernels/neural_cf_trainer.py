"""Trains small networks over embeddings: what `neural_cf` and `private_neural_cf` are given and give back."""

from math import isqrt, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrec.messages import Arrays
from fedrec.models.base import TrainableRecommender
from fedrec.models.closed_forms import NeuralCF
from fedrec.privacy.step_grid import INPUT_BITS
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.kernels import network_examples as examples
from fedrec.training.kernels import networks
from fedrec.training.kernels import neural_cf as kernel
from fedrec.training.kernels import private_neural_cf as dp_kernel
from fedrec.training.kernels.dot_product import Descent
from fedrec.training.kernels.late_noise import LateNoise, WholeKind
from fedrec.training.kernels.places import Due, Places
from fedrec.training.kernels.trainer import Trained, Trainer
from fedrec.training.kernels.whole_parts import LAYER, PRODUCT, USER, Bounds, Part, part_room
from fedrec.training.whole_examples import lays_out

TOGETHER = 32  # examples of DP-SGD that a step takes at once: what they need stays in the processor's cache


class NeuralCFTrainer(Trainer[networks.Network]):
    """Trains NeuMF, and whatever else has its closed form."""

    def __init__(self, model: TrainableRecommender, settings: LocalTrainingConfig, form: NeuralCF) -> None:
        super().__init__(model, settings)
        self._form, self._linear = form, (*form.layers, form.output)
        self._dense = [f"{layer}.{part}" for layer in self._linear for part in ("weight", "bias")]
        self.products = frozenset(f"{layer}.weight" for layer in self._linear)
        product = self.shapes[form.product[1]][1] if form.product else 0
        self._beside = {form.layers[0]: self.shapes[form.item][1], form.output: product}  # columns for u, and for t v
        self._order = self._packing()

    @property
    def compiled(self) -> tuple[object, object]:
        """The outermost compiled function, and that of DP-SGD."""
        return kernel.descend, dp_kernel.descend_privately

    def sent(self, broadcast: Arrays) -> networks.Network:
        """Return vectors of items, and all layers one after the other."""
        form = self._form
        item = np.ascontiguousarray(broadcast[form.item], np.float32)
        product = np.ascontiguousarray(broadcast[form.product[1]], np.float32) if form.product else item[:, :0].copy()
        dense = np.concatenate([broadcast[name].ravel() for name in self._dense]).astype(np.float32)[self._order]
        return networks.Network(product, item, dense, self._layers(), np.float32(form.offset), self.loss)

    def _layers(self) -> NDArray[np.int64]:
        """Return where each layer's numbers lie, as `networks.Layer` says."""
        found, into, back = list[networks.Layer](), 0, 0
        weights = sum(self.shapes[f"{layer}.weight"][0] * width for layer, width in self._beside.items())
        for layer in self._linear:
            outputs, inputs = self.shapes[f"{layer}.weight"]
            inputs -= self._beside.get(layer, 0)
            found.append(networks.Layer(weights, inputs, outputs, into, back))
            weights, into, back = weights + (inputs + 1) * outputs, into + inputs, back + outputs
        return np.array(found, np.int64)

    def _packing(self) -> NDArray[np.int64]:
        """Return, for each number of the layers as they are packed, its place among those of all arrays."""
        sizes = [prod(self.shapes[name]) for name in self._dense]
        places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        own = {n: place.reshape(self.shapes[n]) for n, place in zip(self._dense, places, strict=True)}
        parts = [own[f"{layer}.weight"][:, :width] for layer, width in self._beside.items()]
        for layer in self._linear:
            parts += [own[f"{layer}.weight"][:, self._beside.get(layer, 0) :], own[f"{layer}.bias"]]
        return np.concatenate([part.ravel() for part in parts])

    def descend(self, sent: networks.Network, places: Places, private: Arrays) -> Trained:
        """Train devices without privacy."""
        kept, settings = self._kept(sent, private, places, np.float32), self.settings
        steps = Descent(settings.batch_size, settings.learning_rate, settings.denominator or 0.0)
        longest = min(settings.batch_size, int(np.diff(places.passes).max(initial=0)))
        rooms = networks.room(sent, longest * places.rows.shape[1]), kernel.gradients(sent)
        kernel.descend(sent, places, networks.scratch(sent, places), kept, steps, rooms)
        return self._trained(private, kept)

    def descend_privately(
        self, sent: networks.Network, places: Places, due: Due, private: Arrays, late: LateNoise
    ) -> Trained:
        """Train devices by DP-SGD."""
        whole, k = late.kind(places, products=True), places.rows.shape[1]
        device, kept = networks.scratch(sent, places), self._kept(sent, private, places, whole)
        sums = (device.taste, device.user, device.product, device.item, device.dense)
        parts = self._parts(sent, k)
        rooms = examples.Rooms(
            networks.room(sent, TOGETHER * k),
            examples.example_room(sent, TOGETHER, k),
            parts,
            part_room(parts, TOGETHER, k),
        )
        own = device, examples.Sums(*(np.empty(array.shape, whole) for array in sums))
        steps = self._bounds(sent, late, k), late.unit(late.grid.vectors), self._units(sent, late), rooms
        dp_kernel.descend_privately(sent, places, own, kept, (due, self._noise(sent, due, kept, late)), steps)
        return self._trained(private, kept)

    def _noise(self, sent: networks.Network, due: Due, kept: kernel.Kept, late: LateNoise) -> dp_kernel.Noise:
        """Return the noise that a tile's steps read; of layers by array, each on its own grid."""
        (count, m), p, kind = kept.user.shape, kept.taste.shape[1], kept.dense.dtype.type
        taste, user = (late.of_steps((count, late.steps, d), kind) for d in (p, m))
        product, item = (late.of_rows(due, d, kind) for d in (p, m))
        flat = [
            late.of_steps((count, late.steps - 1, prod(self.shapes[name])), kind, name in self.products)
            for name in self._dense
        ]
        return dp_kernel.Noise(taste, user, product, item, np.concatenate(flat, axis=2)[:, :, self._order])

    def _units(self, sent: networks.Network, late: LateNoise) -> NDArray[np.float64]:
        """Return what a whole step of each number of the layers moves it by [D]."""
        worth = [late.unit(late.grid.products if n in self.products else late.grid.vectors) for n in self._dense]
        return np.repeat(worth, [prod(self.shapes[name]) for name in self._dense])[self._order]

    def _parts(self, sent: networks.Network, k: int) -> NDArray[np.int64]:
        """Return the parts of all layers, one `whole_parts.Part` a line, for examples of k places."""
        layers = [networks.Layer(*line) for line in sent.layers.tolist()]
        found, weights, into, back, laid = list[Part](), 0, 0, 0, 0
        blocks = [(0, self._beside[self._form.layers[0]], USER), (len(layers) - 1, sent.product.shape[1], PRODUCT)]
        blocks += [(depth, layer.inputs, LAYER) for depth, layer in enumerate(layers)]
        for depth, width, source in blocks:
            outputs, whole = layers[depth].outputs, self.shapes[f"{self._linear[depth]}.weight"][1]
            at = layers[depth].weights if source == LAYER else weights
            weights += width * outputs
            if not width:
                continue
            lies = lays_out(k, whole, outputs)
            found.append(Part(depth, at, width, outputs, into, back, laid if lies else -1, source))
            into, back, laid = into + width, back + outputs, laid + width * outputs * lies
        return np.array(found, np.int64)

    def _bounds(self, sent: networks.Network, late: LateNoise, k: int) -> Bounds:
        """Return what an example of k places may be; no sum of products of its whole numbers passes 2^62."""
        grid, widest, parts = late.grid, int(sent.layers[:, 2].max()), len(sent.layers) + 2
        largest = isqrt((1 << 62) // (k * k * widest * parts << 2 * INPUT_BITS + 1))
        return Bounds(grid.vectors.length, grid.vectors.clip, grid.finer, min(largest, 1 << 20))

    def _kept(
        self, sent: networks.Network, private: Arrays, places: Places, kind: WholeKind | type[np.float32]
    ) -> kernel.Kept:
        form, count, rows = self._form, len(private[self._form.user]), len(places.item)
        p, m, d = sent.product.shape[1], sent.item.shape[1], len(sent.dense)
        own = private[form.product[0]] if form.product else np.empty(0, np.float32)
        taste = np.array(own.reshape(count, p), np.float32, order="C")
        user = np.array(private[form.user].reshape(count, m), np.float32, order="C")
        product, item, dense = (np.empty(shape, kind) for shape in ((rows, p), (rows, m), (count, d)))
        return kernel.Kept(taste, user, np.zeros(count), product, item, dense)

    def _trained(self, private: Arrays, kept: kernel.Kept) -> Trained:
        form, count = self._form, len(kept.user)
        users, rows = {form.user: kept.user}, {form.item: kept.item}
        if form.product is not None:
            users[form.product[0]], rows[form.product[1]] = kept.taste, kept.product
        ends = np.cumsum([prod(self.shapes[name]) for name in self._dense])
        parts: list[Any] = np.split(kept.dense[:, np.argsort(self._order)], ends[:-1], axis=1)
        dense = {n: part.reshape(count, *self.shapes[n]) for n, part in zip(self._dense, parts, strict=True)}
        own = {name: array.reshape(private[name].shape) for name, array in users.items()}
        return Trained(own, kept.loss, rows, dense)
