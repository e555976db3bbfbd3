"""A device that only pretends to be elsewhere: what is there can't be mixed with what is here, as with CUDA.

Its tensors compute on the CPU, but torch takes them for tensors of the "meta" device, the one that autograd runs
without hardware: to mix them with others, or to read them as an array, fails as it would with an accelerator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = "meta"


class There(Tensor):
    """A tensor elsewhere; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME),
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        """Return the numbers, as a tensor of any device does."""
        return self.here.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["here"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Pretence(TorchDispatchMode):
    """Sends tensors there and back, and makes new ones there where that is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU; refuse a mixture, but for numbers without dimensions, which any device takes."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = any(isinstance(value, There) for value in tensors)
    device, moves = kwargs.get("device"), func in MOVES
    if there and not moves and any(value.dim() and not isinstance(value, There) for value in tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    goes = there if device is None else torch.device(device).type == NAME
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten.copy_.default:
        goes = isinstance(args[0], There)
    args, kwargs = tree_map_only(There, lambda value: value.here, (args, kwargs))
    found = func(*args, **kwargs)
    return tree_map_only(Tensor, There, found) if goes else found


# What may take tensors of two places: copies, and indices that CUDA takes from either.
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor}


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within, the device NAME is elsewhere."""
    with Pretence():
        yield
