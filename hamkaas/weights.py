"""Arrays for the weights of a compiled module, converted where the compiler chose another element type."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.artifact import TensorSpec
from hamkaas.errors import CompileError
from hamkaas.passes.hamkaas_convert_weights import SCALES

Array = NDArray[Any]


def bind_weights(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> Iterator[Array]:
    """The array of each weight, in order; one after the other, so that no two copies of a model need be in memory."""
    specs_of = {spec.name: spec for spec in specs}
    for spec in specs:
        if spec.name not in arrays:
            base = spec.name.removesuffix(SCALES)
            yield quantize(arrays[base], specs_of[base].shape[-1] // spec.shape[-1], spec.numpy_dtype)[1]
        elif arrays[spec.name].dtype == spec.numpy_dtype:
            yield arrays[spec.name]
        elif spec.dtype == "int8":
            scales = specs_of[spec.name + SCALES]
            yield quantize(arrays[spec.name], spec.shape[-1] // scales.shape[-1], scales.numpy_dtype)[0]
        else:
            yield arrays[spec.name].astype(spec.numpy_dtype)


def quantize(array: Array, group: int, dtype: Any = np.float32) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """A float32 matrix as int8 numbers and scales of float32 or float16, for groups of neighbours in a row (Q8_0).

    array: [rows, n]; the numbers: [rows, n]; the scales: [rows, n / group], the least that lets the largest number of a
    group be no more than 127. Raises `CompileError` for numbers that are too large for scales of the type.
    """
    groups = np.asarray(array, np.float32).reshape(*array.shape[:-1], -1, group)
    exact = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    with np.errstate(over="ignore"):
        near: Array = exact.astype(dtype)
    if np.isinf(near).any() and np.isfinite(exact).all():
        largest = 127 * float(np.finfo(dtype).max)
        raise CompileError(f"expected weights of at most {largest:.0f}, got {127 * float(exact.max()):.0f}")
    scales: Array = np.where(near < exact, np.nextafter(near, np.inf, dtype=dtype), near)
    steps = scales.astype(np.float32)
    values = np.rint(groups / np.where(steps == 0, 1, steps)).astype(np.int8)
    return values.reshape(array.shape), scales[..., 0]
