"""Places temporaries in one arena."""

from dataclasses import dataclass, field
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from hamkaas.artifact import ALIGNMENT
from hamkaas.dialects import program

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i64": 8}


def size_of(op: program.BufferOp) -> int:
    """Bytes of a buffer."""
    type = op.memref.type
    return prod(type.get_shape()) * BYTES[str(type.element_type)]


def aligned_size(op: program.BufferOp) -> int:
    """Bytes of a buffer, rounded up to where the next one may start."""
    return -(-size_of(op) // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class ProgramPlanMemoryPass(ModulePass):
    """Give each temporary an offset, so that two that are alive at the same time do not overlap.

    A temporary lives from its first step to its last. Walking the steps in order, one that begins takes the smallest
    gap that is big enough (or the end of the arena), one that has ended gives its place back.

    ```
    %a = program.temp : memref<768xf32>    ->    %a = program.temp at 0 : memref<768xf32>
    ```
    """

    name = "program-plan-memory"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.body.block.ops:
            if isinstance(function, program.FuncOp):
                _plan(function)


@dataclass
class _Arena:
    gaps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(offset, size) of what is free below the end, by offset."""
    end: int = 0

    def take(self, size: int) -> int:
        fitting = [gap for gap in self.gaps if gap[1] >= size]
        if not fitting:
            offset = self.end
            if self.gaps and sum(self.gaps[-1]) == self.end:  # grow the last gap
                offset, _ = self.gaps.pop()
            self.end = offset + size
            return offset
        gap = min(fitting, key=lambda gap: gap[1])
        where = self.gaps.index(gap)
        rest = [(gap[0] + size, gap[1] - size)] if gap[1] > size else []
        self.gaps[where : where + 1] = rest
        return gap[0]

    def give(self, offset: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for gap in sorted([*self.gaps, (offset, size)]):
            if merged and sum(merged[-1]) == gap[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + gap[1])
            else:
                merged.append(gap)
        self.gaps = merged


def _plan(function: program.FuncOp) -> None:
    ops = list(function.flat)
    last: dict[program.TempOp, int] = {}
    for number, op in enumerate(ops):
        for temp in _temporaries(op):
            last[temp] = number
    arena = _Arena()
    placed: dict[program.TempOp, int] = {}
    for number, op in enumerate(ops):
        temporaries = _temporaries(op)
        for temp in temporaries:
            if temp not in placed:
                placed[temp] = arena.take(aligned_size(temp))
                temp.properties["offset"] = IntegerAttr(placed[temp], i64)
        for temp in temporaries:
            if last[temp] == number:
                arena.give(placed[temp], aligned_size(temp))


def _temporaries(op: Operation) -> list[program.TempOp]:
    """The temporaries that a step reads or writes, each once."""
    owners = (operand.owner for operand in op.operands)
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, program.TempOp)))
