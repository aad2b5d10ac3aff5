"""Arrays for the weights of a compiled module, converted where the compiler chose another element type."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.artifact import Artifact
from hamkaas.errors import CompileError

Array = NDArray[Any]


def bind_weights(artifact: Artifact, arrays: Mapping[str, Array]) -> Iterator[Array]:
    """The array of each weight, in order; one after the other, so that no two copies of a model need be in memory.

    Raises `CompileError` for numbers that the element type of their weight cannot hold.
    """
    specs = {spec.name: spec for spec in artifact.weights}
    scales_of = dict(artifact.scaled)
    values_of = {scales: values for values, scales in artifact.scaled}
    for name, spec in specs.items():
        values = values_of.get(name, name)
        array = arrays[values]
        if values in scales_of and array.dtype != np.int8:
            scales = specs[scales_of[values]]
            pair = quantize(array, array.shape[-1] // scales.shape[-1], scales.numpy_dtype, values)
            yield pair[values != name]
        else:
            yield convert(array, spec.numpy_dtype, name)


def convert(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """The same numbers in another dtype, rounded to nearest even.

    Raises `CompileError` for a finite number that the dtype cannot hold; infinities and NaN stay what they are.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    lost = np.isinf(converted) & np.isfinite(array)
    if lost.any():
        number = array[lost][0]
        raise CompileError(f"weight '{name}': expected numbers that {dtype} can hold, got {float(number):g}")
    return converted


def quantize(
    array: Array, group: int, dtype: Any = np.float32, name: str = ""
) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """A float32 matrix as int8 numbers and scales of float32 or float16, for groups of neighbours in a row (Q8_0).

    array: [rows, n]; the numbers: [rows, n]; the scales: [rows, n / group], the least that lets the largest number of a
    group be no more than 127. Raises `CompileError` for numbers that are too large for scales of the type, and for
    infinities and NaN, which a group cannot hold beside others; `name` is what it calls the weight.
    """
    where = f"weight '{name}': " if name else ""
    if not np.isfinite(array).all():
        raise CompileError(f"{where}expected finite numbers for int8, got {array[~np.isfinite(array)][0]}")
    groups = np.asarray(array, np.float32).reshape(*array.shape[:-1], -1, group)
    exact = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    with np.errstate(over="ignore"):
        near: Array = exact.astype(dtype)
    if np.isinf(near).any():
        largest = 127 * float(np.finfo(dtype).max)
        raise CompileError(f"{where}expected numbers of at most {largest:g} for int8, got {127 * float(exact.max()):g}")
    scales: Array = np.where(near < exact, np.nextafter(near, np.inf, dtype=dtype), near)
    steps = scales.astype(np.float32)
    values = np.rint(groups / np.where(steps == 0, 1, steps)).astype(np.int8)
    return values.reshape(array.shape), scales[..., 0]
