"""What a cuDNN graph must give, computed from its specification alone: a plan that gives anything else cannot win.

Arguments are flat arrays of memory, seen through dims and strides as a device sees them. Nothing is rounded to 16 bits
in between: that is the plan's affair, and part of the tolerance. All is computed in float64 where plans are expected to
be right in float32, else in float32, which takes half the time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from hamkaas.artifact import CudnnGraph, CudnnNode, CudnnTensor

Array = NDArray[Any]

TOLERANCE = {"float32": 1e-5, "tf32": 5e-3, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest error, relative to the largest number of the reference, by the type that limits the accuracy."""


def random_inputs(spec: CudnnGraph, seed: int = 0) -> list[Array]:
    """Memory for each input: normal numbers; for a length, about half of the positions."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for number in spec.inputs:
        tensor = spec.tensors[number]
        if tensor.dtype == "int32":
            arrays.append(np.array([_count(spec, number)], np.int32))
        else:
            arrays.append(rng.standard_normal(tensor.span).astype(tensor.numpy_dtype))
    return arrays


def _count(spec: CudnnGraph, number: int) -> int:
    """What an int32 input of attention holds: the number of queries, or a length that they fit in."""
    node = next(node for node in spec.nodes if node.kind == "sdpa" and number in node.inputs[3:])
    queries, positions = spec.tensors[node.inputs[0]].dims[1], spec.tensors[node.inputs[1]].dims[1]
    return queries if number in node.inputs[4:] else max(min(queries, positions), positions // 2 + 1)


def evaluate(spec: CudnnGraph, inputs: Sequence[Array]) -> list[Array]:
    """The outputs, by their dims."""
    precision = np.float64 if tolerance(spec) == TOLERANCE["float32"] else np.float32
    values: dict[int, Array] = {}
    for number, memory in zip(spec.inputs, inputs, strict=True):
        values[number] = seen(memory, spec.tensors[number]).astype(precision)
    with np.errstate(all="ignore"):
        for node in spec.nodes:
            values[node.output] = NODES[node.kind](node, *(values[number] for number in node.inputs))
    return [values[number] for number in spec.outputs]


def seen(memory: Array, tensor: CudnnTensor) -> Array:
    """Memory as a tensor sees it."""
    assert memory.size >= tensor.span
    return as_strided(memory, tensor.dims, [step * memory.itemsize for step in tensor.strides])


def error(result: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number of the reference; infinite where one is not finite."""
    if not np.isfinite(result.astype(np.float64)).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(result.astype(np.float64) - expected).max()) / scale


def tolerance(spec: CudnnGraph) -> float:
    """The error that a right plan may have: that of the coarsest type in the graph."""
    types = {spec.compute, *(tensor.dtype for tensor in spec.tensors)} - {"int32"}
    return max(TOLERANCE[type] for type in types)


def _rms_norm(node: CudnnNode, x: Array, weight: Array) -> Array:
    return x * weight / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + node.number)


def _sdpa(node: CudnnNode, query: Array, keys: Array, values: Array, length: Array, *rows: Array) -> Array:
    n, repeats, queries = int(length.flat[0]), len(query) // len(keys), query.shape[1]
    if not n:
        return np.zeros_like(query)
    k, v = np.repeat(keys[:, :n], repeats, axis=0), np.repeat(values[:, :n], repeats, axis=0)
    scores = query @ k.transpose(0, 2, 1) * node.number
    last = n - queries + np.arange(queries, dtype=np.int64)[:, None]  # causal; one query sees all
    scores = np.where(np.arange(n) <= last, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
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


def _cast(node: CudnnNode, x: Array) -> Array:
    return x


def _sum_of_squares(node: CudnnNode, x: Array) -> Array:
    return np.sum(np.square(x), axis=-1, keepdims=True)


NODES: dict[str, Callable[..., Array]] = {
    "matmul": _matmul,
    "add": _add,
    "mul": _mul,
    "relu": _relu,
    "silu": _silu,
    "cast": _cast,
    "rmsnorm": _rms_norm,
    "sum_of_squares": _sum_of_squares,
    "sdpa": _sdpa,
}
"""What a node of each kind computes."""
