"""The value of one element of a tensor, computed where it is needed.

A schedule decides which elements a kernel computes and in which loops. What an element *is* stands here, once for
all schedules and targets: `Elements.at(value, index)` builds the operations that compute element `index` of a tensor
of the group, by walking its producers. Pointwise operations recurse into their operands, views rewrite the index,
inputs of the group become loads. That is all there is to fusion of producers; consumers are the same walk, started
at the end of the group and stopped by what a schedule has already computed (`Elements.known`).

An index may contain a lane: then the value is a vector, with one element per lane.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from xdsl.dialects.builtin import BFloat16Type, Float16Type, f32, i64
from xdsl.ir import Attribute, BlockArgument, SSAValue

from hamkaas.dialects import hamkaas, kernel
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.schedules.builder import Builder, element_of
from hamkaas.schedules.index import Div, Index, Lane, Mod, delinearize, linearize

Position: TypeAlias = tuple[Index, ...]
"""The index of one element: one symbolic index per axis."""

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i64": 8}


def element_bytes(type: Attribute) -> int:
    """Size of an element in bytes."""
    return BYTES[str(type)]


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The shape of a tensor."""
    return tensor_type(value).get_shape()


def lane_in(index: Index) -> Lane | None:
    """The lane that an index mentions, if it does."""
    for atom, _ in index.terms:
        if isinstance(atom, Lane):
            return atom
        if isinstance(atom, Div | Mod) and (lane := lane_in(atom.numerator)) is not None:
            return lane
    return None


