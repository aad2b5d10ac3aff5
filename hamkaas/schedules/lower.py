"""Picks the schedule of a group: by its one reduction, or pointwise if it has none."""

from hamkaas.dialects import hamkaas, kernel
from hamkaas.errors import CompileError
from hamkaas.schedules.attention import lower_attention
from hamkaas.schedules.attention_cuda import lower_attention_cuda
from hamkaas.schedules.lowering import Lowering, Output, Target
from hamkaas.schedules.matmul import lower_matmul
from hamkaas.schedules.pointwise import lower_pointwise
from hamkaas.schedules.rows import lower_argmax, lower_rms_norm, lower_sliced_softmax
from hamkaas.schedules.sample import lower_sample

REDUCTIONS = (hamkaas.SlicedSoftmaxOp, hamkaas.ArgmaxOp, hamkaas.AttentionOp, hamkaas.SampleOp, hamkaas.RmsNormOp)
"""Operations beside products that decide the loops of a kernel; a part of a group has at most one."""


def lower_group(group: hamkaas.GroupOp, target: Target, max_cluster: int = 1) -> kernel.FuncOp:
    """The kernel of a group. Raises `CompileError` where a size is beyond what its schedule can do.

    A group with several results has a part for each: its blocks follow those of the part before. `max_cluster` is the
    most blocks that may form a cluster.
    """
    lowering = Lowering(group, target, max_cluster)
    grid, block = _lower_parts(lowering, list(lowering.outputs), 0)
    return lowering.finish(grid, block)


def _lower_parts(lowering: Lowering, outputs: list[Output], first: int) -> tuple[int, int]:
    """Lowers the parts that compute these outputs, from block `first` on; gives grid and block."""
    output, *others = outputs
    if not others:
        return lower_part(lowering, output, first)
    b = lowering.builder
    shapes: list[tuple[int, int]] = []

    def part() -> None:
        shapes.append(lower_part(lowering, output, first))

    def rest() -> None:
        shapes.append(_lower_parts(lowering, others, first + shapes[0][0]))

    # how many blocks a part has is known once it is lowered
    b.when(lambda: b.compare("slt", b.index(b.block_number), b.number(first + shapes[0][0])), part, rest)
    (grid, block), (other_grid, other_block) = shapes
    if block != other_block:
        raise CompileError(f"expected parts with blocks of one size, got {block} and {other_block} threads")
    return grid + other_grid, block


def lower_part(lowering: Lowering, output: Output, first: int) -> tuple[int, int]:
    """Lowers what one output needs with the schedule that fits; gives grid and block."""
    lowering.begin(output, first)
    ops = lowering.ops
    if products := [op for op in ops if isinstance(op, hamkaas.MatmulOp)]:
        return lower_matmul(lowering, products)
    match next((op for op in ops if isinstance(op, REDUCTIONS)), None):
        case None:
            return lower_pointwise(lowering)
        case hamkaas.RmsNormOp() as op:
            return lower_rms_norm(lowering, op)
        case hamkaas.SlicedSoftmaxOp() as op:
            return lower_sliced_softmax(lowering, op)
        case hamkaas.ArgmaxOp() as op:
            return lower_argmax(lowering, op)
        case hamkaas.AttentionOp() as op:
            return (lower_attention_cuda if lowering.target == "cuda" else lower_attention)(lowering, op)
        case hamkaas.SampleOp() as op:
            return lower_sample(lowering, op)
