"""What a cuDNN graph must give, computed from its specification alone: a plan that gives anything else cannot win.

Arguments are flat arrays of memory, seen through dims and strides as a device sees them. Sums are taken in float64,
values in between are kept in float64: rounding is the plan's affair, and part of the tolerance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hamkaas.artifact import NUMPY_DTYPES, CudnnGraph, CudnnNode, CudnnTensor

Array = NDArray[Any]

TOLERANCE = {"float32": 1e-5, "tf32": 5e-3, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest error, relative to the largest number of the reference, by the type that limits the accuracy."""


def memory_size(tensor: CudnnTensor) -> int:
    """Elements of memory from a tensor's first to its last."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.dims, tensor.strides, strict=True))


def dtype_of(tensor: CudnnTensor) -> np.dtype[Any]:
    """The numpy dtype of the elements."""
    return np.dtype(np.int32) if tensor.dtype == "int32" else NUMPY_DTYPES[tensor.dtype]


def random_inputs(spec: CudnnGraph, seed: int = 0) -> list[Array]:
    """Memory for each input: normal numbers; for a length, about half of the positions."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for number in spec.inputs:
        tensor = spec.tensors[number]
        if tensor.dtype == "int32":
            positions = max(spec.tensors[node.inputs[1]].dims[1] for node in spec.nodes if node.kind == "sdpa")
            arrays.append(np.array([positions // 2 + 1], np.int32))
        else:
            arrays.append(rng.standard_normal(memory_size(tensor)).astype(dtype_of(tensor)))
    return arrays


def evaluate(spec: CudnnGraph, inputs: Sequence[Array]) -> list[Array]:
    """The outputs, in float64 and by their dims."""
    values: dict[int, Array] = {}
    for number, memory in zip(spec.inputs, inputs, strict=True):
        values[number] = seen(memory, spec.tensors[number]).astype(np.float64)
    with np.errstate(all="ignore"):
        for node in spec.nodes:
            values[node.output] = NODES[node.kind](node, *(values[number] for number in node.inputs))
    return [values[number] for number in spec.outputs]


def seen(memory: Array, tensor: CudnnTensor) -> Array:
    """Memory as a tensor sees it."""
    assert memory.size >= memory_size(tensor)
    return as_strided(memory, tensor.dims, [step * memory.itemsize for step in tensor.strides])


def error(result: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number of the reference; infinite where one is not finite."""
    if not np.isfinite(result.astype(np.float64)).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(result.astype(np.float64) - expected).max()) / scale


def tolerance(spec: CudnnGraph) -> float:
    """The error that a right plan may have."""
    return max(TOLERANCE[spec.compute], TOLERANCE[spec.io])


def _rms_norm(node: CudnnNode, x: Array, weight: Array) -> Array:
    return x * weight / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + node.number)


def _sdpa(node: CudnnNode, query: Array, keys: Array, values: Array, length: Array) -> Array:
    n, repeats = int(length.flat[0]), len(query) // len(keys)
    k, v = np.repeat(keys[:, :n], repeats, axis=0), np.repeat(values[:, :n], repeats, axis=0)
    if not n:
        return np.zeros_like(query)
    weights = np.exp((scores := query @ k.transpose(0, 2, 1) * node.number) - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def _matmul(node: CudnnNode, x: Array, y: Array) -> Array:
    return x @ y


def _add(node: CudnnNode, x: Array, y: Array) -> Array:
    return x + y


def _mul(node: CudnnNode, x: Array, y: Array) -> Array:
    return x * y


def _relu(node: CudnnNode, x: Array) -> Array:
    return np.maximum(x, 0)


def _silu(node: CudnnNode, x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _sum_of_squares(node: CudnnNode, x: Array) -> Array:
    return np.square(x) @ np.ones((x.shape[-1], 1))


NODES: dict[str, Callable[..., Array]] = {
    "matmul": _matmul,
    "add": _add,
    "mul": _mul,
    "relu": _relu,
    "silu": _silu,
    "rmsnorm": _rms_norm,
    "sum_of_squares": _sum_of_squares,
    "sdpa": _sdpa,
}
"""What a node of each kind computes."""
