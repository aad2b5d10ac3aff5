"""Lets kernels start before the launches ahead of them have ended, and read their weights meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import scf
from xdsl.dialects.builtin import DenseArrayBase, IndexType, IntegerType, ModuleOp, i64
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas, kernel, program

PURE = ("arith", "math", "vector")
"""Dialects whose operations depend on their operands alone."""


@dataclass(frozen=True)
class ProgramOverlapLaunchesPass(ModulePass):
    """Split each kernel in two by a `kernel.wait_dependency`: what needs nothing but weights, and the rest.

    1. An argument is constant if every launch of the kernel passes a weight for it.
    2. An operation is early if it is pure, or loads from a constant argument, and all its operands are early. Loads
       behind the first computation that is not early are not: a schedule that puts them there has them in mind for
       later, when registers are free again.
    3. Early operations move ahead of the others of their block; the wait comes between. A branch whose condition is
       early is not waited for as a whole, but within each of its sides.

    Every kernel waits, so that a launch ends after all launches ahead of it: to wait for one is to wait for all.

    ```
    %x = kernel.load %activations[%i]        kernel.launch_dependents
    %w = kernel.load %weights[%i]       ->   %w = kernel.load %weights[%i]
    %y = arith.mulf %x, %w                   kernel.wait_dependency
                                             %x = kernel.load %activations[%i]
                                             %y = arith.mulf %x, %w
    ```
    """

    name = "program-overlap-launches"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        weights = {child.sym_name.data for child in op.body.block.ops if isinstance(child, hamkaas.WeightOp)}
        launches: dict[str, list[program.LaunchOp]] = {}
        for launch in op.walk():
            if isinstance(launch, program.LaunchOp):
                launches.setdefault(launch.callee.root_reference.data, []).append(launch)
        for function in [child for child in op.body.block.ops if isinstance(child, kernel.FuncOp)]:
            if function.constants is None and (users := launches.get(function.sym_name.data)):
                _overlap(function, _constants(users, weights))


def _constants(launches: Sequence[program.LaunchOp], weights: set[str]) -> list[int]:
    """The arguments for which all launches pass a weight."""

    def is_weight(value: SSAValue) -> bool:
        return isinstance(value.owner, program.SymbolOp) and value.owner.symbol.root_reference.data in weights

    return [
        number for number in range(len(launches[0].args)) if all(is_weight(launch.args[number]) for launch in launches)
    ]


def _overlap(function: kernel.FuncOp, constants: Sequence[int]) -> None:
    function.properties["constants"] = DenseArrayBase.from_list(i64, constants)
    block = function.body.block
    known: set[SSAValue] = {block.args[number] for number in constants}
    _split(block, known)
    start = kernel.LaunchDependentsOp()
    if block.first_op is not None:
        Rewriter.insert_op(start, InsertPoint.before(block.first_op))


def _split(block: Block, known: set[SSAValue]) -> None:
    """Moves the early operations of a block to its start; adds their results to `known`, the early values."""
    early: list[Operation] = []
    late: list[Operation] = []
    computing = False
    for op in block.ops:
        is_early = not (computing and isinstance(op, kernel.LoadOp)) and _note_early(op, known)
        (early if is_early else late).append(op)
        computing = computing or (not is_early and _computes(op))
    terminator = late.pop()
    boundary = late[0] if late else terminator
    for op in early:
        op.detach()
        Rewriter.insert_op(op, InsertPoint.before(boundary))
    if isinstance(boundary, scf.IfOp) and boundary.cond in known:
        for region in (boundary.true_region, boundary.false_region):
            if region.blocks:
                _split(region.block, known)
        boundary = late[1] if len(late) > 1 else terminator
        if boundary is terminator:
            return
    Rewriter.insert_op(kernel.WaitDependencyOp(), InsertPoint.before(boundary))


def _computes(op: Operation) -> bool:
    """Whether an operation does more than to bring something, to say where it is or to wait."""
    if isinstance(op, (kernel.ReduceOp, kernel.ShuffleXorOp)) or op.dialect_name() in ("math", "scf"):
        return True
    return op.dialect_name() == "arith" and not all(isinstance(r.type, IndexType | IntegerType) for r in op.results)


def _note_early(op: Operation, known: set[SSAValue]) -> bool:
    """Whether an operation is early; if so, its results are known from here on."""
    if not _is_harmless(op) or not all(_is_early(operand, known) for operand in op.operands):
        return False
    known.update(op.results)
    return True


def _is_harmless(op: Operation) -> bool:
    """Whether an operation may run early once its operands may."""
    if isinstance(op, (kernel.BlockIdOp, kernel.ThreadIdOp, kernel.AllocOp, kernel.LoadOp)):
        return True
    return isinstance(op, (kernel.ConvertOp, kernel.PackOp)) or op.dialect_name() in PURE


def _is_early(operand: SSAValue, known: set[SSAValue]) -> bool:
    return operand in known and not isinstance(operand.owner, kernel.AllocOp)
