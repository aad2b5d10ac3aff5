"""The `program` dialect: what the host does, as a straight line over named memory.

A `program.func` first names its buffers (inputs, outputs, weights, states, temporaries of the arena) and the checks
that the host makes on inputs, then lists launches, copies and barriers in order. There is no control flow; a
`program.persistent` is a bracket around some of the launches.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    FlatSymbolRefAttrConstr,
    IntegerAttr,
    MemRefType,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    i64,
)
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    VarConstraint,
    base,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import IsolatedFromAbove, NoTerminator, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from hamkaas.artifact import ALIGNMENT


@irdl_op_definition
class FuncOp(IRDLOperation):
    """One named graph of a model.

    ```mlir
    program.func @main {
      %x = program.input "x" : memref<4xf32>
      %y = program.output 0 : memref<4xf32>
      program.copy %x to %y : memref<4xf32>
    }
    ```
    """

    name = "program.func"
    sym_name = prop_def(SymbolNameConstraint())
    body = region_def("single_block")
    traits = traits_def(SymbolOpInterface(), IsolatedFromAbove(), NoTerminator())
    assembly_format = "$sym_name attr-dict-with-keyword $body"

    def __init__(self, name: str):
        super().__init__(properties={"sym_name": StringAttr(name)}, regions=[Region(Block())])

    @property
    def flat(self) -> Iterator[Operation]:
        """All operations in order, those inside of `program.persistent` in its place."""
        for op in self.body.block.ops:
            yield from op.body.block.ops if isinstance(op, PersistentOp) else (op,)


class BufferOp(IRDLOperation):
    """Names a piece of memory; the base of the operations that follow."""

    memref = result_def(MemRefType)


@irdl_op_definition
class InputOp(BufferOp):
    """The array that the caller passes under this name.

    ```mlir
    program.func @main {
      %token = program.input "token" : memref<1xi64>
    }
    ```
    """

    name = "program.input"
    input_name = prop_def(StringAttr)
    assembly_format = "$input_name attr-dict `:` type($memref)"

    def __init__(self, name: str, type: MemRefType[Attribute]):
        super().__init__(properties={"input_name": StringAttr(name)}, result_types=[type])


@irdl_op_definition
class OutputOp(BufferOp):
    """The array that the caller gets as result number `position`.

    ```mlir
    program.func @main {
      %logits = program.output 0 : memref<32000xf32>
    }
    ```
    """

    name = "program.output"
    position = prop_def(IntegerAttr[I64])
    assembly_format = "$position attr-dict `:` type($memref)"

    def __init__(self, position: int, type: MemRefType[Attribute]):
        super().__init__(properties={"position": IntegerAttr(position, i64)}, result_types=[type])


@irdl_op_definition
class SymbolOp(BufferOp):
    """The memory of a `hamkaas.weight` (read only) or of a `hamkaas.state`.

    ```mlir
    hamkaas.state @keys : tensor<256x48xf32>
    program.func @main {
      %keys = program.symbol @keys : memref<256x48xf32>
    }
    ```
    """

    name = "program.symbol"
    symbol = prop_def(FlatSymbolRefAttrConstr)
    assembly_format = "$symbol attr-dict `:` type($memref)"

    def __init__(self, symbol: str, type: MemRefType[Attribute]):
        super().__init__(properties={"symbol": SymbolRefAttr(symbol)}, result_types=[type])


@irdl_op_definition
class TempOp(BufferOp):
    """A temporary. Memory planning gives it its offset in the arena, in bytes.

    ```mlir
    program.func @main {
      %t = program.temp : memref<768xf32>
      %u = program.temp at 256 : memref<768xf32>
    }
    ```
    """

    name = "program.temp"
    offset = opt_prop_def(IntegerAttr[I64])
    assembly_format = "(`at` $offset^)? attr-dict `:` type($memref)"

    def __init__(self, type: MemRefType[Attribute]):
        super().__init__(result_types=[type])

    def verify_(self) -> None:
        if self.offset is not None and self.offset.value.data % ALIGNMENT:
            raise VerifyException(f"expected an offset that is a multiple of {ALIGNMENT}, got {self.offset.value.data}")


@irdl_op_definition
class StatusOp(BufferOp):
    """The word into which kernels write the code of a fault.

    ```mlir
    program.func @main {
      %status = program.status : memref<1xi64>
    }
    ```
    """

    name = "program.status"
    assembly_format = "attr-dict `:` type($memref)"

    def __init__(self) -> None:
        super().__init__(result_types=[MemRefType(i64, [1])])


@irdl_op_definition
class CheckOp(IRDLOperation):
    """The host checks before anything runs that each element of an input lies between `low` and `high`.

    ```mlir
    program.func @main {
      %token = program.input "token" : memref<1xi64>
      program.check %token from 0 to 511 for "index of hamkaas.gather" : memref<1xi64>
    }
    ```
    """

    name = "program.check"
    input = operand_def(MemRefType)
    low = prop_def(IntegerAttr[I64])
    high = prop_def(IntegerAttr[I64])
    what = prop_def(StringAttr)
    assembly_format = "$input `from` $low `to` $high `for` $what attr-dict `:` type($input)"

    def __init__(self, input: SSAValue, low: int, high: int, what: str):
        super().__init__(
            operands=[input],
            properties={"low": IntegerAttr(low, i64), "high": IntegerAttr(high, i64), "what": StringAttr(what)},
        )


@irdl_op_definition
class CheckSpanOp(IRDLOperation):
    """The host checks before anything runs that input `end` minus input `begin` is `length`.

    ```mlir
    program.func @main {
      %begin = program.input "begin" : memref<1xi64>
      %end = program.input "end" : memref<1xi64>
      program.check_span %begin to %end is 1 : memref<1xi64>, memref<1xi64>
    }
    ```
    """

    name = "program.check_span"
    begin = operand_def(MemRefType)
    end = operand_def(MemRefType)
    length = prop_def(IntegerAttr[I64])
    assembly_format = "$begin `to` $end `is` $length attr-dict `:` type($begin) `,` type($end)"

    def __init__(self, begin: SSAValue, end: SSAValue, length: int):
        super().__init__(operands=[begin, end], properties={"length": IntegerAttr(length, i64)})


@irdl_op_definition
class LaunchOp(IRDLOperation):
    """Runs all blocks of a kernel on these buffers.

    ```mlir
    program.func @main {
      %x = program.input "x" : memref<4xf32>
      %y = program.output 0 : memref<4xf32>
      program.launch @relu(%x, %y) : memref<4xf32>, memref<4xf32>
    }
    ```
    """

    name = "program.launch"
    callee = prop_def(FlatSymbolRefAttrConstr)
    args = var_operand_def(MemRefType)
    assembly_format = "$callee `(` $args `)` attr-dict `:` type($args)"

    def __init__(self, callee: str, args: Sequence[SSAValue]):
        super().__init__(operands=[args], properties={"callee": SymbolRefAttr(callee)})


@irdl_op_definition
class PersistentOp(IRDLOperation):
    """Runs launches in order as one kernel of this name, whose blocks of `block` threads stay until the last one.

    A launch in it still comes after all launches before it: its blocks wait for them where the kernel has its
    `kernel.wait_dependency`. What a graph of launches does not have: the blocks that run the next launch are already
    there, so that their weights are under way while the last one ends. For CUDA.

    ```mlir
    program.func @main {
      %x = program.input "x" : memref<4xf32>
      %t = program.temp at 0 : memref<4xf32>
      %y = program.output 0 : memref<4xf32>
      program.persistent @persistent0 block 256 {
        program.launch @relu(%x, %t) : memref<4xf32>, memref<4xf32>
        program.barrier
        program.launch @relu(%t, %y) : memref<4xf32>, memref<4xf32>
      }
    }
    ```
    """

    name = "program.persistent"
    sym_name = prop_def(SymbolNameConstraint())
    block = prop_def(IntegerAttr[I64])
    body = region_def("single_block")
    traits = traits_def(NoTerminator())
    assembly_format = "$sym_name `block` $block attr-dict-with-keyword $body"

    def __init__(self, name: str, block: int):
        super().__init__(
            properties={"sym_name": StringAttr(name), "block": IntegerAttr(block, i64)}, regions=[Region(Block())]
        )

    @property
    def launches(self) -> tuple[LaunchOp, ...]:
        """Its launches, in order."""
        return tuple(op for op in self.body.block.ops if isinstance(op, LaunchOp))

    def verify_(self) -> None:
        others = [op.name for op in self.body.block.ops if not isinstance(op, LaunchOp | BarrierOp)]
        if others:
            raise VerifyException(f"expected launches and barriers only, got {others[0]}")
        if not self.launches:
            raise VerifyException("expected at least one launch")
        if self.block.value.data not in range(32, 1025, 32):
            raise VerifyException(f"expected a block that is a multiple of 32 up to 1024, got {self.block.value.data}")


@irdl_op_definition
class ExecuteOp(IRDLOperation):
    """Runs a `cudnn.graph` on buffers: its inputs, then its outputs, then scratch memory if its plan takes any.

    Offsets say where each input begins, in elements, and are left out where all are 0.

    ```mlir
    cudnn.graph @c0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
        attributes {io = f32, compute = f32, plan = "eng1", workspace = 256 : i64} {
      %y = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
    }
    program.func @main {
      %x = program.input "x" : memref<6x8xf32>
      %y = program.output 0 : memref<4x8xf32>
      %scratch = program.temp : memref<256xi8>
      program.execute @c0(%x, %y, %scratch) offsets [16] : memref<6x8xf32>, memref<4x8xf32>, memref<256xi8>
    }
    ```
    """

    name = "program.execute"
    callee = prop_def(FlatSymbolRefAttrConstr)
    offsets_ = opt_prop_def(DenseArrayBase.constr(i64), prop_name="offsets")
    args = var_operand_def(MemRefType)
    assembly_format = "$callee `(` $args `)` (`offsets` $offsets^)? attr-dict `:` type($args)"

    def __init__(self, callee: str, args: Sequence[SSAValue], offsets: Sequence[int] = ()):
        properties: dict[str, Attribute | None] = {
            "callee": SymbolRefAttr(callee),
            "offsets": DenseArrayBase.from_list(i64, offsets) if any(offsets) else None,
        }
        super().__init__(operands=[args], properties=properties)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where inputs begin, in elements; empty if all begin at 0."""
        return () if self.offsets_ is None else tuple(int(offset) for offset in self.offsets_.get_values())


