"""The meaning of the `hamkaas` dialect in numpy: slow, obvious, and what every target is compared with.

Floats are computed in f32 and rounded to the type of the result, as the dialect says.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects import func
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Block, Operation, SSAValue

from hamkaas.artifact import NUMPY_DTYPES
from hamkaas.dialects import cudnn, hamkaas, kernel
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.errors import RuntimeFault
from hamkaas.interpreters.cudnn import execute

Array = NDArray[Any]

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "i64": "int64"}


def run_function(
    module: ModuleOp,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array],
    states: dict[str, Array],
    function: str = "main",
) -> tuple[Array, ...]:
    """Runs a function of a module on arrays by input name; gives its results and updates `states`.

    A state that is not in `states` is zero. Raises `RuntimeFault` for an index outside its tensor.
    """
    symbols = {_symbol_name(op): op for op in module.body.block.ops}
    run = _Run(symbols, weights, states)
    main = symbols[function]
    assert isinstance(main, func.FuncOp)
    values: dict[SSAValue, Array] = {}
    for number, arg in enumerate(main.body.block.args):
        attribute = main.arg_attrs.data[number].data.get("hamkaas.name") if main.arg_attrs is not None else None
        name = attribute.data if isinstance(attribute, StringAttr) else arg.name_hint or f"arg{number}"
        values[arg] = inputs[name]
    with np.errstate(all="ignore"):
        results = run.block(main.body.block, values)
    states.update(run.next_states)
    return tuple(results)


def _symbol_name(op: Operation) -> str:
    name = op.properties.get("sym_name")
    return name.data if isinstance(name, StringAttr) else ""


class _Run:
    """One run of a function."""

    def __init__(self, symbols: Mapping[str, Operation], weights: Mapping[str, Array], states: Mapping[str, Array]):
        self.symbols = symbols
        self.weights = weights
        self.states = states
        self.next_states: dict[str, Array] = {}

    def block(self, block: Block, values: dict[SSAValue, Array]) -> list[Array]:
        """Runs a block; gives what its terminator names."""
        for op in block.ops:
            operands = [values[operand] for operand in op.operands]
            match op:
                case func.ReturnOp() | hamkaas.YieldOp():
                    return operands
                case hamkaas.GetOp():
                    values[op.result] = self._get(op)
                case hamkaas.SetOp():
                    self.next_states[op.symbol.root_reference.data] = operands[0]
                case hamkaas.ExecuteOp():
                    group = self.symbols[op.callee.root_reference.data]
                    assert isinstance(group, hamkaas.GroupOp)
                    results = self.block(group.body.block, dict(zip(group.body.block.args, operands, strict=True)))
                    values.update(zip(op.outputs, results, strict=True))
                case cudnn.ExecuteOp():
                    values.update(zip(op.outputs, execute(op, operands), strict=True))
                case _:
                    dtype = NUMPY_DTYPES[DTYPES[str(tensor_type(op.results[0]).element_type)]]
                    values[op.results[0]] = np.asarray(MEANING[type(op)](op, *operands)).astype(dtype)
        raise AssertionError("a block ends in a terminator")

    def _get(self, op: hamkaas.GetOp) -> Array:
        name = op.symbol.root_reference.data
        symbol = self.symbols[name]
        if isinstance(symbol, hamkaas.WeightOp):
            return self.weights[name]
        if isinstance(symbol, hamkaas.PackedWeightOp):
            return np.concatenate([self.weights[part] for part in symbol.parts])
        if name in self.states:
            return self.states[name]
        type = tensor_type(op.result)
        return np.zeros(type.get_shape(), NUMPY_DTYPES[DTYPES[str(type.element_type)]])


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def _in_range(index: Array, high: int, fault: int) -> None:
    if index.min() < 0 or index.max() > high:
        raise RuntimeFault(kernel.FAULTS[fault - 1])


def _constant(op: hamkaas.ConstantOp) -> Array:
    assert isinstance(op.value, FloatAttr | IntegerAttr)
    return np.full(tensor_type(op.result).get_shape(), op.value.value.data)


def _relu(op: hamkaas.ReluOp, x: Array) -> Array:
    return np.maximum(_f32(x), 0)


def _silu(op: hamkaas.SiluOp, x: Array) -> Array:
    return _f32(x) / (1 + np.exp(-_f32(x)))


def _add(op: hamkaas.AddOp, x: Array, y: Array) -> Array:
    return _f32(x) + _f32(y)


def _mul(op: hamkaas.MulOp, x: Array, y: Array) -> Array:
    return _f32(x) * _f32(y)


def _complex_mul(op: hamkaas.ComplexMulOp, x: Array, y: Array) -> Array:
    a, b, c, d = _f32(x)[..., 0], _f32(x)[..., 1], _f32(y)[..., 0], _f32(y)[..., 1]
    return np.stack([a * c - b * d, a * d + b * c], axis=-1)


def _cast(op: hamkaas.CastOp, x: Array) -> Array:
    return _f32(x)


def _dequantize(op: hamkaas.DequantizeOp, values: Array, scales: Array) -> Array:
    return _f32(values) * np.repeat(_f32(scales), op.group, axis=-1)


def _reshape(op: hamkaas.ReshapeOp, x: Array) -> Array:
    return x.reshape(tensor_type(op.result).get_shape())


def _permute(op: hamkaas.PermuteOp, x: Array) -> Array:
    return x.transpose(op.permutation)


def _slice(op: hamkaas.SliceOp, x: Array) -> Array:
    return x[op.begin.value.data : op.end.value.data]


def _replace_slice(op: hamkaas.ReplaceSliceOp, base: Array, replacement: Array, begin: Array, end: Array) -> Array:
    _in_range(begin, len(base) - len(replacement), 1)
    if end[0] - begin[0] != len(replacement):
        raise RuntimeFault(kernel.FAULTS[0])
    result = base.copy()
    result[begin[0] : end[0]] = replacement
    return result


def _gather(op: hamkaas.GatherOp, table: Array, index: Array) -> Array:
    _in_range(index, len(table) - 1, 2)
    return table[index]


def _matmul(op: hamkaas.MatmulOp, x: Array, y: Array) -> Array:
    # float64 holds the products exactly: the reference that sums in f32 are compared with
    return x.astype(np.float64) @ y.astype(np.float64)


def _rms_norm(op: hamkaas.RmsNormOp, x: Array, weight: Array) -> Array:
    mean = np.mean(np.square(_f32(x)), axis=-1, keepdims=True, dtype=np.float64)
    return x * _f32(weight) / np.sqrt(mean + op.eps.value.data)


def _rms_scale(op: hamkaas.RmsScaleOp, x: Array, weight: Array, sums: Array) -> Array:
    return x * _f32(weight) / np.sqrt(sums / x.shape[-1] + op.eps.value.data)


def _sliced_softmax(op: hamkaas.SlicedSoftmaxOp, x: Array, prefix: Array) -> Array:
    _in_range(prefix, x.shape[-1], 3)
    result = _f32(x).reshape(-1, x.shape[-1])
    for number, row in enumerate(result):
        n = prefix[number % len(prefix)]
        if n:
            weights = np.exp(row[:n] - row[:n].max())
            row[:n] = weights / weights.sum()
    return result.reshape(x.shape)


def _argmax(op: hamkaas.ArgmaxOp, x: Array) -> Array:
    return np.atleast_1d(np.argmax(np.where(np.isnan(_f32(x)), -np.inf, _f32(x)), axis=-1))


def _sample(op: hamkaas.SampleOp, logits: Array, temperature: Array, top_p: Array, coin: Array) -> Array:
    logits = np.where(np.isnan(logits), -np.inf, logits)
    if not temperature[0] > 0:
        return np.argmax(logits, keepdims=True)
    below = np.where(logits == logits.max(), 0, logits.astype(np.float64) - logits.max())
    weights = np.exp(below / temperature[0])
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order] / weights.sum())
    kept = len(sums) if top_p[0] >= 1 else min(int(np.searchsorted(sums, float(top_p[0]), side="right")) + 1, len(sums))
    inside = min(np.fmax(coin[0], 0), hamkaas.LARGEST_COIN)
    place = int(np.searchsorted(sums[:kept], float(inside * sums[kept - 1]), side="right"))
    return order[min(place, kept - 1)][None]


def _attention(op: hamkaas.AttentionOp, query: Array, keys: Array, values: Array, length: Array) -> Array:
    _in_range(length, len(keys), 4)
    queries = _f32(query).reshape(op.queries, *query.shape[-2:])
    if op.is_causal:
        length = np.maximum(length - np.arange(op.queries)[::-1], 0)
    repeats = queries.shape[1] // keys.shape[1]
    k, v = np.repeat(_f32(keys), repeats, axis=1), np.repeat(_f32(values), repeats, axis=1)
    result = np.zeros_like(queries)
    for t, n in enumerate(length):
        if n:
            scores = np.einsum("hd,jhd->hj", queries[t], k[:n]) * np.float32(op.scale.value.data)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            result[t] = np.einsum("hj,jhd->hd", weights / weights.sum(axis=1, keepdims=True), v[:n])
    return result.reshape(query.shape)


MEANING: dict[type[Operation], Callable[..., Array]] = {
    hamkaas.ConstantOp: _constant,
    hamkaas.ReluOp: _relu,
    hamkaas.SiluOp: _silu,
    hamkaas.AddOp: _add,
    hamkaas.MulOp: _mul,
    hamkaas.ComplexMulOp: _complex_mul,
    hamkaas.CastOp: _cast,
    hamkaas.DequantizeOp: _dequantize,
    hamkaas.ReshapeOp: _reshape,
    hamkaas.PermuteOp: _permute,
    hamkaas.SliceOp: _slice,
    hamkaas.ReplaceSliceOp: _replace_slice,
    hamkaas.GatherOp: _gather,
    hamkaas.MatmulOp: _matmul,
    hamkaas.RmsNormOp: _rms_norm,
    hamkaas.RmsScaleOp: _rms_scale,
    hamkaas.SlicedSoftmaxOp: _sliced_softmax,
    hamkaas.ArgmaxOp: _argmax,
    hamkaas.SampleOp: _sample,
    hamkaas.AttentionOp: _attention,
}
"""What each operation computes from the arrays of its operands, before it is rounded to the result's type."""
