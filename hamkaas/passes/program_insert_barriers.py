"""Separates steps that depend on each other."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import cudnn, kernel, program
from hamkaas.passes.program_plan_memory import aligned_size


@dataclass(frozen=True)
class ProgramInsertBarriersPass(ModulePass):
    """Insert a barrier before each step that reads what a step since the last barrier wrote, or writes what one read.

    Temporaries are compared by their place in the arena, since places are reused: runs after `program-plan-memory`.
    The status word does not count; any of several faults may be the one that is reported.

    ```
    program.launch @g0(%x, %t)          program.launch @g0(%x, %t)
    program.launch @g1(%t, %y)    ->    program.barrier
                                        program.launch @g1(%t, %y)
    ```
    """

    name = "program-insert-barriers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        written: dict[str, set[int]] = {}
        for child in op.body.block.ops:
            if isinstance(child, kernel.FuncOp):
                written[child.sym_name.data] = set(child.result_args)
            elif isinstance(child, cudnn.GraphOp):
                inputs, outputs = len(child.function_type.inputs), len(child.function_type.outputs)
                written[child.sym_name.data] = set(range(inputs, inputs + outputs + 1))  # and the workspace
        for function in op.body.block.ops:
            if isinstance(function, program.FuncOp):
                _insert(function, written)


@dataclass
class _Touched:
    """Places that steps have read or written: byte ranges of the arena, and whole buffers by what they are."""

    ranges: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    buffers: set[SSAValue] = field(default_factory=set[SSAValue])

    def add(self, value: SSAValue) -> None:
        if isinstance(owner := value.owner, program.TempOp):
            self.ranges.append(_range(owner))
        else:
            self.buffers.add(value)

    def overlaps(self, value: SSAValue) -> bool:
        if isinstance(owner := value.owner, program.TempOp):
            low, high = _range(owner)
            return any(low < other_high and other_low < high for other_low, other_high in self.ranges)
        return value in self.buffers


def _range(op: program.TempOp) -> tuple[int, int]:
    assert op.offset is not None, "barriers are inserted after memory is planned"
    offset = op.offset.value.data
    return offset, offset + aligned_size(op)


def _insert(function: program.FuncOp, written_args: Mapping[str, AbstractSet[int]]) -> None:
    """Inserts the barriers of a program, where each kernel and graph writes these of its arguments."""
    read, written = _Touched(), _Touched()
    for op in list(function.flat):
        if isinstance(op, program.BarrierOp):
            read, written = _Touched(), _Touched()
            continue
        reads, writes = _effects(op, written_args)
        conflict = any(map(written.overlaps, [*reads, *writes])) or any(map(read.overlaps, writes))
        if conflict:
            Rewriter.insert_op(program.BarrierOp(), InsertPoint.before(op))
            read, written = _Touched(), _Touched()
        for value in reads:
            read.add(value)
        for value in writes:
            written.add(value)


def _effects(op: Operation, written_args: Mapping[str, AbstractSet[int]]) -> tuple[list[SSAValue], list[SSAValue]]:
    """What a step reads and what it writes."""
    match op:
        case program.CopyOp():
            return [op.source], [op.target]
        case program.LaunchOp() | program.ExecuteOp():
            written = written_args[op.callee.root_reference.data]
            args = [arg for arg in op.args if not isinstance(arg.owner, program.StatusOp)]
            return (
                [arg for number, arg in enumerate(args) if number not in written],
                [arg for number, arg in enumerate(args) if number in written],
            )
        case _:
            return [], []
