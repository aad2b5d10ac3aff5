"""The meaning of the `kernel` dialect in numpy: all threads of all blocks at once, one operation after the other.

A value is an array with a place for each thread of the grid (and one for each lane of a vector); a mask says which
threads run a branch or a round of a loop. Threads never overtake each other, so that no barrier is needed; one that is
missing is found all the same, since shared memory remembers who wrote and who read since the last one. What no kernel
may do is a `KernelFault`: an index outside its buffer, a vector that is not aligned, a race, a barrier that only some
threads come to.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects import arith, math, scf, vector
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, FloatAttr, IndexType, IntegerAttr
from xdsl.ir import Attribute, Block, Operation, SSAValue

from hamkaas.artifact import NUMPY_DTYPES
from hamkaas.dialects import kernel
from hamkaas.errors import HamkaasError

Array = NDArray[Any]

WARP = 32

ALIGNMENT = 16
"""Bytes at a multiple of which every buffer starts, as far as a kernel may rely on it."""

_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "i64": "int64"}
_OTHERS: dict[str, Any] = {"i1": np.bool_, "i32": np.int32}


class KernelFault(HamkaasError):
    """What a kernel does that no kernel may do."""


def run_kernel(func: kernel.FuncOp, buffers: Sequence[Array]) -> None:
    """Runs all blocks of a kernel on flat arrays, in place."""
    threads = func.grid.value.data * func.block.value.data
    run = _Run(func)
    run.memory.update(zip(func.body.block.args, map(_Global, buffers), strict=True))
    with np.errstate(all="ignore"):
        run.block(func.body.block, np.ones(threads, np.bool_))


@cache
def dtype_of(type: Attribute) -> np.dtype:
    """The numpy type of the elements of a scalar, vector or buffer."""
    element = kernel.element_type(type)
    if isinstance(element, IndexType):
        return np.dtype(np.int64)
    name = str(element)
    return NUMPY_DTYPES[_NAMES[name]] if name in _NAMES else np.dtype(_OTHERS[name])


class _Global:
    """A buffer that all blocks see."""

    def __init__(self, data: Array):
        self.data = data

    def read(self, index: Array, active: Array) -> Array:
        return self.data[np.where(_columns(active, index), index, 0)]

    def write(self, index: Array, value: Array, active: Array) -> None:
        self.data[index[active]] = value[active]


class _Shared:
    """A buffer of which each block has its own. `epochs` counts the barriers that each block has passed."""

    NOBODY, SEVERAL = -1, -2

    def __init__(self, block_of: Array, epochs: Array, size: int, dtype: np.dtype):
        self.data = np.zeros((len(epochs), size), dtype)
        self.block_of = block_of
        self.epochs = epochs
        self.written, self.read_at = (np.full((len(epochs), size), -1) for _ in range(2))
        self.writer, self.reader = (np.full((len(epochs), size), self.NOBODY) for _ in range(2))
        self.threads = np.arange(len(block_of))

    def read(self, index: Array, active: Array) -> Array:
        index = np.where(_columns(active, index), index, 0)
        block, thread = _columns(self.block_of, index), _columns(self.threads, index)
        epoch = self.epochs[block]
        fresh = self.written[block, index] == epoch
        if np.any(fresh & (self.writer[block, index] != thread) & _columns(active, index)):
            raise KernelFault("a thread reads shared memory that another one wrote since the last barrier")
        places = tuple(np.broadcast_arrays(block, index))
        mine, where = np.broadcast_to(thread, index.shape)[active], tuple(place[active] for place in places)
        again = (self.read_at[where] == self.epochs[where[0]]) & (self.reader[where] != mine)
        self.reader[where] = np.where(again, self.SEVERAL, mine)
        # of several threads that read one element now, all but the last have left no trace
        self.reader[where] = np.where(self.reader[where] != mine, self.SEVERAL, self.reader[where])
        self.read_at[where] = self.epochs[where[0]]
        return self.data[block, index]

    def write(self, index: Array, value: Array, active: Array, block: Array | None = None) -> None:
        block = self.block_of if block is None else block
        places = np.broadcast_arrays(_columns(block, index), index, _columns(self.threads, index))
        to, index, thread = (place[active] for place in places)
        value = value[active]
        now = self.epochs[to]
        read = (self.read_at[to, index] == now) & (self.reader[to, index] != thread)
        lost = (self.written[to, index] == now) & (self.writer[to, index] != thread) & (self.data[to, index] != value)
        self.data[to, index] = value
        if np.any(read | lost | ((self.data[to, index] != value) & (value == value))):
            raise KernelFault("a thread writes shared memory that another one uses before the next barrier")
        self.writer[to, index], self.written[to, index] = thread, now


def _columns(per_thread: Array, like: Array) -> Array:
    """One number for each thread, against one for each thread and lane."""
    return per_thread[:, None] if like.ndim == 2 else per_thread


class _Run:
    """One run of a kernel: `values` by SSA value, `memory` by buffer."""

    def __init__(self, func: kernel.FuncOp):
        grid, self.size = func.grid.value.data, func.block.value.data
        self.cluster = func.cluster.value.data
        self.count = grid * self.size
        self.thread_of = np.arange(self.count) % self.size
        self.block_of = np.arange(self.count) // self.size
        self.epochs = np.zeros(grid, np.int64)
        self.relaxed = False
        self.values: dict[SSAValue, Array] = {}
        self.memory: dict[SSAValue, _Global | _Shared] = {}

    def block(self, block: Block, active: Array) -> list[Array]:
        """Runs the operations of a block for some threads; gives what its terminator names."""
        for op in block.ops:
            if isinstance(op, scf.YieldOp | kernel.ReturnOp):
                return [self.values[value] for value in op.operands]
            self.op(op, active)
        return []

    def op(self, op: Operation, active: Array) -> None:
        """Runs one operation."""
        match op:
            case scf.ForOp():
                self.loop(op, active)
            case scf.IfOp():
                self.branch(op, active)
            case kernel.AllocOp():
                (size,) = op.memref.type.get_shape()
                dtype = dtype_of(op.memref.type)
                self.memory[op.memref] = _Shared(self.block_of, self.epochs, size, dtype)
            case kernel.LoadOp():
                index = self.indices(op, op.result.type, active)
                self.values[op.result] = self.memory[op.memref].read(index, active)
            case kernel.StoreOp():
                index = self.indices(op, op.value.type, active)
                self.memory[op.memref].write(index, self.values[op.value], active)
            case kernel.ClusterStoreOp():
                self.cluster_store(op, active)
            case kernel.BarrierOp():
                self.together(active, self.size, "kernel.barrier")
                self.epochs[np.unique(self.block_of[active])] += 1
            case kernel.ClusterArriveOp():
                self.together(active, self.size * self.cluster, op.name)
                self.relaxed = op.relaxed is not None
            case kernel.ClusterWaitOp():
                self.together(active, self.size * self.cluster, op.name)
                if not self.relaxed:
                    self.epochs[np.unique(self.block_of[active])] += 1
            case kernel.LaunchDependentsOp() | kernel.WaitDependencyOp():
                pass
            case _:
                self.values[op.results[0]] = self.compute(op, active)

    def together(self, active: Array, size: int, what: str) -> None:
        """Raises unless of each `size` neighbouring threads all are active, or none."""
        groups = active.reshape(-1, size)
        if np.any(groups.any(axis=1) != groups.all(axis=1)):
            raise KernelFault(f"{what}: only some of {size} threads have come")

    def indices(self, op: Any, type: Attribute, active: Array) -> Array:
        """The elements that a load or a store means: one for each thread and lane."""
        index, lanes = self.values[op.index], _width(type)
        size = op.memref.type.get_shape()[0]
        if np.any(active & ((index < 0) | (index + lanes > size))):
            raise KernelFault(f"{op.name}: index outside a buffer of {size} elements")
        bytes = dtype_of(op.memref.type).itemsize
        if op.align is not None and np.any(active & (index * bytes % min(op.align.value.data, ALIGNMENT) != 0)):
            raise KernelFault(f"{op.name}: address that is no multiple of {op.align.value.data}")
        return index[:, None] + np.arange(lanes) if kernel.is_vector(type) else index

    def cluster_store(self, op: kernel.ClusterStoreOp, active: Array) -> None:
        """A store into the block that has a number within one's own cluster."""
        index, rank = self.indices(op, op.value.type, active), self.values[op.rank]
        if np.any(active & ((rank < 0) | (rank >= self.cluster))):
            raise KernelFault(f"{op.name}: block outside a cluster of {self.cluster}")
        memory = self.memory[op.memref]
        assert isinstance(memory, _Shared), "verified"
        block = self.block_of // self.cluster * self.cluster + np.where(active, rank, 0)
        memory.write(index, self.values[op.value], active, block)

    def loop(self, op: scf.ForOp, active: Array) -> None:
        """Rounds for as long as some thread has one left."""
        counter, *carried = op.body.block.args
        number, high, step = (self.values[value] for value in (op.lb, op.ub, op.step))
        state = [self.values[value] for value in op.iter_args]
        live = active & (number < high)
        while np.any(live):
            self.values.update(zip((counter, *carried), (number, *state), strict=True))
            results = self.block(op.body.block, live)
            state = [_choose(live, new, old) for new, old in zip(results, state, strict=True)]
            number = number + step
            live = live & (number < high)
        self.values.update(zip(op.res, state, strict=True))

    def branch(self, op: scf.IfOp, active: Array) -> None:
        """Both sides, each for the threads that take it."""
        condition = self.values[op.cond]
        sides: list[list[Array]] = []
        for region, some in ((op.true_region, active & condition), (op.false_region, active & ~condition)):
            if region.blocks and (np.any(some) or op.output):
                sides.append(self.block(region.block, some))
        for number, value in enumerate(op.output):
            self.values[value] = _choose(condition, sides[0][number], sides[1][number])

    def compute(self, op: Operation, active: Array) -> Array:
        """The result of an operation without side effects."""
        operands = [self.values[operand] for operand in op.operands]
        dtype = dtype_of(op.results[0].type)
        match op:
            case kernel.BlockIdOp():
                return self.block_of
            case kernel.ThreadIdOp():
                return self.thread_of
            case arith.ConstantOp():
                return self.constant(op, dtype)
            case arith.CmpiOp():
                return _INTEGER_PREDICATES[op.predicate.value.data](*operands)
            case arith.CmpfOp():
                return _FLOAT_PREDICATES[op.predicate.value.data](*operands)
            case arith.SelectOp():
                return _choose(*operands)
            case arith.BitcastOp():
                return np.ascontiguousarray(operands[0]).view(dtype)
            case vector.BroadcastOp():
                return np.repeat(operands[0][:, None], _width(op.vector.type), axis=1)
            case vector.ExtractOp():
                return operands[0][:, int(op.static_position.get_values()[0])]
            case kernel.PackOp():
                return np.stack(operands, axis=1)
            case kernel.ReduceOp():
                join = np.add if op.combine.data is kernel.Combine.ADD else np.fmax
                return join.reduce(operands[0], axis=1)
            case kernel.DotOp():
                return np.sum(operands[0].astype(np.float64) * operands[1], axis=1).astype(dtype)
            case kernel.ShuffleXorOp():
                self.together(active, min(WARP, self.size), op.name)
                return operands[0][self.block_of * self.size + (self.thread_of ^ op.mask.value.data)]
            case _:
                if (function := FUNCTIONS.get(type(op))) is None:
                    raise KernelFault(f"no meaning of {op.name}")
                return np.asarray(function(*operands)).astype(dtype)

    def constant(self, op: arith.ConstantOp, dtype: np.dtype) -> Array:
        """A number, for each thread (and lane)."""
        value = op.value
        if isinstance(value, DenseIntOrFPElementsAttr):
            return np.tile(np.array(value.get_values(), dtype), (self.count, 1))
        assert isinstance(value, FloatAttr | IntegerAttr)
        return np.full(self.count, value.value.data, dtype)


