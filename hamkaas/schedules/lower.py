"""Picks the schedule of a group: by its one reduction, or pointwise if it has none."""

from hamkaas.dialects import hamkaas, kernel
from hamkaas.schedules.attention import lower_attention
from hamkaas.schedules.lowering import Lowering, Target
from hamkaas.schedules.matmul import lower_matmul
from hamkaas.schedules.pointwise import lower_pointwise
from hamkaas.schedules.rows import lower_argmax, lower_rms_norm, lower_sliced_softmax
from hamkaas.schedules.sample import lower_sample

REDUCTIONS = (
    hamkaas.MatmulOp,
    hamkaas.RmsNormOp,
    hamkaas.SlicedSoftmaxOp,
    hamkaas.ArgmaxOp,
    hamkaas.AttentionOp,
    hamkaas.SampleOp,
)
"""Operations that decide the loops of a kernel; a group has at most one."""


def lower_group(group: hamkaas.GroupOp, target: Target) -> kernel.FuncOp:
    """The kernel of a group. Raises `CompileError` where a size is beyond what its schedule can do."""
    lowering = Lowering(group, target)
    reduction = next((op for op in group.body.block.ops if isinstance(op, REDUCTIONS)), None)
    match reduction:
        case None:
            return lower_pointwise(lowering)
        case hamkaas.MatmulOp():
            return lower_matmul(lowering, reduction)
        case hamkaas.RmsNormOp():
            return lower_rms_norm(lowering, reduction)
        case hamkaas.SlicedSoftmaxOp():
            return lower_sliced_softmax(lowering, reduction)
        case hamkaas.ArgmaxOp():
            return lower_argmax(lowering, reduction)
        case hamkaas.AttentionOp():
            return lower_attention(lowering, reduction)
        case hamkaas.SampleOp():
            return lower_sample(lowering, reduction)
