"""Short names for building the body of a `kernel.func`.

The builder appends at the end of the current block and keeps what it has already computed (constants, indices,
elements) for as long as that block is open, so that the same question asked twice gives one operation.
"""

from collections.abc import Callable, Hashable, Sequence
from math import isfinite

from xdsl.dialects import arith, math, scf, vector
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    UnitAttr,
    VectorType,
    f32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from hamkaas.dialects import kernel
from hamkaas.dialects.kernel import Combine
from hamkaas.schedules.index import Div, Index, Lane, Mod, Var

INDEX = IndexType()


def element_of(memref: SSAValue) -> Attribute:
    """The element type of a buffer."""
    assert kernel.is_memref(memref.type)
    return memref.type.element_type


def lanes_of(value: SSAValue) -> int:
    """Number of lanes of a vector; 1 for a scalar."""
    return value.type.get_shape()[0] if kernel.is_vector(value.type) else 1


class Builder:
    """Appends operations to a kernel; `block` is where the next one goes."""

    def __init__(self, entry: Block):
        self.entry = entry
        self.block = entry
        self.first_block = 0
        """Number of the block in the grid that is block 0 for the schedule at work."""
        self.loops = 0
        """How many loops are open."""
        self._known: list[dict[Hashable, SSAValue]] = [{}]
        self._buffers: list[SSAValue] = []
        self._free: list[SSAValue] = []

    def begin_part(self, first_block: int) -> None:
        """From here on blocks run that have run none of what was built before: they have no use for its buffers."""
        self.first_block = first_block
        self._free = list(self._buffers)

    def insert(self, op: Operation) -> Operation:
        """Appends an operation."""
        self.block.add_op(op)
        return op

    def remember(self, key: Hashable, compute: Callable[[], SSAValue]) -> SSAValue:
        """What `compute` builds; built once for each key within the open blocks."""
        for known in reversed(self._known):
            if (value := known.get(key)) is not None:
                return value
        value = compute()
        self._known[-1][key] = value
        return value

    def draft(self, build: Callable[[], object], unknown: Sequence[SSAValue]) -> None:
        """Builds something before its time; what that takes is known from here on, but for elements of `unknown`."""
        self._known.append({})
        build()
        drafted = self._known.pop()
        final = (item for item in drafted.items() if not (isinstance(item[0], tuple) and item[0][0] in unknown))
        self._known[-1].update(final)

    def _one(self, op: Operation, hint: str | None = None) -> SSAValue:
        self.insert(op)
        if hint:
            op.results[0].name_hint = hint
        return op.results[0]

    def _at_entry(self, op: Operation) -> SSAValue:
        """Puts an operation that depends on nothing at the start of the kernel."""
        if self.entry.first_op is None:
            self.entry.add_op(op)
        else:
            self.entry.insert_op_before(op, self.entry.first_op)
        return op.results[0]

    # numbers

    def _constant(self, value: IntegerAttr | FloatAttr | DenseIntOrFPElementsAttr, hint: str | None = None) -> SSAValue:
        known = self._known[0]
        if (result := known.get(value)) is None:
            result = known[value] = self._at_entry(arith.ConstantOp(value))
            result.name_hint = hint
        return result

    def number(self, value: int) -> SSAValue:
        """A constant of index type."""
        return self._constant(IntegerAttr(value, INDEX), f"c{value}")

    def integer(self, value: int) -> SSAValue:
        """A constant of type i64."""
        return self._constant(IntegerAttr(value, i64))

    def real(self, value: float, width: int = 1) -> SSAValue:
        """A constant of type f32, or of a vector of them."""
        if width == 1:
            return self._constant(FloatAttr(value, f32))
        if not isfinite(value):  # as text, xDSL takes the bits of one in a vector for a number
            return self.splat(self.real(value), width)
        return self._constant(DenseIntOrFPElementsAttr.from_list(VectorType(f32, [width]), [value]))

    def constant(self, value: FloatAttr | IntegerAttr) -> SSAValue:
        """A number of a tensor as an element: an integer of its own type, a float as f32."""
        return self._constant(value) if isinstance(value, IntegerAttr) else self.real(value.value.data)

    def index(self, index: Index) -> SSAValue:
        """The value of a symbolic index; it must not mention a lane."""
        return self.remember(index, lambda: self._index(index))

    def _index(self, index: Index) -> SSAValue:
        total: SSAValue | None = None
        for atom, factor in index.terms:
            match atom:
                case Var():
                    value = atom.value
                case Div():
                    numerator, divisor = self.index(atom.numerator), self.number(atom.divisor)
                    value = self.remember(atom, lambda n=numerator, d=divisor: self._one(arith.DivUIOp(n, d)))
                case Mod():
                    numerator, divisor = self.index(atom.numerator), self.number(atom.divisor)
                    value = self.remember(atom, lambda n=numerator, d=divisor: self._one(arith.RemUIOp(n, d)))
                case Lane():
                    raise AssertionError("an index with a lane is not one value")
            if factor != 1:
                value = self._one(arith.MuliOp(value, self.number(factor)))
            total = value if total is None else self._one(arith.AddiOp(total, value))
        if total is None:
            return self.number(index.constant)
        return self._one(arith.AddiOp(total, self.number(index.constant))) if index.constant else total

    def var(self, value: SSAValue, size: int, hint: str) -> Index:
        """An index variable: `value`, which lies in [0, size)."""
        if not isinstance(value.owner, arith.ConstantOp):
            value.name_hint = hint
        return Index.of(Var(value, size))

    @property
    def block_number(self) -> Index:
        """The number of this block in the grid."""
        return self.var(self._id(kernel.BlockIdOp), 1 << 31, "block")

    def _id(self, op: type[kernel.BlockIdOp] | type[kernel.ThreadIdOp]) -> SSAValue:
        """A number that holds for the whole kernel: asked for once, at its start."""
        known = self._known[0]
        if (value := known.get(op)) is None:
            value = known[op] = self._at_entry(op())
        return value

    def block_id(self, size: int, hint: str = "block") -> Index:
        """The number of this block among those of the schedule at work, in [0, size)."""
        if size == 1:
            return Index.of(0)
        if not self.first_block:
            return self.var(self.index(self.block_number), size, hint)
        return self.var(self.sub(self.index(self.block_number), self.number(self.first_block)), size, hint)

    def thread_id(self, size: int) -> Index:
        """The number of this thread, in [0, size)."""
        return self.var(self._id(kernel.ThreadIdOp), size, "thread")

    # memory

    def load(
        self,
        memref: SSAValue,
        index: SSAValue,
        width: int = 1,
        align: int | None = None,
        cache: kernel.Cache | None = None,
    ) -> SSAValue:
        """An element, or `width` neighbouring elements, in the buffer's own type."""
        element = element_of(memref)
        type = element if width == 1 else VectorType(element, [width])
        return self._one(kernel.LoadOp(memref, index, type, align, cache))

    def store(self, value: SSAValue, memref: SSAValue, index: SSAValue, align: int | None = None) -> None:
        """Stores a scalar or a vector."""
        self.insert(kernel.StoreOp(value, memref, index, align))

    def shared(self, size: int, element: Attribute = f32) -> SSAValue:
        """A buffer of the block's own memory. Allocated at the start of the kernel, wherever it is asked for."""
        op = kernel.AllocOp(element, size)
        for buffer in self._free:
            if buffer.type == op.memref.type:
                self._free.remove(buffer)
                return buffer
        self._buffers.append(self._at_entry(op))
        return op.memref

    def barrier(self) -> None:
        """Waits for the threads of the block."""
        self.insert(kernel.BarrierOp())

    def arrive(self, *, relaxed: bool = False) -> None:
        """The first half of a barrier of the cluster."""
        self.insert(kernel.ClusterArriveOp(relaxed=relaxed))

    def wait(self) -> None:
        """The second half."""
        self.insert(kernel.ClusterWaitOp())

    def give(
        self, value: SSAValue, memref: SSAValue, index: SSAValue, rank: SSAValue, align: int | None = None
    ) -> None:
        """Stores a scalar or a vector into the own memory of another block of the cluster."""
        self.insert(kernel.ClusterStoreOp(value, memref, index, rank, align))

    # arithmetic on scalars and on vectors

    def splat(self, value: SSAValue, width: int) -> SSAValue:
        """`value` in every lane; a vector stays as it is."""
        if width == 1 or lanes_of(value) == width:
            return value
        key = ("splat", value, width)
        return self.remember(key, lambda: self._one(vector.BroadcastOp(value, VectorType(value.type, [width]))))

    def _both(self, a: SSAValue, b: SSAValue) -> tuple[SSAValue, SSAValue]:
        width = max(lanes_of(a), lanes_of(b))
        return self.splat(a, width), self.splat(b, width)

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a + b of floats or of indices."""
        a, b = self._both(a, b)
        return self._one(arith.AddiOp(a, b) if isinstance(a.type, IndexType | IntegerType) else arith.AddfOp(a, b))

    def sub(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a - b of floats or of integers."""
        a, b = self._both(a, b)
        return self._one(arith.SubiOp(a, b) if isinstance(a.type, IndexType | IntegerType) else arith.SubfOp(a, b))

    def mul(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a * b of floats."""
        return self._one(arith.MulfOp(*self._both(a, b)))

    def div(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a / b of floats."""
        return self._one(arith.DivfOp(*self._both(a, b)))

    def fma(self, a: SSAValue, b: SSAValue, c: SSAValue) -> SSAValue:
        """a * b + c of floats, rounded once."""
        width = max(lanes_of(a), lanes_of(b), lanes_of(c))
        return self._one(math.FmaOp(self.splat(a, width), self.splat(b, width), self.splat(c, width)))

    def maximum(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """The larger of two floats; NaN if either is."""
        return self._one(arith.MaximumfOp(*self._both(a, b)))

    def exp(self, x: SSAValue) -> SSAValue:
        """The exponential function."""
        return self._one(math.ExpOp(x))

    def exp2(self, x: SSAValue) -> SSAValue:
        """Two to the power of x."""
        return self._one(math.Exp2Op(x))

    def sqrt(self, x: SSAValue) -> SSAValue:
        """The square root."""
        return self._one(math.SqrtOp(x))

    def convert(self, x: SSAValue, element: Attribute) -> SSAValue:
        """`x` with elements of another type; nothing where they are that already, or were before they were widened."""
        if kernel.element_type(x.type) == element:
            return x
        if isinstance(x.owner, kernel.ConvertOp) and kernel.element_type(x.type) == f32:
            if kernel.element_type(x.owner.input.type) == element:  # f32 has all numbers of the other types
                return x.owner.input
        return self.remember(("convert", x, element), lambda: self._one(kernel.ConvertOp(x, element)))

    def combine(self, kind: Combine, a: SSAValue, b: SSAValue) -> SSAValue:
        """Two partial results of a reduction as one."""
        if kind is Combine.ADD:
            return self.add(a, b)
        return self._one(arith.MaxnumfOp(*self._both(a, b)))

    def reduce(self, kind: Combine, value: SSAValue) -> SSAValue:
        """The lanes of a vector as one; a scalar stays as it is."""
        return value if lanes_of(value) == 1 else self._one(kernel.ReduceOp(kind, value))

    def dot(self, x: SSAValue, y: SSAValue) -> SSAValue:
        """The sum of the products of the lanes of two vectors; the product of two scalars."""
        return self.mul(x, y) if lanes_of(x) == lanes_of(y) == 1 else self._one(kernel.DotOp(*self._both(x, y)))

    def lane(self, value: SSAValue, number: int) -> SSAValue:
        """One lane of a vector; a scalar is all of its lanes."""
        if lanes_of(value) == 1:
            return value
        return self.remember(("lane", value, number), lambda: self._one(self._extract(value, number)))

    @staticmethod
    def _extract(value: SSAValue, number: int) -> Operation:
        assert kernel.is_vector(value.type)
        return vector.ExtractOp(value, [number], value.type.element_type)

    def pack(self, lanes: Sequence[SSAValue]) -> SSAValue:
        """A vector made of scalars."""
        return lanes[0] if len(lanes) == 1 else self._one(kernel.PackOp(lanes))

    def shuffle_xor(self, value: SSAValue, mask: int) -> SSAValue:
        """The value of the thread whose number in the warp differs by `mask`."""
        return self._one(kernel.ShuffleXorOp(value, mask))

    # integers and decisions

    def minimum(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """The smaller of two integers."""
        return self._one(arith.MinSIOp(a, b))

    def maximum_index(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """The larger of two indices."""
        return self._one(arith.MaxSIOp(a, b))

    def mul_index(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a * b of indices."""
        return self._one(arith.MuliOp(a, b))

    def div_index(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a // b of indices that are not negative."""
        return self._one(arith.DivUIOp(a, b))

    def xor_index(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """Bits that differ between two indices."""
        return self._one(arith.XOrIOp(a, b))

    def index_cast(self, value: SSAValue, type: Attribute = INDEX) -> SSAValue:
        """Between index and i64."""
        return self._one(arith.IndexCastOp(value, type))

    def compare(self, predicate: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """An i1: `slt`, `sle`, `eq`, ... of integers, `olt`, `ogt`, ... of floats."""
        if isinstance(a.type, IndexType | IntegerType):
            return self._one(arith.CmpiOp(a, b, predicate))
        return self._one(arith.CmpfOp(a, b, predicate))

    def both(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """Logical and of two i1."""
        return self._one(arith.AndIOp(a, b))

    def either(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """Logical or of two i1."""
        return self._one(arith.OrIOp(a, b))

    def select(self, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        """`a` where the condition holds, else `b`."""
        return self._one(arith.SelectOp(condition, a, b))

    # structure

    def loop(
        self,
        low: SSAValue,
        high: SSAValue,
        step: int,
        carried: Sequence[SSAValue],
        body: Callable[[SSAValue, list[SSAValue]], Sequence[SSAValue]],
        hint: str = "i",
        unroll: bool = False,
    ) -> list[SSAValue]:
        """scf.for: `body(i, carried)` gives the carried values of the next round; the last ones are returned.

        `unroll` asks the compiler behind the printer to write the rounds out.
        """
        block = Block(arg_types=[INDEX, *(value.type for value in carried)])
        block.args[0].name_hint = hint
        outer, self.block = self.block, block
        self.loops += 1
        self._known.append({})
        results = body(block.args[0], list(block.args[1:]))
        self._known.pop()
        self.loops -= 1
        block.add_op(scf.YieldOp(*results))
        self.block = outer
        op = scf.ForOp(low, high, self.number(step), carried, block)
        if unroll:
            op.attributes["unroll"] = UnitAttr()
        self.insert(op)
        return list(op.results)

    def when(
        self,
        condition: SSAValue | Callable[[], SSAValue],
        then: Callable[[], Sequence[SSAValue] | None],
        otherwise: Callable[[], Sequence[SSAValue] | None] | None = None,
    ) -> list[SSAValue]:
        """scf.if; with `otherwise`, both sides give the results. A function as condition is asked after both."""
        regions: list[Region] = []
        results: list[Sequence[SSAValue]] = []
        outer = self.block
        for branch in (then, otherwise):
            if branch is None:
                continue
            self.block = Block()
            self._known.append({})
            values = branch() or ()
            self._known.pop()
            self.block.add_op(scf.YieldOp(*values))
            regions.append(Region(self.block))
            results.append(values)
        self.block = outer
        types = [value.type for value in results[0]]
        decided = condition() if callable(condition) else condition
        op = scf.IfOp(decided, types, regions[0], regions[1] if otherwise is not None else None)
        self.insert(op)
        return list(op.results)
