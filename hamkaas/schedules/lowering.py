"""What every schedule works with: the kernel being built, its elements and its outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal, TypeAlias

from xdsl.dialects.builtin import MemRefType, StringAttr, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from hamkaas.dialects import hamkaas, kernel
from hamkaas.schedules.builder import Builder
from hamkaas.schedules.elements import Elements, Position, forward, shape_of
from hamkaas.schedules.epilogue import Epilogue
from hamkaas.schedules.index import Index, linearize

Target: TypeAlias = Literal["cpu", "cuda"]

LANES = {"cpu": 8, "cuda": 4}
"""Lanes of a vector of f32: an AVX register; a 16-byte access."""


def flat(type: Attribute) -> MemRefType[Attribute]:
    """The buffer that holds a tensor, as a kernel sees it."""
    assert hamkaas.is_tensor(type)
    return MemRefType(type.element_type, [prod(type.get_shape())])


@dataclass(frozen=True)
class Output:
    """A value that the kernel computes, and where it goes."""

    value: SSAValue
    memref: SSAValue
    update: hamkaas.ReplaceSliceOp | None
    """The operation whose base the buffer holds, if it is an update in place."""


@dataclass(frozen=True)
class IndexUse:
    """An i64 tensor whose elements must lie in [0, high] for an operation; else the fault is reported."""

    value: SSAValue
    high: int
    fault: int


def index_uses(op: Operation) -> list[IndexUse]:
    """The indices of an operation that are known only when the kernel runs."""
    match op:
        case hamkaas.ReplaceSliceOp():
            rows, size = shape_of(op.replacement)[0], shape_of(op.base)[0]
            uses = [IndexUse(op.begin, size - rows, 1), IndexUse(op.end, size, 1)]
        case hamkaas.GatherOp():
            uses = [IndexUse(op.index, shape_of(op.table)[0] - 1, 2)]
        case hamkaas.SlicedSoftmaxOp():
            uses = [IndexUse(op.prefix, shape_of(op.input)[-1], 3)]
        case hamkaas.AttentionOp():
            uses = [IndexUse(op.length, shape_of(op.keys)[0], 4)]
        case _:
            uses = []
    return [use for use in uses if hamkaas.constant_value(use.value) is None]


class Lowering:
    """One group on its way to a kernel: `builder` and `elements` for its body, `outputs` to store.

    The kernel's arguments are the inputs of the group, then a buffer for each result. A result that is a
    `hamkaas.replace_slice` has none of its own: it is written into the buffer of its base.
    """

    def __init__(self, group: hamkaas.GroupOp, target: Target, max_cluster: int = 1):
        self.group = group
        self.target: Target = target
        self.max_cluster = max_cluster
        """The most blocks that can work together as a cluster; 1 where there are none."""
        self.cluster = 1
        """How many of them do."""
        self.min_blocks = 0
        """How many blocks a multiprocessor is to hold, if that matters."""
        self.lanes = LANES[target]
        args = group.body.block.args
        types: list[Attribute] = [flat(arg.type) for arg in args]
        self._results: list[int] = []
        for value in group.yielded.values:
            if isinstance(value.owner, hamkaas.ReplaceSliceOp):
                self._results.append(args.index(value.owner.base))
            else:
                self._results.append(len(types))
                types.append(flat(value.type))
        self._uses = tuple(dict.fromkeys(use for op in group.body.block.ops for use in index_uses(op)))
        if self._uses:
            types.append(MemRefType(i64, [1]))
        self._block = Block(arg_types=types)
        self._name_arguments()
        self.builder = Builder(self._block)
        buffers: dict[SSAValue, SSAValue] = dict(zip(args, self._block.args, strict=False))
        self.elements = Elements(self.builder, buffers, aligned=target == "cuda")
        self.outputs = tuple(map(self._output, group.yielded.values, self._results))
        """What the kernel computes."""
        self.output = self.outputs[0]
        """What the part at hand computes."""
        self.ops: list[Operation] = []
        """The operations that this takes."""

    def _name_arguments(self) -> None:
        args = self._block.args
        for mine, of_group in zip(args, self.group.body.block.args, strict=False):
            mine.name_hint = of_group.name_hint
        fresh = [arg for arg in args[len(self.group.body.block.args) :]]
        for number, arg in enumerate(fresh):
            arg.name_hint = "out" if number == 0 else f"out{number}"
        if self._uses:
            args[-1].name_hint = "status"

    # indices that are known only when the kernel runs

    def _replaced(self) -> list[hamkaas.ReplaceSliceOp]:
        """The replace_slice operations whose bounds are not constants."""
        ops = (op for op in self.group.body.block.ops if isinstance(op, hamkaas.ReplaceSliceOp))
        return [op for op in ops if index_uses(op)]

    def _report_faults(self, grid: int, threads: int) -> None:
        """Reports indices that are out of range: single ones by the first thread of the grid, long lists by all."""
        b = self.builder
        status = self._block.args[-1]

        def report(wrong: SSAValue, fault: int) -> None:
            b.when(wrong, lambda: b.store(b.integer(fault), status, b.number(0)))

        def check(use: IndexUse, i: Index) -> None:
            found = self.elements.at(use.value, (i,))
            low, high = b.compare("slt", found, b.integer(0)), b.compare("sgt", found, b.integer(use.high))
            report(b.either(low, high), use.fault)

        def check_one(use: IndexUse, size: int, i: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            check(use, b.var(i, size, "i"))
            return []

        def check_single() -> None:
            for use in singles:
                check(use, Index.of(0))
            for op in self._replaced():
                length = b.sub(self._bound(op.end), self._bound(op.begin))
                report(b.compare("ne", length, b.integer(shape_of(op.replacement)[0])), 1)

        me = b.block_number * threads + b.thread_id(threads) if threads > 1 else b.block_number
        singles = [use for use in self._uses if shape_of(use.value) == (1,)]
        if singles:
            b.when(b.compare("eq", b.index(me), b.number(0)), check_single)
        for use in self._uses:
            (size,) = shape_of(use.value)
            if size > 1:
                b.loop(b.index(me), b.number(size), grid * threads, [], partial(check_one, use, size))

    def _bound(self, value: SSAValue) -> SSAValue:
        """The one element of an i64 tensor, as it stands."""
        constant = hamkaas.constant_value(value)
        if constant is not None:
            return self.builder.integer(constant)
        return self.elements.at(value, (Index.of(0),))

    def _fits(self, op: hamkaas.ReplaceSliceOp) -> SSAValue | None:
        """Whether [begin, end) lies inside the base and has the replacement's rows; None where that was verified."""
        if not index_uses(op):
            return None
        b = self.builder

        def compute() -> SSAValue:
            begin, end = self._bound(op.begin), self._bound(op.end)
            high = b.integer(shape_of(op.base)[0])
            inside = b.both(b.compare("sge", begin, b.integer(0)), b.compare("sle", end, high))
            return b.both(inside, b.compare("eq", b.sub(end, begin), b.integer(shape_of(op.replacement)[0])))

        return b.remember(("fits", op), compute)

    def _facts(self) -> tuple[list[kernel.BoundAttr], list[kernel.SpanAttr]]:
        """What the host may check beforehand, in terms of arguments."""
        args = self.group.body.block.args
        known = [use for use in self._uses if use.value in args]
        bounds = [kernel.BoundAttr.of(args.index(use.value), 0, use.high, use.fault) for use in known]
        spans = [
            kernel.SpanAttr.of(args.index(op.begin), args.index(op.end), shape_of(op.replacement)[0])
            for op in self._replaced()
            if op.begin in args and op.end in args
        ]
        return bounds, spans

    # parts and outputs

    def begin(self, output: Output, first_block: int) -> None:
        """From here on the part for this output is lowered, whose first block is this one of the grid."""
        self.output = output
        self.builder.begin_part(first_block)
        needed: set[Operation] = set()
        todo = [output.value.owner]
        while todo:
            op = todo.pop()
            if isinstance(op, Operation) and op not in needed:
                needed.add(op)
                todo.extend(operand.owner for operand in op.operands)
        self.ops = [op for op in self.group.body.block.ops if op in needed]

    def _output(self, value: SSAValue, arg: int) -> Output:
        op = value.owner
        if not isinstance(op, hamkaas.ReplaceSliceOp):
            return Output(value, self._block.args[arg], None)
        return Output(op.replacement, self._block.args[arg], op)

    def _offset(self, op: hamkaas.ReplaceSliceOp) -> Index:
        """Position of the first element that an update writes."""
        (rows, *inner), size = shape_of(op.replacement), shape_of(op.base)[0]
        return self.elements.index_at(op.begin, Index.of(0), size - rows + 1) * prod(inner)

    def epilogue(self, *anchors: SSAValue) -> Epilogue:
        """The operations of this part from results that a schedule computes to the output."""
        return Epilogue(self.elements, self.ops, anchors, self.output.value)

    def prefetch(self, epilogue: Epilogue, positions: Sequence[Position]) -> None:
        """Loads what `store` will need beside the elements of the anchors at these positions."""
        if (update := self.output.update) is not None:
            self._offset(update)
            self._fits(update)
        nothing = [self.builder.real(0.0)] * (len(positions) * len(epilogue.anchors))
        self.builder.draft(lambda: epilogue.apply(positions, nothing), epilogue.values)

    def store(self, epilogue: Epilogue, positions: Sequence[Position], elements: Sequence[SSAValue]) -> None:
        """Stores what becomes of elements of the anchors in the output; the arguments are those of `Epilogue.apply`."""

        def store() -> None:
            for where, element in epilogue.apply(positions, elements):
                self._store(where, element)

        self._when_it_fits(store)

    def store_output(self, anchor: SSAValue, index: Position) -> None:
        """Computes and stores what element `index` of `anchor` becomes, of which any element of its row is known."""
        where = forward(anchor, index, self.output.value)
        self._when_it_fits(lambda: self._store(where, self.elements.at(self.output.value, where)))

    def _when_it_fits(self, store: Callable[[], None]) -> None:
        """Stores, but not what would lie outside of a tensor that is updated."""
        update = self.output.update
        fits = None if update is None else self._fits(update)
        if fits is None:
            store()
        else:
            self.builder.when(fits, store)

    def _store(self, where: Position, element: SSAValue) -> None:
        output = self.output
        position = linearize(where, shape_of(output.value))
        if output.update is not None:
            position = position + self._offset(output.update)
        self.elements.store(element, output.memref, position)

    def finish(self, grid: int, block: int) -> kernel.FuncOp:
        """The finished kernel."""
        if self._uses:  # at the end: it waits for indices, and need not keep the rest from starting
            self._report_faults(grid, block)
        self._block.add_op(kernel.ReturnOp())
        bounds, spans = self._facts()
        label = self.group.attributes.get("label")
        return kernel.FuncOp(
            self.group.sym_name.data,
            [arg.type for arg in self._block.args],
            grid=grid,
            block=block,
            inputs=len(self.group.body.block.args),
            results=self._results,
            bounds=bounds,
            spans=spans,
            status=bool(self._uses),
            label=label.data if isinstance(label, StringAttr) else "",
            cluster=self.cluster,
            min_blocks=self.min_blocks,
            body=Region(self._block),
        )
