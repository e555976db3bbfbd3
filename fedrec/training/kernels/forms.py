"""Which models the kernel engine can train: those that say what they compute (`closed_form`), and do compute it."""

from importlib.util import find_spec

import torch

from fedrec.errors import RefusedError
from fedrec.models.base import LOSSES, Recommender, TrainableRecommender, labelled
from fedrec.models.closed_forms import ClosedForm
from fedrec.privacy.mechanisms.protocol import Mechanism
from fedrec.training.batches import LocalTrainingConfig
from fedrec.training.vectorized.engine import refused_together

EXAMPLES, PLACES = 5, 3  # of the check
CRITERIA = (*LOSSES.values(), labelled)
NO_NUMBA = "numba is not installed here"


def kernel_reason(model: Recommender, settings: LocalTrainingConfig, mechanism: Mechanism) -> str | None:
    """Return why the kernel engine can't train devices with this model and mechanism, or None where it can."""
    if (reason := refused_together(model, settings, mechanism, checked_form)) is not None:
        return reason
    return None if find_spec("numba") is not None else f"{NO_NUMBA}: pip install numba"


def checked_form(model: TrainableRecommender) -> ClosedForm:
    """Return what the model computes; `RefusedError` says why there is no kernel for it."""
    form, name = model.closed_form, type(model).__name__
    if form is None:
        raise RefusedError(f"{name} has no kernel: it names no closed form (`closed_form`)")
    named = {n: value for n, value in model.named_parameters() if value.requires_grad}
    learned = form.shared & named.keys()
    if named.keys() != learned | form.private or model.shared != learned or type(model).loss is not _LOSS:
        raise RefusedError(f"{name} learns other arrays, or by another loss, than its closed form names")
    if any(value.device.type != "cpu" or value.dtype != torch.float32 for value in named.values()):
        raise RefusedError("the kernel trains in single precision, on the processor")
    if model.criterion not in CRITERIA:
        raise RefusedError(f"the criterion of {name} is none of {', '.join(one.__name__ for one in CRITERIA)}")
    check_logits(model, form)
    return form


def check_logits(model: TrainableRecommender, form: ClosedForm) -> None:
    """Raise `RefusedError` unless the model has the logits of the closed form, whatever its parameters are."""
    generator = torch.Generator().manual_seed(0)
    drawn = {n: torch.randn(value.shape, generator=generator) for n, value in model.named_parameters()}
    items = torch.arange(EXAMPLES * PLACES).reshape(EXAMPLES, PLACES) * 7 % model.items
    with torch.no_grad():
        own = torch.func.functional_call(model, drawn, (items,))
    try:
        mine = form.logits({**dict(model.named_buffers()), **drawn}, items)
    except (KeyError, RuntimeError) as error:
        raise RefusedError(f"the closed form of {type(model).__name__} does not fit its arrays: {error}") from error
    if own.shape != mine.shape or not torch.allclose(own, mine, rtol=1e-3, atol=1e-4):
        raise RefusedError(f"{type(model).__name__} has other logits than its closed form")


_LOSS = TrainableRecommender.loss
