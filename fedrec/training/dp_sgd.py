"""DP-SGD on one device, by Opacus' ghost clipping: the only file that imports Opacus.

Opacus finds each example's gradient norm without its gradient (Lee & Kifer, "Scaling up differentially private deep
learning with fast per-example gradient clipping", 2021), and a second backward pass takes the clipped sum. Around it
this file puts what a guarantee needs: draws that are ours instead of torch's, empty batches that are noised too,
parameters that a step leaves out, and a check that the loss really is a sum over its examples.
"""

import warnings
from collections.abc import Iterator
from functools import reduce
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.sgd import optimizer

# True of every model that begins with an embedding, and harmless: ids carry no gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

SIDE = "_fedrec_ghost"  # where a model carries its hooks: no module and no buffer, so that state_dict doesn't see them


def embedding_norms(layer: nn.Embedding, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Return the norm [B] of each example's gradient of an embedding table, for ids [B] or [B, ...].

    Gradients of a row that an example reads several times are summed before they are squared. Opacus' own function does
    the same through a sort of pairs that costs five times as much, and counts the padding row, whose gradient is zero.
    """
    ids, width = activations[0].reshape(len(activations[0]), -1), backprops.shape[-1]
    example = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    rows, place = torch.unique(example * layer.num_embeddings + ids, return_inverse=True)
    sums = backprops.new_zeros(len(rows), width).index_add_(0, place.reshape(-1), backprops.reshape(-1, width))
    squares = sums.square().sum(dim=1)
    if layer.padding_idx is not None:
        squares = squares * (rows % layer.num_embeddings != layer.padding_idx)
    owner = torch.div(rows, layer.num_embeddings, rounding_mode="floor")
    return {layer.weight: backprops.new_zeros(len(ids)).index_add_(0, owner, squares).sqrt()}


class GhostClippingHooks(GradSampleHooksFastGradientClipping):
    """Opacus' hooks on one model, off except during a private step, reset before each."""

    NORM_SAMPLERS = {**GradSampleHooksFastGradientClipping.NORM_SAMPLERS, nn.Embedding: embedding_norms}

    def __init__(self, model: TrainableRecommender) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                raise RefusedError(
                    f"{type(model).__name__}.{name} normalises over the batch: one example then moves all others"
                )
        # Not strict: that would refuse any buffer, and public item features are one.
        super().__init__(model, loss_reduction="sum", strict=False, max_grad_norm=1, use_ghost_clipping=True)
        self.disable_hooks()
        self.model, self.checked = model, False

    def start(self, clip: float) -> None:
        """Forget whatever an earlier step, a copy of the model or an exception left behind, and listen."""
        self.max_grad_norm = clip
        for module in self.model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in cast(list[Any], self.trainable_parameters):
            parameter.grad = parameter.grad_sample = parameter._norm_sample = None
            parameter._forward_counter = 0
        self.enable_hooks()

    def get_norm_sample(self) -> Tensor:
        """Return the norm of each example's gradient [B] over the parameters that the step used."""
        norms: list[Tensor] = []
        for name, parameter in cast("Iterator[tuple[str, Any]]", self.model.named_parameters()):
            if getattr(parameter, "_norm_sample", None) is not None:
                norms.append(parameter._norm_sample)
            elif parameter.grad is not None:
                raise RefusedError(
                    f"{type(self.model).__name__}.{name} is used past its layer, where no example's part is known"
                )
        if not norms:
            raise RefusedError(f"the loss of {type(self.model).__name__} reaches no parameter")
        self.per_sample_gradient_norms = torch.stack(norms).norm(2, dim=0)
        return self.per_sample_gradient_norms


class SystemNoiseDPOptimizer(DPOptimizerFastGradientClipping):
    """Opacus' optimizer with our draws as the noise on every coordinate of every parameter, used or not."""

    def __init__(self, inner: torch.optim.Optimizer, public: DPSGDConfig, random: NoiseSource) -> None:
        super().__init__(
            inner,
            noise_multiplier=public.noise_multiplier,
            max_grad_norm=public.clip,
            expected_batch_size=cast(int, public.denominator),
            loss_reduction="mean",
        )
        self._random = random

    def accumulate(self) -> None:
        """Take over the clipped sums; what no example touched sums to zero."""
        for parameter in self.params:
            clipped = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            cast(Any, parameter).summed_grad = clipped.detach()

    def add_noise(self) -> None:
        """Add N(0, (z * clip)^2), drawn at once for all parameters."""
        sizes = [parameter.numel() for parameter in self.params]
        drawn = self._random.gaussian((sum(sizes),), self.noise_multiplier * self.max_grad_norm)
        for parameter, noise in zip(self.params, torch.from_numpy(drawn).split(sizes), strict=True):
            summed = cast(Any, parameter).summed_grad
            parameter.grad = summed + noise.view_as(summed).to(summed)


class DPSGDStep:
    """Clipped, noised steps on every parameter of the model, its private ones included."""

    def __init__(
        self, model: TrainableRecommender, settings: LocalTrainingConfig, public: DPSGDConfig, random: NoiseSource
    ) -> None:
        self._ghost, self._public, self._model = ghost(model.train()), public, model
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = SystemNoiseDPOptimizer(optimizer(settings, trained), public, random)

    def step(self, *parts: Batch) -> float:
        """Take one step on the examples of all parts together, also if there are none; return the exact summed loss."""
        loss, sums = 0.0, list[list[Tensor | None]]()
        for batch in parts or (None,):
            self._ghost.start(self._public.clip)
            try:
                loss += self._clipped_sums(batch) if batch is not None and len(batch.items) else 0.0
            finally:
                self._ghost.disable_hooks()
            sums.append([parameter.grad for parameter in self._optimizer.params])
        for parameter, grads in zip(self._optimizer.params, zip(*sums, strict=True), strict=True):
            there = [grad for grad in grads if grad is not None]
            parameter.grad = reduce(torch.add, there) if there else None
        self._optimizer.step()
        return loss

    def _clipped_sums(self, batch: Batch) -> float:
        """Leave in each parameter's grad the sum of the examples' clipped gradients; return the summed loss.

        An example whose gradient is not finite counts for nothing, and the others as if it had not been there.
        """
        try:
            losses = self._model.loss(batch)
            if losses.shape != (len(batch.items),):
                raise RefusedError(
                    f"{type(self._model).__name__}.loss gave {tuple(losses.shape)}, not one value an interaction"
                )
            DPTensorFastGradientClipping(self._ghost, self._optimizer, losses, "sum").backward()
        except NotImplementedError as error:
            raise RefusedError(
                f"{type(self._model).__name__} calls a layer twice in one loss: call it once, on all ids [B, 1+k]"
            ) from error
        finite = torch.isfinite(self._ghost.per_sample_gradient_norms)
        if not bool(finite.all()):
            self._ghost.start(self._public.clip)
            return self._clipped_sums(Batch(batch.items[finite], batch.values[finite])) if bool(finite.any()) else 0.0
        if not self._ghost.checked:
            check_examples(self._model, self._ghost, batch)
        return float(losses.detach().sum())


def ghost(model: TrainableRecommender) -> GhostClippingHooks:
    """Return the model's hooks, attached the first time: a model is used for many devices in turn."""
    found = getattr(model, SIDE, None)
    if found is None:
        found = GhostClippingHooks(model)
        setattr(model, SIDE, found)
    return cast(GhostClippingHooks, found)


def check_examples(model: TrainableRecommender, hooks: GhostClippingHooks, batch: Batch, examples: int = 2) -> None:
    """Raise where clipping would not bound an example: its gradient, taken alone, is larger than the norm found for it.

    Catches losses that mix the examples of a batch, and layers used in ways that Opacus doesn't see. Done once a model.
    """
    found = hooks.per_sample_gradient_norms[:examples].tolist()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks.disable_hooks()
    for row, norm in enumerate(found):
        loss = model.loss(Batch(batch.items[row : row + 1], batch.values[row : row + 1])).sum()
        grads = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, parameters, allow_unused=True))
        alone = float(torch.stack([g.norm() for g in grads if g is not None]).norm())
        if alone > norm * 1.001 + 1e-6:
            raise RefusedError(
                f"{type(model).__name__}.loss doesn't split into examples: a gradient of norm {alone:.4g} was seen as "
                f"{norm:.4g}"
            )
    hooks.checked = True
