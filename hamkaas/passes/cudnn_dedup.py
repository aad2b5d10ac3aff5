"""Keeps one of several equal cuDNN graphs."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, SymbolRefAttr
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from hamkaas.artifact import CudnnGraph
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.remarks import remark


@dataclass(frozen=True)
class CudnnDedupPass(ModulePass):
    """Replace cuDNN graphs that differ in nothing but their names by the first of them, and number what is left.

    32 equal layers of a model leave the graphs of one: each is compiled once and executed 32 times. Equal are graphs
    whose specifications are: the same operations, dims, strides, types and connections; no name counts. A remark says
    how many are left.

    ```
    cudnn.graph @c0(%a) { relu }    cudnn.execute @c0(%x)         cudnn.graph @c0(%a) { relu }
    cudnn.graph @c7(%b) { relu }    cudnn.execute @c7(%y)   ->    execute @c0(%x)    execute @c0(%y)
    ```
    """

    name = "cudnn-dedup"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        first_of: dict[CudnnGraph, cudnn.GraphOp] = {}
        kept_as: dict[str, str] = {}
        graphs = [child for child in op.body.block.ops if isinstance(child, cudnn.GraphOp)]
        for graph in graphs:
            kept = first_of.setdefault(build_graph(graph), graph)
            kept_as[graph.sym_name.data] = f"c{list(first_of.values()).index(kept)}"
            if kept is not graph:
                assert kept.body.is_structurally_equivalent(graph.body), "equal specifications, other operations"
                Rewriter.erase_op(graph)
        renamed = {old: SymbolRefAttr(new) for old, new in kept_as.items()}
        for graph in first_of.values():
            graph.properties["sym_name"] = renamed[graph.sym_name.data].root_reference
        for user in op.walk():
            if isinstance(user, cudnn.ExecuteOp):
                user.properties["callee"] = renamed[user.callee.root_reference.data]
        remark(self.name, "cudnn.graph", f"{len(first_of)} of {len(graphs)} are distinct")
