"""Turns groups of tensor operations into kernels."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.schedules.lower import lower_group
from hamkaas.schedules.lowering import Target


@dataclass(frozen=True)
class HamkaasToKernelPass(ModulePass):
    """Replace each `hamkaas.group` by a `kernel.func` of the same name, by the schedule that fits its operations.

    Expects that each group is one that `hamkaas-outline-groups` makes: at most one reduction, whose result can be
    followed to the group's result. The functions that execute the groups stay as they are.

    ```
    hamkaas.group @g0(%x: tensor<4xf32>) -> tensor<4xf32>
    ->
    kernel.func @g0(%x: memref<4xf32>, %out: memref<4xf32>) attributes {grid = 1, block = 1, results = [1]}
    ```
    """

    name = "hamkaas-to-kernel"

    target: Target = "cpu"
    """Whose schedules to use."""

    max_cluster: int = 1
    """The most blocks that may work together as a cluster on CUDA: 1 for architectures before sm_90."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for group in [child for child in op.body.block.ops if isinstance(child, hamkaas.GroupOp)]:
            Rewriter.replace_op(group, lower_group(group, self.target, self.max_cluster), new_results=[])
