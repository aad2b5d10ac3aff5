"""The `kernel` dialect: what one thread block (CUDA) or one worker (CPU) does.

A `kernel.func` is a program for one block. The grid is one-dimensional, blocks are independent of each other unless
they form clusters, and every size is a constant. On CUDA the block's threads all run the body and differ by
`kernel.thread_id`; on the CPU a block is one worker, which uses vectors. Loops, arithmetic and mathematical functions
are those of `scf`, `arith`, `math` and `vector`; this dialect adds what they lack: ids, memory with alignment and cache
hints, barriers and exchange between threads. Buffers are flat (rank 1): all index arithmetic is in the open.
"""

from collections.abc import Sequence
from enum import auto
from typing import ClassVar, TypeGuard

from xdsl.dialects.builtin import (
    I64,
    AnyFloat,
    ArrayAttr,
    DenseArrayBase,
    Float32Type,
    FunctionType,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    StringAttr,
    SymbolNameConstraint,
    UnitAttr,
    VectorType,
    f32,
    i64,
)
from xdsl.dialects.utils import EnumAttribute, parse_func_op_like, print_func_op_like
from xdsl.ir import Attribute, Block, Dialect, ParametrizedAttribute, Region, SpacedOpaqueSyntaxAttribute, SSAValue
from xdsl.irdl import (
    AnyAttr,
    BaseAttr,
    IRDLOperation,
    VarConstraint,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import (
    IsolatedFromAbove,
    IsTerminator,
    MemoryAllocEffect,
    MemoryReadEffect,
    MemoryWriteEffect,
    NoMemoryEffect,
    Pure,
    SymbolOpInterface,
)
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum


def is_memref(type: Attribute) -> TypeGuard[MemRefType[Attribute]]:
    """Whether it is a buffer. For type checkers: `isinstance` leaves the elements unknown, and `isa` takes 35 us."""
    return isinstance(type, MemRefType)


def is_vector(type: Attribute) -> TypeGuard[VectorType[Attribute]]:
    """Whether it is a vector, as `is_memref`."""
    return isinstance(type, VectorType)


def element_type(type: Attribute) -> Attribute:
    """The type of the elements of a vector or a buffer; a scalar is its own."""
    return type.element_type if is_vector(type) or is_memref(type) else type


FAULTS = (
    "bounds of hamkaas.replace_slice outside the tensor",
    "index of hamkaas.gather outside the table",
    "prefix of hamkaas.sliced_softmax outside the last axis",
    "length of hamkaas.attention outside the positions",
)
"""What a kernel can find wrong with indices that were computed on the device; code k is text k - 1."""

MAX_CLUSTER = 8
"""Blocks of a cluster that every GPU with clusters can run."""


class Space(StrEnum):
    """Where a buffer lives, as a kernel sees it. Registers are SSA values; global memory is the default."""

    SHARED = auto()
    """Memory of one block: shared memory on CUDA, the worker's stack on the CPU."""


@irdl_attr_definition
class SpaceAttr(EnumAttribute[Space], SpacedOpaqueSyntaxAttribute):
    """The memory space of a memref: `memref<32xf32, #kernel<space shared>>`."""

    name = "kernel.space"


class Cache(StrEnum):
    """How a load treats the caches."""

    STREAM = auto()
    """Data that is read once, such as weights: do not displace what is reused."""


@irdl_attr_definition
class CacheAttr(EnumAttribute[Cache], SpacedOpaqueSyntaxAttribute):
    """The cache hint of a load: `#kernel<cache stream>`."""

    name = "kernel.cache"


class Combine(StrEnum):
    """An associative operation that joins partial results."""

    ADD = auto()
    MAX = auto()


@irdl_attr_definition
class CombineAttr(EnumAttribute[Combine], SpacedOpaqueSyntaxAttribute):
    """The operation of a reduction: `#kernel<combine add>`."""

    name = "kernel.combine"


@irdl_attr_definition
class BoundAttr(ParametrizedAttribute):
    """Every i64 element of argument `arg` must lie between `low` and `high`; else the fault is `FAULTS[fault - 1]`.

    The kernel itself never touches memory outside its buffers; the bound lets the host check an input beforehand.
    Prints as `#kernel.bound<2 in 0 to 511 fault 1>`.
    """

    name = "kernel.bound"
    arg: IntAttr
    low: IntAttr
    high: IntAttr
    fault: IntAttr

    @classmethod
    def of(cls, arg: int, low: int, high: int, fault: int) -> "BoundAttr":
        """The bound with these numbers."""
        return cls(IntAttr(arg), IntAttr(low), IntAttr(high), IntAttr(fault))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            arg = parser.parse_integer()
            parser.parse_keyword("in")
            low = parser.parse_integer()
            parser.parse_keyword("to")
            high = parser.parse_integer()
            parser.parse_keyword("fault")
            return [IntAttr(arg), IntAttr(low), IntAttr(high), IntAttr(parser.parse_integer())]

    def print_parameters(self, printer: Printer) -> None:
        printer.print_string(f"<{self.arg.data} in {self.low.data} to {self.high.data} fault {self.fault.data}>")


@irdl_attr_definition
class SpanAttr(ParametrizedAttribute):
    """The one element of argument `end` minus that of argument `begin` must be `length`.

    Prints as `#kernel.span<2 to 3 is 1>`.
    """

    name = "kernel.span"
    begin: IntAttr
    end: IntAttr
    length: IntAttr

    @classmethod
    def of(cls, begin: int, end: int, length: int) -> "SpanAttr":
        """The span with these numbers."""
        return cls(IntAttr(begin), IntAttr(end), IntAttr(length))

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            begin = parser.parse_integer()
            parser.parse_keyword("to")
            end = parser.parse_integer()
            parser.parse_keyword("is")
            return [IntAttr(begin), IntAttr(end), IntAttr(parser.parse_integer())]

    def print_parameters(self, printer: Printer) -> None:
        printer.print_string(f"<{self.begin.data} to {self.end.data} is {self.length.data}>")


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends the body of a `kernel.func`.

    ```mlir
    kernel.func @nothing(%x: memref<4xf32>)
        attributes {grid = 1 : i64, block = 1 : i64, inputs = 1 : i64, results = array<i64>} {
      kernel.return
    }
    ```
    """

    name = "kernel.return"
    traits = traits_def(IsTerminator(), NoMemoryEffect())
    assembly_format = "attr-dict"


@irdl_op_definition
class FuncOp(IRDLOperation):
    """What one block does; `grid` blocks of `block` threads make a launch.

    Arguments are flat memrefs: the `inputs` of the group that the kernel came from, then a buffer for each result that
    is not written in place, then, if `status` is set, one i64 for faults. `results` names the argument of each
    result. `bounds` and `spans` say which index arguments the host may check beforehand. `constants`, where it is
    given, names the arguments that no launch writes: the kernel may start before the launches ahead of it have ended
    and read these, but nothing else until `kernel.wait_dependency`. `cluster` neighbouring blocks run at the same time
    and can write into each other's memory (CUDA from sm_90 on). `min_blocks` is how many blocks a multiprocessor is to
    hold at least, so that 1 lets a thread take as many registers as there are; with 0 the compiler behind decides.

    ```mlir
    kernel.func @copy(%x: memref<256xf32>, %y: memref<256xf32>)
        attributes {grid = 2 : i64, block = 128 : i64, inputs = 1 : i64, results = array<i64: 1>} {
      %block = kernel.block_id
      %thread = kernel.thread_id
      %size = arith.constant 128 : index
      %first = arith.muli %block, %size : index
      %i = arith.addi %first, %thread : index
      %v = kernel.load %x[%i] : memref<256xf32> -> f32
      kernel.store %v, %y[%i] : f32, memref<256xf32>
      kernel.return
    }
    ```
    """

    name = "kernel.func"
    sym_name = prop_def(SymbolNameConstraint())
    function_type = prop_def(FunctionType)
    grid = prop_def(IntegerAttr[I64])
    block = prop_def(IntegerAttr[I64])
    results_ = prop_def(DenseArrayBase.constr(i64), prop_name="results")
    bounds = prop_def(ArrayAttr[BoundAttr], default_value=ArrayAttr([]))
    spans = prop_def(ArrayAttr[SpanAttr], default_value=ArrayAttr([]))
    num_inputs_ = prop_def(IntegerAttr[I64], prop_name="inputs")
    status = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    label = prop_def(StringAttr, default_value=StringAttr(""))
    constants_ = opt_prop_def(DenseArrayBase.constr(i64), prop_name="constants")
    cluster = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    min_blocks = prop_def(IntegerAttr[I64], default_value=IntegerAttr(0, i64))
    body = region_def("single_block")
    traits = traits_def(SymbolOpInterface(), IsolatedFromAbove())
    _DEFAULTS: ClassVar = {
        "bounds": ArrayAttr([]),
        "spans": ArrayAttr([]),
        "status": IntegerAttr(0, i64),
        "label": StringAttr(""),
        "cluster": IntegerAttr(1, i64),
        "min_blocks": IntegerAttr(0, i64),
    }

    def __init__(
        self,
        name: str,
        arg_types: Sequence[Attribute],
        *,
        grid: int,
        block: int,
        inputs: int,
        results: Sequence[int],
        bounds: Sequence[BoundAttr] = (),
        spans: Sequence[SpanAttr] = (),
        status: bool = False,
        label: str = "",
        cluster: int = 1,
        min_blocks: int = 0,
        body: Region | None = None,
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "function_type": FunctionType.from_lists(arg_types, []),
                "grid": IntegerAttr(grid, i64),
                "block": IntegerAttr(block, i64),
                "inputs": IntegerAttr(inputs, i64),
                "results": DenseArrayBase.from_list(i64, results),
                "bounds": ArrayAttr(bounds),
                "spans": ArrayAttr(spans),
                "status": IntegerAttr(int(status), i64),
                "label": StringAttr(label),
                "cluster": IntegerAttr(cluster, i64),
                "min_blocks": IntegerAttr(min_blocks, i64),
            },
            regions=[body if body is not None else Region(Block(arg_types=arg_types))],
        )

    @classmethod
    def parse(cls, parser: Parser) -> "FuncOp":
        name, inputs, _, region, attributes, *_ = parse_func_op_like(
            parser, reserved_attr_names=("sym_name", "function_type")
        )
        properties = {
            "sym_name": StringAttr(name),
            "function_type": FunctionType.from_lists(inputs, []),
            **(attributes.data if attributes else {}),
        }
        # behind what was given, so that it is printed in the same order again
        properties.update((name, value) for name, value in cls._DEFAULTS.items() if name not in properties)
        return cls.create(properties=properties, regions=[region])

    def print(self, printer: Printer) -> None:
        shown = {
            name: value
            for name, value in self.properties.items()
            if name not in ("sym_name", "function_type") and self._DEFAULTS.get(name) != value
        }
        print_func_op_like(printer, self.sym_name, self.function_type, self.body, shown, reserved_attr_names=())

    def verify_(self) -> None:
        for arg in self.body.block.args:
            if not is_memref(arg.type) or len(arg.type.get_shape()) != 1:
                raise VerifyException(f"expected arguments of flat memrefs, got {arg.type}")
        inputs = self.function_type.inputs.data
        if tuple(arg.type for arg in self.body.block.args) != inputs:
            raise VerifyException(f"expected block arguments {self.function_type.inputs}")
        if self.grid.value.data < 1 or not 1 <= self.block.value.data <= 1024:
            raise VerifyException(
                f"expected a grid of at least 1 and a block of 1 to 1024, got {self.grid.value.data} and "
                f"{self.block.value.data}"
            )
        cluster = self.cluster.value.data
        if not 1 <= cluster <= MAX_CLUSTER or self.grid.value.data % cluster:
            raise VerifyException(
                f"expected clusters of 1 to {MAX_CLUSTER} blocks that divide the grid, got {cluster} of "
                f"{self.grid.value.data}"
            )
        if any(not 0 <= arg < len(inputs) for arg in self.result_args):
            named = ", ".join(map(str, self.result_args))
            raise VerifyException(f"expected results to name arguments 0 to {len(inputs) - 1}, got {named}")
        if any(not 0 <= arg < len(inputs) for arg in self.constants or ()):
            named = ", ".join(map(str, self.constants or ()))
            raise VerifyException(f"expected constants to name arguments 0 to {len(inputs) - 1}, got {named}")

    @property
    def constants(self) -> tuple[int, ...] | None:
        """The arguments that no launch writes; None for a kernel that starts after all launches before it."""
        return None if self.constants_ is None else tuple(int(arg) for arg in self.constants_.get_values())

    @property
    def result_args(self) -> tuple[int, ...]:
        """For each tensor result the argument that holds it."""
        return tuple(int(arg) for arg in self.results_.get_values())

    @property
    def has_status(self) -> bool:
        """Whether the last argument takes fault codes."""
        return bool(self.status.value.data)

    @property
    def num_inputs(self) -> int:
        """Number of tensor inputs, which are the first arguments."""
        return self.num_inputs_.value.data


class _IdOp(IRDLOperation):
    result = result_def(IndexType)
    traits = traits_def(Pure())
    assembly_format = "attr-dict"

    def __init__(self) -> None:
        super().__init__(result_types=[IndexType()])


@irdl_op_definition
class BlockIdOp(_IdOp):
    """The number of this block, 0 to grid - 1.

    ```mlir
    %block = kernel.block_id
    ```
    """

    name = "kernel.block_id"


@irdl_op_definition
class ThreadIdOp(_IdOp):
    """The number of this thread in its block, 0 to block - 1.

    ```mlir
    %thread = kernel.thread_id
    ```
    """

    name = "kernel.thread_id"


@irdl_op_definition
class AllocOp(IRDLOperation):
    """A buffer of the block's own memory, shared by its threads; undefined at first.

    ```mlir
    %scratch = kernel.alloc : memref<32xf32, #kernel<space shared>>
    ```
    """

    name = "kernel.alloc"
    memref = result_def(MemRefType)
    traits = traits_def(MemoryAllocEffect())
    assembly_format = "attr-dict `:` type($memref)"

    def __init__(self, element_type: Attribute, size: int):
        super().__init__(result_types=[MemRefType(element_type, [size], memory_space=SpaceAttr(Space.SHARED))])


def _check_access(memref: Attribute, value: Attribute) -> None:
    element = element_type(memref)
    if element_type(value) != element:
        raise VerifyException(f"expected elements of {element}, got {value} for {memref}")


@irdl_op_definition
class LoadOp(IRDLOperation):
    """Reads one element, or a vector of neighbouring elements, at `index`.

    `align` is the alignment of the address in bytes; without it, that of one element.

    ```mlir
    func.func @f(%m: memref<256xf32>, %i: index) {
      %x = kernel.load %m[%i] : memref<256xf32> -> f32
      %v = kernel.load %m[%i] align 16 cache stream : memref<256xf32> -> vector<4xf32>
      func.return
    }
    ```
    """

    name = "kernel.load"
    memref = operand_def(MemRefType)
    index = operand_def(IndexType)
    align = opt_prop_def(IntegerAttr[I64])
    cache = opt_prop_def(CacheAttr)
    result = result_def()
    traits = traits_def(MemoryReadEffect())
    assembly_format = (
        "$memref `[` $index `]` (`align` $align^)? (`cache` $cache^)? attr-dict `:` type($memref) `->` type($result)"
    )

    def __init__(
        self,
        memref: SSAValue,
        index: SSAValue,
        type: Attribute,
        align: int | None = None,
        cache: Cache | None = None,
    ):
        super().__init__(
            operands=[memref, index],
            properties={
                "align": None if align is None else IntegerAttr(align, i64),
                "cache": None if cache is None else CacheAttr(cache),
            },
            result_types=[type],
        )

    def verify_(self) -> None:
        _check_access(self.memref.type, self.result.type)


@irdl_op_definition
class StoreOp(IRDLOperation):
    """Writes one element, or a vector of neighbouring elements, at `index`.

    ```mlir
    func.func @f(%m: memref<256xf32>, %i: index, %v: vector<4xf32>) {
      kernel.store %v, %m[%i] align 16 : vector<4xf32>, memref<256xf32>
      func.return
    }
    ```
    """

    name = "kernel.store"
    value = operand_def()
    memref = operand_def(MemRefType)
    index = operand_def(IndexType)
    align = opt_prop_def(IntegerAttr[I64])
    traits = traits_def(MemoryWriteEffect())
    assembly_format = (
        "$value `,` $memref `[` $index `]` (`align` $align^)? attr-dict `:` type($value) `,` type($memref)"
    )

    def __init__(self, value: SSAValue, memref: SSAValue, index: SSAValue, align: int | None = None):
        super().__init__(
            operands=[value, memref, index],
            properties={"align": None if align is None else IntegerAttr(align, i64)},
        )

    def verify_(self) -> None:
        _check_access(self.memref.type, self.value.type)


@irdl_op_definition
class BarrierOp(IRDLOperation):
    """Waits for all threads of the block; what they wrote before is seen by all after.

    ```mlir
    kernel.barrier
    ```
    """

    name = "kernel.barrier"
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())
    assembly_format = "attr-dict"


class _ClusterOp(IRDLOperation):
    """An operation that several blocks take part in."""

    def verify_(self) -> None:
        parent = self.parent_op()
        while parent is not None and not isinstance(parent, FuncOp):
            parent = parent.parent_op()
        if parent is not None and parent.cluster.value.data == 1:
            raise VerifyException("expected a kernel with clusters of several blocks")


@irdl_op_definition
class ClusterArriveOp(_ClusterOp):
    """Tells the blocks of the cluster that this thread has come here, and goes on: the start of a barrier.

    All threads of the cluster arrive and wait in turn; `kernel.cluster_wait` is the end. Between the two, a thread
    does what the others need not wait for. `relaxed` promises nothing of what was written before, and costs less.

    ```mlir
    kernel.func @meet()
        attributes {grid = 4 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>, cluster = 2 : i64} {
      kernel.cluster_arrive
      kernel.cluster_wait
      kernel.return
    }
    ```
    """

    name = "kernel.cluster_arrive"
    relaxed = opt_prop_def(UnitAttr)
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())
    assembly_format = "(`relaxed` $relaxed^)? attr-dict"

    def __init__(self, *, relaxed: bool = False):
        super().__init__(properties={"relaxed": UnitAttr() if relaxed else None})


@irdl_op_definition
class ClusterWaitOp(_ClusterOp):
    """Waits until all threads of the cluster have arrived; what they wrote before that is seen by all after.

    (But for what was written before a relaxed `kernel.cluster_arrive`.)

    ```mlir
    kernel.func @meet()
        attributes {grid = 4 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64>, cluster = 4 : i64} {
      kernel.cluster_arrive
      kernel.cluster_wait
      kernel.return
    }
    ```
    """

    name = "kernel.cluster_wait"
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())
    assembly_format = "attr-dict"


@irdl_op_definition
class ClusterStoreOp(_ClusterOp):
    """Writes an element, or a vector of neighbouring elements, into the memory of block number `rank` of the cluster.

    That block must have started, which a barrier of the cluster tells, and must not end before another one. `align`
    is as in `kernel.store`.

    ```mlir
    kernel.func @give()
        attributes {grid = 4 : i64, block = 1 : i64, inputs = 0 : i64, results = array<i64>, cluster = 2 : i64} {
      %zero = arith.constant 0 : index
      %one = arith.constant 1.0 : f32
      %box = kernel.alloc : memref<1xf32, #kernel<space shared>>
      kernel.cluster_arrive relaxed
      kernel.cluster_wait
      kernel.cluster_store %one, %box[%zero] of %zero : f32, memref<1xf32, #kernel<space shared>>
      kernel.cluster_arrive
      kernel.cluster_wait
      kernel.return
    }
    ```
    """

    name = "kernel.cluster_store"
    value = operand_def()
    memref = operand_def(MemRefType)
    index = operand_def(IndexType)
    rank = operand_def(IndexType)
    align = opt_prop_def(IntegerAttr[I64])
    traits = traits_def(MemoryWriteEffect())
    assembly_format = (
        "$value `,` $memref `[` $index `]` `of` $rank (`align` $align^)? attr-dict `:` type($value) `,` type($memref)"
    )

    def __init__(self, value: SSAValue, memref: SSAValue, index: SSAValue, rank: SSAValue, align: int | None = None):
        super().__init__(
            operands=[value, memref, index, rank],
            properties={"align": None if align is None else IntegerAttr(align, i64)},
        )

    def verify_(self) -> None:
        super().verify_()
        _check_access(self.memref.type, self.value.type)
        if not is_memref(self.memref.type) or not isinstance(self.memref.type.memory_space, SpaceAttr):
            raise VerifyException(f"expected a buffer of the block's own memory, got {self.memref.type}")


@irdl_op_definition
class LaunchDependentsOp(IRDLOperation):
    """Lets the next launch start its blocks once all blocks of this one have come here; its results are not ready yet.

    The start of programmatic dependent launch, of which `kernel.wait_dependency` is the end.

    ```mlir
    kernel.launch_dependents
    ```
    """

    name = "kernel.launch_dependents"
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())
    assembly_format = "attr-dict"


@irdl_op_definition
class WaitDependencyOp(IRDLOperation):
    """Waits until all launches before this one have ended; what they wrote is seen by all that follows.

    What stands before it may touch nothing but memory that no launch writes.

    ```mlir
    kernel.wait_dependency
    ```
    """

    name = "kernel.wait_dependency"
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())
    assembly_format = "attr-dict"


@irdl_op_definition
class ShuffleXorOp(IRDLOperation):
    """The value that the thread with number (own number xor `mask`) of the warp has; all 32 threads take part.

    A vector is exchanged lane by lane.

    ```mlir
    func.func @f(%x: f32) -> f32 {
      %y = kernel.shuffle_xor %x, 16 : f32
      func.return %y : f32
    }
    ```
    """

    name = "kernel.shuffle_xor"
    T: ClassVar = VarConstraint("T", AnyAttr())
    value = operand_def(T)
    mask = prop_def(IntegerAttr[I64])
    result = result_def(T)
    traits = traits_def(Pure())
    assembly_format = "$value `,` $mask attr-dict `:` type($value)"

    def __init__(self, value: SSAValue, mask: int):
        super().__init__(operands=[value], properties={"mask": IntegerAttr(mask, i64)}, result_types=[value.type])

    def verify_(self) -> None:
        if not 1 <= self.mask.value.data < 32:
            raise VerifyException(f"expected a mask of 1 to 31, got {self.mask.value.data}")


@irdl_op_definition
class ReduceOp(IRDLOperation):
    """Joins the elements of a vector into one; the order is not fixed. `max` of a NaN and a number is the number.

    ```mlir
    func.func @f(%v: vector<8xf32>) -> f32 {
      %sum = kernel.reduce add %v : vector<8xf32> -> f32
      func.return %sum : f32
    }
    ```
    """

    name = "kernel.reduce"
    combine = prop_def(CombineAttr)
    value = operand_def(VectorType)
    result = result_def()
    traits = traits_def(Pure())
    assembly_format = "$combine $value attr-dict `:` type($value) `->` type($result)"

    def __init__(self, combine: Combine, value: SSAValue):
        assert is_vector(value.type)
        super().__init__(
            operands=[value],
            properties={"combine": CombineAttr(combine)},
            result_types=[value.type.element_type],
        )


@irdl_op_definition
class DotOp(IRDLOperation):
    """The sum of the products of the lanes of two vectors, by fused multiply-adds; the order is not fixed.

    ```mlir
    func.func @f(%x: vector<8xf32>, %y: vector<8xf32>) -> f32 {
      %sum = kernel.dot %x, %y : vector<8xf32> -> f32
      func.return %sum : f32
    }
    ```
    """

    name = "kernel.dot"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(Float32Type)
    traits = traits_def(Pure())
    assembly_format = "$lhs `,` $rhs attr-dict `:` type($lhs) `->` type($result)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue):
        super().__init__(operands=[lhs, rhs], result_types=[f32])

    def verify_(self) -> None:
        if element_type(self.lhs.type) != f32:
            raise VerifyException(f"expected vectors of f32, got {self.lhs.type}")


@irdl_op_definition
class PackOp(IRDLOperation):
    """A vector made of scalars.

    ```mlir
    func.func @f(%a: f32, %b: f32) -> vector<2xf32> {
      %v = kernel.pack %a, %b : vector<2xf32>
      func.return %v : vector<2xf32>
    }
    ```
    """

    name = "kernel.pack"
    elements = var_operand_def()
    result = result_def(VectorType)
    traits = traits_def(Pure())

    def __init__(self, elements: Sequence[SSAValue]):
        super().__init__(operands=[elements], result_types=[VectorType(elements[0].type, [len(elements)])])

    @classmethod
    def parse(cls, parser: Parser) -> "PackOp":
        elements = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_unresolved_operand)
        parser.parse_punctuation(":")
        type = parser.parse_type()
        if not is_vector(type):
            parser.raise_error(f"expected a vector type, got {type}")
        return cls(parser.resolve_operands(elements, [type.element_type] * len(elements), parser.pos))

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_list(self.elements, printer.print_ssa_value)
        printer.print_string(" : ")
        printer.print_attribute(self.result.type)

    def verify_(self) -> None:
        if self.result.type.get_shape() != (len(self.elements),):
            raise VerifyException(f"expected a vector of {len(self.elements)} elements, got {self.result.type}")
        if any(element.type != self.result.type.element_type for element in self.elements):
            raise VerifyException(f"expected elements of {self.result.type.element_type}")


@irdl_op_definition
class ConvertOp(IRDLOperation):
    """The same number in another type, element by element: between float types (to nearest even), or i8 to float.

    ```mlir
    func.func @f(%x: vector<8xf16>) -> vector<8xf32> {
      %y = kernel.convert %x : vector<8xf16> -> vector<8xf32>
      func.return %y : vector<8xf32>
    }
    ```
    """

    name = "kernel.convert"
    input = operand_def()
    result = result_def()
    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, element_type: Attribute):
        result = VectorType(element_type, input.type.get_shape()) if is_vector(input.type) else element_type
        super().__init__(operands=[input], result_types=[result])

    def verify_(self) -> None:
        source, target = element_type(self.input.type), element_type(self.result.type)
        if not isinstance(target, AnyFloat) or not (isinstance(source, AnyFloat) or source == IntegerType(8)):
            raise VerifyException(f"expected float to float or i8 to float, got {source} to {target}")


KERNEL = Dialect(
    "kernel",
    [
        FuncOp,
        ReturnOp,
        BlockIdOp,
        ThreadIdOp,
        AllocOp,
        LoadOp,
        StoreOp,
        BarrierOp,
        ClusterArriveOp,
        ClusterWaitOp,
        ClusterStoreOp,
        LaunchDependentsOp,
        WaitDependencyOp,
        ShuffleXorOp,
        ReduceOp,
        DotOp,
        PackOp,
        ConvertOp,
    ],
    [SpaceAttr, CacheAttr, CombineAttr, BoundAttr, SpanAttr],
)
