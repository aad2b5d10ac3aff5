"""Writes down which plan each cuDNN graph runs with."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.passes import ModulePass

from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn


@dataclass(frozen=True)
class CudnnAssignPlansPass(ModulePass):
    """Give each graph the name and the workspace of the plan that was chosen for it, so that memory can be planned.

    Only a device can choose (`hamkaas.tune.cudnn`); what it chose is an option here, so that a run can be repeated
    without.

    ```
    cudnn.graph @c0(...) {io = f32, ...}   ->   cudnn.graph @c0(...) {io = f32, ..., plan = "eng7_k24=21",
                                                                      workspace = 4194304 : i64}
    ```
    """

    name = "cudnn-assign-plans"

    plans: tuple[str, ...] = ()
    """A plan each: the fingerprint of its graph, its name and its workspace in bytes, with colons in between."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        chosen: dict[str, tuple[str, int]] = {}
        for plan in self.plans:
            fingerprint, name, workspace = plan.split(":")
            chosen[fingerprint] = (name, int(workspace))
        for graph in op.body.block.ops:
            if isinstance(graph, cudnn.GraphOp) and (plan := chosen.get(build_graph(graph).fingerprint)) is not None:
                name, workspace = plan
                graph.properties["plan"] = StringAttr(name)
                if workspace:
                    graph.properties["workspace"] = IntegerAttr(workspace, i64)
