"""Puts what cuDNN takes into graphs of its own."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from hamkaas.dialects import cudnn, hamkaas
from hamkaas.partition.clusters import sort_topologically
from hamkaas.partition.grow import Regions
from hamkaas.partition.outline import Outliner, fold_output_views
from hamkaas.partition.policy import POLICIES, PolicyName


@dataclass(frozen=True)
class CudnnOutlinePass(ModulePass):
    """Outline the regions that cuDNN runs as one kernel into `cudnn.graph`, and leave the rest as it is.

    Regions are grown in a fixed order: around each product what its left side is computed from (as far as nobody else
    reads it) and the chain of single consumers of its result; around each norm and attention; then what is connected
    among the pointwise operations that are left. An operation is in at most one region, and no region waits for itself.
    Views at the edge of a region become strides and offsets where these can say it. What is refused is a remark.

    ```
    %t = hamkaas.permute %w axes [1, 0]        %1 = cudnn.execute @c0(%x, %w)
    %0 = hamkaas.matmul %x, %t            ->   cudnn.graph @c0(%x, %w: [1, 8, 4], strides [32, 1, 8]) {
    %1 = hamkaas.relu %0                         ... matmul, pointwise relu, yield }
    ```
    """

    name = "cudnn-outline"

    policy: PolicyName = "lab"
    """`lab`: the regions of the original project; `profitable`: those that were measured to gain; `all`: all that is
    supported."""

    max_nodes: int = 30
    """The most operations of a region."""

    tf32: bool = False
    """Whether products of f32 may be computed as tf32 (relative error 3e-4), which is all that cuDNN has."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        number = sum(isinstance(child, cudnn.GraphOp) for child in op.body.block.ops)
        for function in [child for child in op.body.block.ops if isinstance(child, func.FuncOp)]:
            where = f"{self.name}: @{function.sym_name.data}"
            regions = Regions(function.body.block, POLICIES[self.policy], self.max_nodes, self.tf32, where)
            clusters = list(regions.clusters)
            outliners = [Outliner(one, regions, f"c{number + place}") for place, one in enumerate(clusters)]
            outlined = [outliner.outline(function) for outliner in outliners]
            number += len(clusters)
            _drop_views(function.body.block)
            for graph, execute in outlined:
                fold_output_views(graph, execute)
            sort_topologically(function.body.block)


def _drop_views(block: Block) -> None:
    """Erases the views that became strides."""
    for op in reversed(list(block.ops)):
        if isinstance(op, hamkaas.VIEW_OPS) and op.result.first_use is None:
            Rewriter.erase_op(op)
