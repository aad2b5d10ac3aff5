"""The value of one element of a tensor, computed where it is needed.

A schedule decides which elements a kernel computes and in which loops. `Elements.at(value, index)` defines an element,
once for all schedules and targets: it builds the operations that compute element `index` of a tensor of the group, by
walking its producers. Pointwise operations recurse into their operands, views rewrite the index, inputs of the group
become loads. That is fusion of producers. Fusion of consumers is in `epilogue`.

An element has the type of its tensor, but for f16 and bf16: these are held in f32, where every operation rounds its
result to the tensor's type. So a value does not depend on the group that it is computed in.

An index may contain a lane: then the value is a vector, with one element per lane.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from xdsl.dialects.builtin import BFloat16Type, Float16Type, IntegerType, f32
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from hamkaas.dialects import hamkaas, kernel
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.schedules.builder import Builder, element_of, lanes_of
from hamkaas.schedules.index import Div, Index, Lane, Mod, delinearize, linearize

Position: TypeAlias = tuple[Index, ...]
"""The index of one element: one symbolic index per axis."""

ROUNDING = (hamkaas.AddOp, hamkaas.MulOp, hamkaas.SiluOp, hamkaas.ComplexMulOp, hamkaas.CastOp, hamkaas.RmsScaleOp)
"""Pointwise operations whose exact result may be none of its type. Of others it is: relu, views, constants."""

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i64": 8}


def element_bytes(type: Attribute) -> int:
    """Size of an element in bytes."""
    return BYTES[str(type)]


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The shape of a tensor."""
    return tensor_type(value).get_shape()


def _alignment(memref: SSAValue, lanes: int) -> int:
    """What is known of the address of a vector at a multiple of its size: buffers start at multiples of 16 bytes."""
    return min(16, lanes * element_bytes(element_of(memref)))


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
        """Values that a schedule computes itself: a function that builds any element that the group may ask for."""
        self.streamed: set[SSAValue] = set()
        """Inputs that are read once: their loads carry a cache hint."""
        self._rows: dict[SSAValue, Index] = {}

    def at(self, value: SSAValue, index: Position) -> SSAValue:
        """Element `index` of `value`, floats as f32; a vector of elements if the index mentions a lane."""
        if (compute := self.known.get(value)) is not None:
            return compute(index)
        return self.builder.remember((value, index), lambda: self.compute(value, index))

    def compute(self, value: SSAValue, index: Position) -> SSAValue:
        """Builds element `index` of `value` anew, from elements of the operands."""
        exact = self._compute(value, index)
        return self.rounded(value, exact) if isinstance(value.owner, ROUNDING) else exact

    def compute_from(self, value: SSAValue, index: Position, operands: Mapping[SSAValue, SSAValue]) -> SSAValue:
        """Builds element `index` of `value` anew, from these elements of some of the operands."""
        for operand, element in operands.items():
            self.known[operand] = lambda _, element=element: element
        result = self.compute(value, index)
        for operand in operands:
            del self.known[operand]
        return result

    def define(self, value: SSAValue, compute: Callable[[Position], SSAValue]) -> None:
        """Sets how to build any element of `value` that the group may ask for; it is rounded as its type says."""
        self.known[value] = lambda index: self.rounded(value, compute(index))

    def rounded(self, value: SSAValue, exact: SSAValue) -> SSAValue:
        """An f32 rounded to the element type of a tensor, if that is narrower."""
        element = tensor_type(value).element_type
        if isinstance(element, Float16Type | BFloat16Type):
            return self.builder.convert(self.builder.convert(exact, element), f32)
        return exact

    def _compute(self, value: SSAValue, index: Position) -> SSAValue:
        b = self.builder
        if isinstance(value, BlockArgument):
            return self.load(value, linearize(index, shape_of(value)))
        match value.owner:
            case hamkaas.ConstantOp() as op:
                return b.constant(op.value)
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
                return b.convert(self.at(op.input, index), f32)
            case hamkaas.DequantizeOp() as op:
                return b.mul(b.convert(self.at(op.values, index), f32), self.at(op.scales, _scale_of(op, index)))
            case hamkaas.GatherOp() if (lane := lane_in(index[0])) is not None:
                return b.pack([self.at(value, one) for one in per_lane(index, lane)])
            case hamkaas.ReshapeOp() | hamkaas.PermuteOp() | hamkaas.SliceOp() | hamkaas.GatherOp() as op:
                return self.at(*self.through_view(op, index))
            case _:
                raise AssertionError(f"{value.owner} has no element of its own: its schedule must provide it")

    def alike(self, value: SSAValue) -> int:
        """How many neighbours along the last axis of memory share a factor in `factored`; 0 where there is none."""
        while not isinstance(value, BlockArgument) and value not in self.known:
            match value.owner:
                case hamkaas.ReshapeOp() | hamkaas.PermuteOp() | hamkaas.SliceOp() as op:
                    value = op.input
                case hamkaas.DequantizeOp() as op:
                    return op.group
                case _:
                    break
        return 0

    def factored(self, value: SSAValue, index: Position) -> tuple[SSAValue, SSAValue | None]:
        """(x, f) such that element `index` of `value` is x * f, and f, unless it is None, is the same for all lanes.

        A sum over the lanes may leave f to its end.
        """
        match value.owner:
            case hamkaas.ReshapeOp() | hamkaas.PermuteOp() | hamkaas.SliceOp() as op if value not in self.known:
                return self.factored(*self.through_view(op, index))
            case hamkaas.DequantizeOp() as op if all(lane_in(i) is None for i in _scale_of(op, index)):
                values = self.builder.convert(self.at(op.values, index), f32)
                return values, self.at(op.scales, _scale_of(op, index))
            case _:
                return self.at(value, index), None

    def _operands(self, op: hamkaas.BinaryOp, index: Position) -> tuple[SSAValue, SSAValue]:
        return self.at(op.lhs, index), self.at(op.rhs, broadcast(index, shape_of(op.rhs)))

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
            if self._begins_with_pair(op.result, index, lane):
                return complex_lanes(b, *self._operands(op, index))
            return b.pack([self.at(op.result, one) for one in per_lane(index, lane)])
        right = broadcast(index, shape_of(op.rhs))[:-1]
        parts = (Index.of(0), Index.of(1))
        x = [self.at(op.lhs, (*index[:-1], part)) for part in parts]
        y = [self.at(op.rhs, (*right, part)) for part in parts]
        re, im = complex_product(b, x, y)
        match index[-1]:
            case Index((), 0):
                return re
            case Index((), 1):
                return im
            case part:
                return b.select(b.compare("eq", b.index(part), b.number(0)), re, im)

    def _begins_with_pair(self, value: SSAValue, index: Position, lane: Lane) -> bool:
        """Whether the lanes are neighbours, pair by pair."""
        position = linearize(index, shape_of(value))
        first = position.substitute(lane, 0)
        return lane.size % 2 == 0 and position == first + Index.of(lane) and first.is_multiple_of(2)

    # memory

    def load(self, argument: SSAValue, position: Index) -> SSAValue:
        """The element of a group's argument at a flat position, floats as f32."""
        memref = self.buffers[argument]
        cache = kernel.Cache.STREAM if argument in self.streamed else None
        value = self.load_raw(memref, position, cache)
        return value if isinstance(element_of(memref), IntegerType) else self.builder.convert(value, f32)

    def load_raw(self, memref: SSAValue, position: Index, cache: kernel.Cache | None = None) -> SSAValue:
        """The element of a buffer at a flat position: a vector load where the lanes are neighbours."""
        b = self.builder
        lane = lane_in(position)
        if lane is None:
            return b.load(memref, b.index(position), cache=cache)
        first = position.substitute(lane, 0)
        if position != first + Index.of(lane) or (self.aligned and not first.is_multiple_of(lane.size)):
            return b.pack([self.load_raw(memref, one, cache) for (one,) in per_lane((position,), lane)])
        align = _alignment(memref, lane.size) if self.aligned else None
        return b.load(memref, b.index(first), lane.size, align, cache)

    def store(self, value: SSAValue, memref: SSAValue, position: Index) -> None:
        """Stores an element, scalar or one per lane, at a flat position; an f32 is rounded to the buffer's type."""
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
        align = _alignment(memref, lane.size) if self.aligned else None
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


