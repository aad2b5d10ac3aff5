"""Arrays for the weights of a compiled module, converted where the compiler chose another element type."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.artifact import TensorSpec
from hamkaas.passes.hamkaas_convert_weights import SCALES

Array = NDArray[Any]


def bind_weights(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> Iterator[Array]:
    """The array of each weight, in order; one after the other, so that no two copies of a model need be in memory."""
    shape_of = {spec.name: spec.shape for spec in specs}
    for spec in specs:
        if spec.name not in arrays:
            base = spec.name.removesuffix(SCALES)
            yield quantize(arrays[base], shape_of[base][-1] // spec.shape[-1])[1]
        elif arrays[spec.name].dtype == spec.numpy_dtype:
            yield arrays[spec.name]
        elif spec.dtype == "int8":
            yield quantize(arrays[spec.name], spec.shape[-1] // shape_of[spec.name + SCALES][-1])[0]
        else:
            yield arrays[spec.name].astype(spec.numpy_dtype)


def quantize(array: Array, group: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A float32 matrix as int8 numbers and float32 scales, for each group of neighbours in a row (Q8_0).

    array: [rows, n]; the numbers: [rows, n]; the scales: [rows, n / group], such that the largest number is 127.
    """
    groups = np.asarray(array, np.float32).reshape(*array.shape[:-1], -1, group)
    scales = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    values = np.rint(groups / np.where(scales == 0, 1, scales)).astype(np.int8)
    return values.reshape(array.shape), scales[..., 0]
