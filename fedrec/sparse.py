"""An array that is mostly zero: what one device adds to a matrix over items, held by its cells."""

from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray


class SparseArray(NDArrayOperatorsMixin):
    """Stands for the array of `shape` that holds `values` at the flat positions `index` (each once), else zeros.

    Squares, multiples and sums stay sparse; everything else that numpy can do with it is done on the dense array, so
    that code that does not know of it is slower and never wrong.
    """

    def __init__(self, index: NDArray[np.int64], values: NDArray[Any], shape: tuple[int, ...]) -> None:
        self.index, self.values, self.shape = index, values, shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self.values.dtype

    @property
    def size(self) -> int:
        """How many values the dense array has."""
        return int(np.prod(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        dense = np.zeros(self.shape, dtype or self.dtype)
        dense.reshape(-1)[self.index] = self.values
        return dense

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        scaled = ufunc is np.multiply and method == "__call__" and np.ndim(inputs[1]) == 0 and inputs[0] is self
        if (ufunc is np.square or scaled) and "out" not in options:
            values = ufunc(self.values, *inputs[1:], **options)
            return SparseArray(self.index, values, self.shape)
        options.pop("out", None)
        dense = [np.asarray(value) if isinstance(value, SparseArray) else value for value in inputs]
        return getattr(ufunc, method)(*dense, **options)

    def astype(self, dtype: Any) -> "SparseArray":
        """Return the same with values of another type."""
        return SparseArray(self.index, self.values.astype(dtype), self.shape)

    def copy(self) -> NDArray[Any]:
        """Return the dense array."""
        return np.array(self)

    def sum(self, *arguments: Any, **options: Any) -> Any:
        """Return the sum of all values."""
        return self.values.sum()

    def add_to(self, total: NDArray[Any]) -> None:
        """Add the values to a dense array of the same shape."""
        total.reshape(-1)[self.index] += self.values


def cells(index: NDArray[np.int64], values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the sparse array under the type of the dense one that it can be used for everywhere."""
    return cast(NDArray[np.float32], SparseArray(index, values, shape))