def _scale_of(op: hamkaas.DequantizeOp, index: Position) -> Position:
    """The index of the scale of an element."""
    return (*index[:-1], index[-1] // op.group)


Pair: TypeAlias = Sequence[SSAValue]
"""The real and the imaginary part of a complex number."""


def complex_product(b: Builder, x: Pair, y: Pair) -> tuple[SSAValue, SSAValue]:
    """(a + bi)(c + di) = (ac - bd) + (ad + bc)i, each product and sum rounded."""
    return b.sub(b.mul(x[0], y[0]), b.mul(x[1], y[1])), b.add(b.mul(x[0], y[1]), b.mul(x[1], y[0]))


def complex_lanes(b: Builder, x: SSAValue, y: SSAValue) -> SSAValue:
    """Products of complex numbers whose parts are neighbouring lanes of two vectors."""
    lanes: list[SSAValue] = []
    for place in range(0, max(lanes_of(x), lanes_of(y)), 2):
        lanes += complex_product(b, *[[b.lane(value, place + part) for part in (0, 1)] for value in (x, y)])
    return b.pack(lanes)


def forward(value: SSAValue, index: Position, target: SSAValue) -> Position:
    """Where in `target` the element `index` of `value` ends up, along the operations of the group between them.

    Only pointwise operations that keep the shape, reshape and permute lie on such a path (`hamkaas-outline-groups` sees
    to it).
    """
    while value is not target:
        user = next(use.operation for use in value.uses if reaches(use.operation.results[0], target))
        value, index = user.results[0], forward_one(user, index)
    return index


def forward_one(op: Operation, index: Position) -> Position:
    """Where in the result of an operation the element `index` of its operand ends up."""
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
