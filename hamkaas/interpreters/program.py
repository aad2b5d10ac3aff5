"""The meaning of the `program` dialect in numpy: the kernels of a graph one after the other, on arrays."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from hamkaas.dialects import hamkaas, kernel, program
from hamkaas.errors import RuntimeFault
from hamkaas.interpreters.kernel import dtype_of, run_kernel

Array = NDArray[Any]


def run_program(
    module: ModuleOp,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array],
    states: dict[str, Array],
    function: str = "main",
) -> tuple[Array, ...]:
    """Runs a program on arrays by input name; gives its outputs and updates `states`.

    A state that is not in `states` is zero. Raises `RuntimeFault` if a kernel finds a wrong index.
    """
    ops = list(module.body.block.ops)
    kernels = {op.sym_name.data: op for op in ops if isinstance(op, kernel.FuncOp)}
    for op in ops:
        if isinstance(op, hamkaas.StateOp) and op.sym_name.data not in states:
            states[op.sym_name.data] = np.zeros(op.type.get_shape(), dtype_of(op.type.element_type))
    (main,) = (op for op in ops if isinstance(op, program.FuncOp) and op.sym_name.data == function)
    buffers: dict[SSAValue, Array] = {}
    outputs: dict[int, Array] = {}
    status = np.zeros(1, np.int64)
    for op in main.flat:  # the launches of a persistent kernel are in order too
        match op:
            case program.InputOp():
                buffers[op.memref] = inputs[op.input_name.data].reshape(-1).copy()
            case program.SymbolOp():
                name = op.symbol.root_reference.data
                source = weights[name] if name in weights else states[name]
                buffers[op.memref] = np.ascontiguousarray(source).reshape(-1)
            case program.OutputOp() | program.TempOp():
                shape = op.memref.type.get_shape()
                buffers[op.memref] = np.zeros(prod(shape), dtype_of(op.memref.type))
                if isinstance(op, program.OutputOp):
                    outputs[op.position.value.data] = buffers[op.memref].reshape(shape)
            case program.StatusOp():
                buffers[op.memref] = status
            case program.LaunchOp():
                run_kernel(kernels[op.callee.root_reference.data], [buffers[arg] for arg in op.args])
            case program.CopyOp():
                buffers[op.target][:] = buffers[op.source]
            case _:
                pass  # checks of the host, and barriers: all is in order
    if status[0]:
        raise RuntimeFault(kernel.FAULTS[int(status[0]) - 1])
    return tuple(outputs[position] for position in range(len(outputs)))
