"""From tensors to IR: one module for all graphs of a model."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.ir import Block, Operation, Region, SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.errors import GraphError
from hamkaas.frontend.tensor import BufferTensor, ConstantTensor, InputTensor, Location, Tensor


@dataclass(frozen=True)
class BuiltModule:
    """Graphs as IR, and the arrays of their weights by symbol name."""

    module: ModuleOp
    weights: dict[str, np.ndarray[Any, Any]]


def build_module(graphs: Mapping[str, Tensor | Sequence[Tensor]]) -> BuiltModule:
    """One function for each named graph, over weights and states that they share.

    The inputs of a function are the graph's in the order in which they are first used. Raises `GraphError` for a graph
    without outputs, inputs or symbols whose names clash, and states that are given two next values.
    """
    if not graphs:
        raise GraphError(f"{Location.of_user()}: expected at least one graph, got none")
    for name in graphs:
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GraphError(
                f"{Location.of_user()}: expected a name of a graph that is text, and not empty, got {name!r}"
            )
    symbols = _Symbols(graphs)
    functions = [_build_function(name, outputs, symbols) for name, outputs in graphs.items()]
    return BuiltModule(ModuleOp([*symbols.declarations, *functions]), symbols.weights)


class _Symbols:
    """Names of weights and states; one object has one name in all graphs, and none that a graph or a kernel has."""

    def __init__(self, graphs: Iterable[str]) -> None:
        self._graphs = set(graphs)
        for name in self._graphs:
            if _KERNEL_NAME.fullmatch(name):
                raise GraphError(
                    f"{Location.of_user()}: the name of graph '{name}' is one that a kernel may have; use another"
                )
        self.declarations: list[Operation] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self._name_of: dict[Tensor, str] = {}
        self._tensor_of: dict[str, Tensor] = {}

    def name(self, tensor: ConstantTensor | BufferTensor) -> str:
        """The symbol of a tensor, declared at its first use."""
        if tensor in self._name_of:
            return self._name_of[tensor]
        kind = "constant" if isinstance(tensor, ConstantTensor) else "state"
        name = tensor.name
        if name is None:
            taken = self._tensor_of.keys() | self._graphs
            name = next(n for i in range(len(taken) + 1) if (n := f"{kind}_{i}") not in taken)
        elif name in self._graphs or _KERNEL_NAME.fullmatch(name):
            whose = "a graph has" if name in self._graphs else "a kernel may have"
            raise GraphError(f"{tensor.location}: the name '{name}' is one that {whose}; use another")
        other = self._tensor_of.get(name)
        if other is None:
            self._declare(name, tensor)
        elif not _is_same_weight(tensor, other):
            raise GraphError(f"{tensor.location}: the name '{name}' is taken by another tensor, of {other.location}")
        self._name_of[tensor] = name
        return name

    def _declare(self, name: str, tensor: ConstantTensor | BufferTensor) -> None:
        self._tensor_of[name] = tensor
        if isinstance(tensor, ConstantTensor):
            self.weights[name] = tensor.array
            self.declarations.append(hamkaas.WeightOp(name, tensor.type))
        else:
            self.declarations.append(hamkaas.StateOp(name, tensor.type))


def _is_same_weight(tensor: Tensor, other: Tensor) -> bool:
    return isinstance(tensor, ConstantTensor) and isinstance(other, ConstantTensor) and tensor.array is other.array


def _build_function(name: str, outputs: Tensor | Sequence[Tensor], symbols: _Symbols) -> func.FuncOp:
    where = f"{Location.of_user()}: graph '{name}'"
    if not isinstance(outputs, Tensor | Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GraphError(f"{where}: expected a tensor or several as outputs, got {type(outputs).__name__}")
    results = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not results:
        raise GraphError(f"{where}: expected at least one output, got none")
    for result in results:
        if not isinstance(result, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GraphError(f"{where}: expected tensors as outputs, got {type(result).__name__}")
    order = list(topological(results))
    inputs = [tensor for tensor in order if isinstance(tensor, InputTensor)]
    _check_input_names(inputs)
    block = Block(arg_types=[tensor.type for tensor in inputs])
    values: dict[Tensor, SSAValue] = {}
    read: dict[str, SSAValue] = {}
    for tensor, arg in zip(inputs, block.args, strict=True):
        arg.name_hint = hamkaas.value_name(tensor.name)
        values[tensor] = arg
    for tensor in order:
        if isinstance(tensor, ConstantTensor | BufferTensor):
            symbol = symbols.name(tensor)
            if symbol not in read:
                get = hamkaas.GetOp(symbol, tensor.type)
                block.add_op(get)
                read[symbol] = get.result
            values[tensor] = read[symbol]
        elif tensor.op is not None:
            op = _build_op(tensor, [values[operand] for operand in tensor.operands])
            block.add_op(op)
            values[tensor] = op.results[0]
    for state, last in _next_values(order).items():
        block.add_op(hamkaas.SetOp(symbols.name(state), values[last]))
    block.add_op(func.ReturnOp(*(values[result] for result in results)))
    names = ArrayAttr([DictionaryAttr({"hamkaas.name": StringAttr(tensor.name)}) for tensor in inputs])
    types = ([tensor.type for tensor in inputs], [result.type for result in results])
    return func.FuncOp(name, types, Region(block), arg_attrs=names)


_KERNEL_NAME = re.compile(r"g\d+")
"""What the groups of a graph, and then the kernels, are called."""


def topological(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """All tensors that the results need, operands first; without recursion, since graphs may be deep."""
    done: set[Tensor] = set()
    todo: list[tuple[Tensor, bool]] = [(result, False) for result in reversed(list(results))]
    while todo:
        tensor, is_ready = todo.pop()
        if tensor in done:
            continue
        if is_ready:
            done.add(tensor)
            yield tensor
        else:
            todo.append((tensor, True))
            todo.extend((operand, False) for operand in reversed(tensor.operands))


def _check_input_names(inputs: Sequence[InputTensor]) -> None:
    first: dict[str, InputTensor] = {}
    for tensor in inputs:
        if first.setdefault(tensor.name, tensor) is not tensor:
            other = first[tensor.name]
            raise GraphError(
                f"{tensor.location}: two inputs are named '{tensor.name}'; the other is of {other.location}"
            )


def _build_op(tensor: Tensor, operands: Sequence[SSAValue]) -> Operation:
    assert tensor.op is not None
    if tensor.op is hamkaas.ConstantOp:
        (value,) = tensor.attributes
        element = tensor.type.element_type
        number = IntegerAttr(int(value), i64) if element == i64 else FloatAttr(float(value), cast("AnyFloat", element))
        return hamkaas.ConstantOp(number, tensor.type)
    return tensor.op(*operands, *tensor.attributes)


def _next_values(order: Sequence[Tensor]) -> dict[BufferTensor, Tensor]:
    """For each state that is replaced: the last of the chain of replacements that starts at it."""
    last: dict[Tensor, Tensor] = {}
    state_of: dict[Tensor, BufferTensor] = {}
    for tensor in order:
        if isinstance(tensor, BufferTensor):
            state_of[tensor] = tensor
            last[tensor] = tensor
        elif tensor.op is hamkaas.ReplaceSliceOp and (state := state_of.get(tensor.operands[0])) is not None:
            if last[state] is not tensor.operands[0]:
                raise GraphError(
                    f"{tensor.location}: the state of {state.location} is given another value at "
                    f"{last[state].location}; replace that one instead"
                )
            state_of[tensor] = state
            last[state] = tensor
    return {state: tensor for state, tensor in last.items() if isinstance(state, BufferTensor) and tensor is not state}