@irdl_op_definition
class CopyOp(IRDLOperation):
    """Copies a whole buffer into another one of the same type.

    ```mlir
    program.func @main {
      %x = program.input "x" : memref<4xf32>
      %y = program.output 0 : memref<4xf32>
      program.copy %x to %y : memref<4xf32>
    }
    ```
    """

    name = "program.copy"
    T: ClassVar = VarConstraint("T", base(MemRefType))
    source = operand_def(T)
    target = operand_def(T)
    assembly_format = "$source `to` $target attr-dict `:` type($source)"

    def __init__(self, source: SSAValue, target: SSAValue):
        super().__init__(operands=[source, target])


@irdl_op_definition
class BarrierOp(IRDLOperation):
    """What comes after sees what came before. Between two barriers the steps are independent of each other.

    ```mlir
    program.func @main {
      program.barrier
    }
    ```
    """

    name = "program.barrier"
    assembly_format = "attr-dict"


PROGRAM = Dialect(
    "program",
    [
        FuncOp,
        InputOp,
        OutputOp,
        SymbolOp,
        TempOp,
        StatusOp,
        CheckOp,
        CheckSpanOp,
        LaunchOp,
        PersistentOp,
        ExecuteOp,
        CopyOp,
        BarrierOp,
    ],
    [],
)
