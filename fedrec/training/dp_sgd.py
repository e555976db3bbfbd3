"""DP-SGD on one device, on the layers that Opacus hooks into: the only file that imports Opacus.

Opacus' hooks give what went into each layer and the slopes that came back, from which an example's gradient follows
(Lee & Kifer, "Scaling up differentially private deep learning with fast per-example gradient clipping", 2021). Opacus'
clipped sum, from a second backward pass, and its noise are floating point, whose rounding can prove who took part; so
neither is used. Each example's gradient is made of slopes and inputs as whole numbers on a public grid
(`fedrec.privacy.step_grid`), its length is checked there, and whole numbers are summed. The noise is the discrete
Gaussian, in our draws, on every coordinate, also where the batch is empty. What an optimizer makes of such a sum is
post-processing, in floating point.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient
from torch import Tensor, nn

from fedrec.errors import RefusedError
from fedrec.models.base import Batch, TrainableRecommender
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanisms.protocol import DPSGDConfig, NoiseSource
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.sgd import optimizer
from fedrec.training.whole_examples import first_scales, fit
from fedrec.training.whole_gradients import LaidOutGradient, RowGradient, WholeGradient, linear_gradients

# True of every model that begins with an embedding, and harmless: ids carry no gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

ROUNDED = 1.01  # by how much a gradient may pass its norm, which is found by rounded inputs
SIDE = "_fedrec_ghost"  # where a model carries its hooks: no module and no buffer, so that state_dict doesn't see them


class Samplers(dict[type[nn.Module], Any]):
    """What Opacus asks for the norms of a layer's gradients; the gradients themselves are kept in `found`.

    Tables and linear layers are known from slopes and inputs; of any other layer Opacus lays out each example's.
    """

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.found, self._padded = list[WholeGradient](), padded

    def __contains__(self, kind: object) -> bool:
        """Say that every kind of layer can be asked."""
        return True

    def __getitem__(self, kind: type[nn.Module]) -> Callable[..., dict[Tensor, Tensor]]:
        """Return what to ask for the norms of a layer's gradients."""
        return self._norms

    def _norms(self, layer: nn.Module, activations: list[Tensor], slopes: Tensor) -> dict[Tensor, Tensor]:
        if type(layer) is nn.Embedding:
            made: list[WholeGradient] = [RowGradient(layer, activations[0], slopes)]
        elif type(layer) is nn.Linear:
            made = linear_gradients(layer, activations[0], slopes, self._padded)
        else:
            asked = GradSampleHooksFastGradientClipping.GRAD_SAMPLERS.get(type(layer), ft_compute_per_sample_gradient)
            each = cast(dict[Tensor, Tensor], asked(layer, activations, slopes))
            made = [LaidOutGradient(parameter, gradient) for parameter, gradient in each.items()]
        self.found += made
        return {gradient.parameter: gradient.norms() for gradient in made}


class GhostClippingHooks(GradSampleHooksFastGradientClipping):
    """Opacus' hooks on one model, off except during a private step, reset before each."""

    def __init__(self, model: TrainableRecommender) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                raise RefusedError(
                    f"{type(model).__name__}.{name} normalises over the batch: one example then moves all others"
                )
        # Not strict: that would refuse any buffer, and public item features are one.
        super().__init__(model, loss_reduction="sum", strict=False, max_grad_norm=1, use_ghost_clipping=True)
        self.disable_hooks()
        self.model, self.checked, self.NORM_SAMPLERS = model, False, Samplers(model.padded_examples)

    def start(self) -> None:
        """Forget whatever an earlier step, a copy of the model or an exception left behind, and listen."""
        for module in self.model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        for parameter in cast(list[Any], self.trainable_parameters):
            parameter.grad = parameter.grad_sample = parameter._norm_sample = None
            parameter._forward_counter = 0
        self.NORM_SAMPLERS.found = []
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


class DPSGDStep:
    """Clipped, noised steps on every parameter of the model, its private ones included."""

    def __init__(
        self, model: TrainableRecommender, settings: LocalTrainingConfig, public: DPSGDConfig, random: NoiseSource
    ) -> None:
        self._ghost, self._public, self._model = ghost(model.train()), public, model
        self._random, self._grid = random, public.grid()
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._products = {layer.weight for layer in model.modules() if type(layer) is nn.Linear}
        self._optimizer = optimizer(settings, self._trained)

    def step(self, *parts: Batch) -> float:
        """Take one step on the examples of all parts together, also if there are none; return the exact summed loss."""
        sums: dict[Tensor, Tensor] = {p: torch.zeros_like(p, dtype=torch.float64) for p in self._trained}
        loss = sum((self._add_examples(batch, sums) for batch in parts if len(batch.items)), 0.0)
        for parameter, whole in self.noised(sums).items():
            grid = self._grid_of(parameter)
            parameter.grad = (whole * (grid.step / self._public.denominator)).to(parameter.dtype)
        self._optimizer.step()
        return loss

    def noised(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Return the whole sums with the noise of one step on every number: what all else is made of."""
        found = dict[Tensor, Tensor]()
        for parameter, whole in sums.items():
            variance = self._grid_of(parameter).variance(self._public.noise_multiplier)
            drawn = torch.from_numpy(self._random.discrete_gaussian(tuple(whole.shape), variance))
            found[parameter] = whole + drawn.to(whole.device)
        return found

    def _grid_of(self, parameter: Tensor) -> Grid:
        return self._grid.products if parameter in self._products else self._grid.vectors

    def _add_examples(self, batch: Batch, sums: dict[Tensor, Tensor]) -> float:
        """Add each example's clipped gradient, whole numbers, to the sums; return the summed loss.

        An example whose gradient is not finite counts for nothing, and the others as if it had not been there.
        """
        self._ghost.start()
        try:
            losses = self._model.loss(batch)
            if losses.shape != (len(batch.items),):
                raise RefusedError(
                    f"{type(self._model).__name__}.loss gave {tuple(losses.shape)}, not one value an interaction"
                )
            losses.sum().backward()
        except NotImplementedError as error:
            raise RefusedError(
                f"{type(self._model).__name__} calls a layer twice in one loss: call it once, on all ids [B, 1+k]"
            ) from error
        finally:
            self._ghost.disable_hooks()
        with torch.no_grad():
            self._add_whole(self._ghost.get_norm_sample(), sums)
        if not self._ghost.checked:
            check_examples(self._model, self._ghost, batch)
        finite = torch.isfinite(self._ghost.per_sample_gradient_norms)
        return float(losses.detach()[finite].sum())

    def _add_whole(self, norms: Tensor, sums: dict[Tensor, Tensor]) -> None:
        broken = ~torch.isfinite(norms)
        found = [gradient for gradient in self._ghost.NORM_SAMPLERS.found if gradient.parameter in sums]
        for gradient in found if bool(broken.any()) else ():
            gradient.forget(broken)

        def squares(scales: Tensor) -> Tensor:
            return torch.stack([gradient.round(scales, self._grid) for gradient in found]).sum(0)

        fit(first_scales(norms, broken, self._grid), squares, self._grid.longest)
        for gradient in found:
            gradient.add_to(sums[gradient.parameter])


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
        if alone > norm * ROUNDED + 1e-6:
            raise RefusedError(
                f"{type(model).__name__}.loss doesn't split into examples: a gradient of norm {alone:.4g} was seen as "
                f"{norm:.4g}"
            )
    hooks.checked = True