def _width(type: Attribute) -> int:
    return type.get_shape()[0] if kernel.is_vector(type) else 1


def _choose(condition: Array, yes: Array, no: Array) -> Array:
    return np.where(_columns(condition, yes), yes, no)


_INTEGER_PREDICATES: tuple[Callable[..., Array], ...] = (
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
)
"""By number of the predicate: eq ne slt sle sgt sge ult ule ugt uge; the unsigned ones on numbers >= 0 only."""

_FLOAT_PREDICATES: dict[int, Callable[..., Array]] = {
    1: np.equal,
    2: np.greater,
    3: np.greater_equal,
    4: np.less,
    5: np.less_equal,
    13: np.not_equal,
}
"""oeq ogt oge olt ole une."""


def _rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


def _fma(x: Array, y: Array, z: Array) -> Array:
    return x.astype(np.float64) * y + z  # the product is exact


FUNCTIONS: dict[type[Operation], Callable[..., Any]] = {
    arith.AddiOp: np.add,
    arith.SubiOp: np.subtract,
    arith.MuliOp: np.multiply,
    arith.DivUIOp: np.floor_divide,
    arith.RemUIOp: np.remainder,
    arith.AndIOp: np.bitwise_and,
    arith.OrIOp: np.bitwise_or,
    arith.XOrIOp: np.bitwise_xor,
    arith.ShLIOp: np.left_shift,
    arith.MaxSIOp: np.maximum,
    arith.MinSIOp: np.minimum,
    arith.AddfOp: np.add,
    arith.SubfOp: np.subtract,
    arith.MulfOp: np.multiply,
    arith.DivfOp: np.divide,
    arith.NegfOp: np.negative,
    arith.MaximumfOp: np.maximum,
    arith.MaxnumfOp: np.fmax,
    arith.MinnumfOp: np.fmin,
    arith.IndexCastOp: np.asarray,
    arith.TruncIOp: np.asarray,
    arith.ExtUIOp: np.asarray,
    arith.ExtSIOp: np.asarray,
    arith.SIToFPOp: np.asarray,
    arith.FPToSIOp: np.asarray,
    math.ExpOp: np.exp,
    math.Exp2Op: np.exp2,
    math.SqrtOp: np.sqrt,
    math.RsqrtOp: _rsqrt,
    math.AbsFOp: np.abs,
    math.FmaOp: _fma,
    kernel.ConvertOp: np.asarray,
}
"""Operations that compute each thread's result from its own operands."""
