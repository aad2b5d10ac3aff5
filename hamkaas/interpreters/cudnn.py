"""The meaning of the `cudnn` dialect in numpy: strides are followed exactly, sums are taken in f64.

Every value is computed in f32 and rounded to the element type that its own type names, virtual or not. A device
computes products of f32 as tf32, which this does not imitate: it is the exact reference.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from xdsl.ir import Attribute, Operation, SSAValue

from hamkaas.artifact import NUMPY_DTYPES
from hamkaas.dialects import cudnn
from hamkaas.dialects.cudnn_nodes import Pointwise
from hamkaas.dialects.cudnn_types import GraphTensorType, graph_type
from hamkaas.dialects.hamkaas import tensor_type

Array = NDArray[Any]

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def execute(op: cudnn.ExecuteOp, operands: Sequence[Array]) -> list[Array]:
    """What a `cudnn.execute` gives for these arrays."""
    graph = op.graph()
    values: dict[SSAValue, Array] = {}
    for arg, memory, offset in zip(graph.body.block.args, operands, op.offsets, strict=True):
        values[arg] = _seen_as(np.ascontiguousarray(memory).reshape(-1)[offset:], graph_type(arg))
    for node in graph.nodes:
        exact = MEANING[type(node)](node, *(values[operand] for operand in node.operands))
        values[node.result] = exact.astype(_dtype(graph_type(node.result).element_type))
    return [
        _stored(values[value], graph_type(value), tensor_type(output).get_shape())
        for value, output in zip(graph.yielded.values, op.outputs, strict=True)
    ]


def _seen_as(memory: Array, type: GraphTensorType) -> Array:
    if type.span > memory.size:
        raise ValueError(f"expected {type} to lie in {memory.size} elements")
    return as_strided(memory, type.dims, [step * memory.itemsize for step in type.strides], writeable=False)


def _stored(value: Array, type: GraphTensorType, shape: Sequence[int]) -> Array:
    memory = np.empty(type.span, value.dtype)
    as_strided(memory, type.dims, [step * memory.itemsize for step in type.strides])[...] = value
    return memory.reshape(shape)


def _dtype(type: Attribute) -> np.dtype[Any]:
    return NUMPY_DTYPES[DTYPES[str(type)]]


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def _matmul(op: cudnn.MatmulOp, x: Array, y: Array) -> Array:
    return x.astype(np.float64) @ y.astype(np.float64)


def _pointwise(op: cudnn.PointwiseOp, *inputs: Array) -> Array:
    x = _f32(inputs[0])
    match op.kind.data:
        case Pointwise.ADD:
            return x + _f32(inputs[1])
        case Pointwise.MUL:
            return x * _f32(inputs[1])
        case Pointwise.RELU:
            return np.maximum(x, 0)
        case Pointwise.SILU:
            return x / (1 + np.exp(-x))
        case Pointwise.CAST:
            return x


def _rms_norm(op: cudnn.RmsNormOp, x: Array, weight: Array) -> Array:
    mean = np.mean(np.square(_f32(x)), axis=-1, keepdims=True, dtype=np.float64)
    return x * _f32(weight) / np.sqrt(mean + op.eps.value.data)


def _reduction(op: cudnn.ReductionOp, x: Array) -> Array:
    return np.asarray(np.sum(np.square(_f32(x)), axis=-1, keepdims=True, dtype=np.float64))


def _sdpa(op: cudnn.SdpaOp, query: Array, keys: Array, values: Array, length: Array, *rows: Array) -> Array:
    heads, queries, _ = query.shape
    repeats = heads // len(keys)
    result = np.zeros_like(_f32(query))
    for row in range(queries):
        if (n := int(length.flat[0]) - (queries - 1 - row)) > 0:
            k, v = np.repeat(_f32(keys[:, :n]), repeats, axis=0), np.repeat(_f32(values[:, :n]), repeats, axis=0)
            scores = _f32(query[:, row, None]) @ k.transpose(0, 2, 1) * np.float32(op.scale.value.data)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            result[:, row] = (weights / weights.sum(axis=-1, keepdims=True) @ v)[:, 0]
    return result


MEANING: dict[type[Operation], Callable[..., Array]] = {
    cudnn.MatmulOp: _matmul,
    cudnn.PointwiseOp: _pointwise,
    cudnn.RmsNormOp: _rms_norm,
    cudnn.ReductionOp: _reduction,
    cudnn.SdpaOp: _sdpa,
}
"""What each operation computes from the arrays of its operands, before it is rounded to the result's type."""