class Elements:
    """Builds the elements of a group's tensors with `builder`; `buffers` maps the group's arguments to memory."""

    def __init__(self, builder: Builder, buffers: Mapping[SSAValue, SSAValue], *, aligned: bool):
        self.builder = builder
        self.buffers = buffers
        self.aligned = aligned
        """Whether vectors are loaded only from addresses that are multiples of their size, as CUDA demands."""
        self.known: dict[SSAValue, Callable[[Position], SSAValue]] = {}
        """Values that a schedule computes itself, such as a matrix product."""
        self.streamed: set[SSAValue] = set()
        """Inputs that are read once: their loads carry a cache hint."""
        self._rows: dict[SSAValue, Index] = {}

    def at(self, value: SSAValue, index: Position) -> SSAValue:
        """Element `index` of `value`, data as f32, an index as i64; a vector of them if the index mentions a lane."""
        if (compute := self.known.get(value)) is not None:
            return compute(index)
        return self.builder.remember((value, index), lambda: self._compute(value, index))

    def _compute(self, value: SSAValue, index: Position) -> SSAValue:
        b = self.builder
        if isinstance(value, BlockArgument):
            return self.load(value, linearize(index, shape_of(value)))
        match value.owner:
            case hamkaas.ConstantOp() as op:
                number = op.value.value.data
                return b.integer(int(number)) if hamkaas.is_index(tensor_type(value)) else b.real(float(number))
            case hamkaas.AddOp() as op:
                return b.add(*self._operands(op, index))
            case hamkaas.MulOp() as op:
                return b.mul(*self._operands(op, index))
            case hamkaas.ReluOp() as op:
                x = self.at(op.input, index)
                return b.maximum(x, b.real(0.0))
            case hamkaas.SiluOp() as op:
                x = self.at(op.input, index)
                return b.div(x, b.add(b.exp(b.sub(b.real(0.0), x)), b.real(1.0)))
            case hamkaas.ComplexMulOp() as op:
                return self._complex_mul(op, index)
            case hamkaas.RmsScaleOp() as op:
                mean = b.mul(self.at(op.sums, (*index[:-1], Index.of(0))), b.real(1 / shape_of(op.input)[-1]))
                norm = b.sqrt(b.add(mean, b.real(op.eps.value.data)))
                return b.div(b.mul(self.at(op.input, index), self.at(op.weight, index[-1:])), norm)
            case hamkaas.CastOp() as op:
                return self._rounded(self.at(op.input, index), tensor_type(op.result).element_type)
            case hamkaas.DequantizeOp() as op:
                scale = self.at(op.scales, (*index[:-1], index[-1] // op.group))
                return b.mul(self.at(op.values, index), scale)
            case hamkaas.GatherOp() if (lane := lane_in(index[0])) is not None:
                return b.pack([self.at(value, one) for one in per_lane(index, lane)])
            case hamkaas.ReshapeOp() | hamkaas.PermuteOp() | hamkaas.SliceOp() | hamkaas.GatherOp() as op:
                return self.at(*self.through_view(op, index))
            case _:
                raise AssertionError(f"{value.owner} has no element of its own: its schedule must provide it")

    def _operands(self, op: hamkaas.BinaryOp, index: Position) -> tuple[SSAValue, SSAValue]:
        return self.at(op.lhs, index), self.at(op.rhs, broadcast(index, shape_of(op.rhs)))

    def _rounded(self, x: SSAValue, element: Attribute) -> SSAValue:
        if isinstance(element, Float16Type | BFloat16Type):
            return self.builder.convert(self.builder.convert(x, element), f32)
        return x

    def through_view(self, op: hamkaas.TensorOp, index: Position) -> tuple[SSAValue, Position]:
        """The value that a view is of, and where in it the view's element `index` lies."""
        match op:
            case hamkaas.ReshapeOp():
                position = linearize(index, shape_of(op.result))
                return op.input, delinearize(position, shape_of(op.input))
            case hamkaas.PermuteOp():
                where = {axis: i for axis, i in zip(op.permutation, index, strict=True)}
                return op.input, tuple(where[axis] for axis in range(len(index)))
            case hamkaas.SliceOp():
                return op.input, (index[0] + op.begin.value.data, *index[1:])
            case hamkaas.GatherOp():
                rows = shape_of(op.table)[0]
                return op.table, (self.index_at(op.index, index[0], rows), *index[1:])
            case _:
                raise AssertionError(f"{op.name} is not a view")

    def index_at(self, value: SSAValue, position: Index, size: int) -> Index:
        """Element `position` of an i64 tensor as an index in [0, size); anything outside is moved to the nearest."""
        b = self.builder
        if (constant := hamkaas.constant_value(value)) is not None:
            return Index.of(constant)

        def clamped() -> SSAValue:
            found = b.index_cast(self.at(value, (position,)))
            return b.minimum(b.maximum_index(found, b.number(0)), b.number(size - 1))

        row = b.remember(("index_at", value, position, size), clamped)
        # One variable per SSA value, or the same row would look like two different ones
        return self._rows.setdefault(row, b.var(row, size, "row"))

    def _complex_mul(self, op: hamkaas.ComplexMulOp, index: Position) -> SSAValue:
        b = self.builder
        if (lane := lane_in(index[-1])) is not None:
            if not self.known and self._begins_with_pair(op.result, index, lane):
                return self._complex_lanes(op, index, lane.size)
            return b.pack([self.at(op.result, one) for one in per_lane(index, lane)])
        right = broadcast(index, shape_of(op.rhs))[:-1]
        re, im = Index.of(0), Index.of(1)
        left = (*index[:-1],)
        a, bi = self.at(op.lhs, (*left, re)), self.at(op.lhs, (*left, im))
        c, di = self.at(op.rhs, (*right, re)), self.at(op.rhs, (*right, im))

        def real() -> SSAValue:
            return b.sub(b.mul(a, c), b.mul(bi, di))

        def imaginary() -> SSAValue:
            return b.add(b.mul(a, di), b.mul(bi, c))

        match index[-1]:
            case Index((), 0):
                return real()
            case Index((), 1):
                return imaginary()
            case part:
                return b.select(b.compare("eq", b.index(part), b.number(0)), real(), imaginary())

    def _begins_with_pair(self, value: SSAValue, index: Position, lane: Lane) -> bool:
        """Whether the lanes are neighbours, pair by pair."""
        position = linearize(index, shape_of(value))
        first = position.substitute(lane, 0)
        return lane.size % 2 == 0 and position == first + Index.of(lane) and first.is_multiple_of(2)

    def _complex_lanes(self, op: hamkaas.ComplexMulOp, index: Position, size: int) -> SSAValue:
        """Whole pairs, from vectors of both sides."""
        b = self.builder
        x, y = self._operands(op, index)
        lanes: list[SSAValue] = []
        for place in range(0, size, 2):
            (re, im), (cos, sin) = ([b.lane(value, place + part) for part in (0, 1)] for value in (x, y))
            lanes.append(b.sub(b.mul(re, cos), b.mul(im, sin)))
            lanes.append(b.add(b.mul(re, sin), b.mul(im, cos)))
        return b.pack(lanes)

    # memory

    def load(self, argument: SSAValue, position: Index) -> SSAValue:
        """The element of a group's argument at a flat position, as f32 unless it is an index."""
        memref = self.buffers[argument]
        cache = kernel.Cache.STREAM if argument in self.streamed else None
        value = self.load_raw(memref, position, cache)
        return value if element_of(memref) == i64 else self.builder.convert(value, f32)

    def load_raw(self, memref: SSAValue, position: Index, cache: kernel.Cache | None = None) -> SSAValue:
        """The element of a buffer at a flat position: a vector load where the lanes are neighbours."""
        b = self.builder
        lane = lane_in(position)
        if lane is None:
            return b.load(memref, b.index(position), cache=cache)
        first = position.substitute(lane, 0)
        if position != first + Index.of(lane) or (self.aligned and not first.is_multiple_of(lane.size)):
            return b.pack([self.load_raw(memref, one, cache) for (one,) in per_lane((position,), lane)])
        align = lane.size * element_bytes(element_of(memref)) if self.aligned else None
        return b.load(memref, b.index(first), lane.size, align, cache)

    def store(self, value: SSAValue, memref: SSAValue, position: Index) -> None:
        """Stores f32 or i64, scalar or one per lane, at a flat position, rounded to the buffer's type."""
        b = self.builder
        element = element_of(memref)
        lane = lane_in(position)
        if lane is None:
            b.store(b.convert(value, element), memref, b.index(position))
            return
        value = b.splat(value, lane.size)
        first = position.substitute(lane, 0)
        if position != first + Index.of(lane) or (self.aligned and not first.is_multiple_of(lane.size)):
            for number, (one,) in enumerate(per_lane((position,), lane)):
                self.store(b.lane(value, number), memref, one)
            return
        align = lane.size * element_bytes(element) if self.aligned else None
        b.store(b.convert(value, element), memref, b.index(first), align)

    def source(self, value: SSAValue, index: Position) -> tuple[SSAValue, Index] | None:
        """The argument that the elements of `value` are read from one to one, and the flat position in it.

        None where an element depends on several arguments, or on none.
        """
        while not isinstance(value, BlockArgument):
            match value.owner:
                case hamkaas.ReshapeOp() | hamkaas.PermuteOp() | hamkaas.SliceOp() as op:
                    value, index = self.through_view(op, index)
                case hamkaas.CastOp() as op:
                    value = op.input
                case hamkaas.DequantizeOp() as op:
                    value = op.values
                case _:
                    return None
        return value, linearize(index, shape_of(value))


def broadcast(index: Position, shape: Sequence[int]) -> Position:
    """The index in an operand of this shape that takes part in result element `index`."""
    return tuple(Index.of(0) if size == 1 else i for i, size in zip(index, shape, strict=True))


def per_lane(index: Position, lane: Lane) -> Iterator[Position]:
    """The index of each lane in turn."""
    for number in range(lane.size):
        yield tuple(i.substitute(lane, number) for i in index)


def forward(value: SSAValue, index: Position, target: SSAValue) -> Position:
    """Where in `target` the element `index` of `value` ends up, along the operations of the group between them.

    The inverse of the walk of `Elements.at`: only pointwise operations that keep the shape, reshape and permute lie
    on such a path (`hamkaas-outline-groups` sees to it).
    """
    while value is not target:
        user = next(use.operation for use in value.uses if reaches(use.operation.results[0], target))
        value, index = user.results[0], _forward_one(user, index)
    return index


def _forward_one(op: object, index: Position) -> Position:
    match op:
        case hamkaas.ReshapeOp():
            return delinearize(linearize(index, shape_of(op.input)), shape_of(op.result))
        case hamkaas.PermuteOp():
            return tuple(index[axis] for axis in op.permutation)
        case _:
            return index


def reaches(value: SSAValue, target: SSAValue) -> bool:
    """Whether `target` is `value` or is computed from it within the group."""
    seen: set[SSAValue] = set()
    todo = [value]
    while todo:
        if (current := todo.pop()) is target:
            return True
        if current not in seen:
            seen.add(current)
            todo.extend(result for use in current.uses for result in use.operation.results)
    return False
