"""Puts what cuDNN takes into graphs of its own."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn, hamkaas
from hamkaas.partition.clusters import sort_topologically
from hamkaas.partition.grow import Regions
from hamkaas.partition.outline import Outliner, fold_output_views
from hamkaas.partition.policy import POLICIES, PolicyName
from hamkaas.remarks import collect


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

    refused: tuple[str, ...] = ()
    """Fingerprints of graphs that are not to be made: a device has no plan for them, or our own kernels are faster."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        dropped: set[int] = set()
        if self.refused:
            with collect():  # what the trial remarks, the run proper remarks too
                trial = self._outline(op.clone())
            dropped = {number for number, graph in enumerate(trial) if build_graph(graph).fingerprint in self.refused}
        self._outline(op, dropped)

    def _outline(self, module: ModuleOp, dropped: AbstractSet[int] = frozenset()) -> list[cudnn.GraphOp]:
        """Outlines all regions but those of these numbers; gives the graphs in the order of the regions."""
        graphs: list[cudnn.GraphOp] = []
        named = sum(isinstance(child, cudnn.GraphOp) for child in module.body.block.ops)
        numbers = count()
        for function in [child for child in module.body.block.ops if isinstance(child, func.FuncOp)]:
            where = f"{self.name}: @{function.sym_name.data}"
            regions = Regions(function.body.block, POLICIES[self.policy], self.max_nodes, self.tf32, where)
            outliners: list[Outliner] = []
            for cluster in regions.clusters:
                if (number := next(numbers)) in dropped:
                    regions.remark(cluster.seed, f"its {cluster.kind} goes to our own kernels: the graph was refused")
                else:
                    outliners.append(Outliner(cluster, regions, f"c{named + number}"))
            outlined = [outliner.outline(function) for outliner in outliners]
            _drop_views(function.body.block)
            for graph, execute in outlined:
                fold_output_views(graph, execute)
            sort_topologically(function.body.block)
            graphs += [graph for graph, _ in outlined]
        return graphs


def _drop_views(block: Block) -> None:
    """Erases the views that became strides, and the casts that became types."""
    for op in reversed(list(block.ops)):
        if isinstance(op, (*hamkaas.VIEW_OPS, hamkaas.CastOp)) and op.result.first_use is None:
            Rewriter.erase_op(op)
