"""Writes down how the products of a group are shared out."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass

from hamkaas.dialects import hamkaas
from hamkaas.schedules.vector_shape import VectorShape


@dataclass(frozen=True)
class HamkaasAssignShapesPass(ModulePass):
    """Give groups the shape that was chosen for their products of one row; others go by the schedule's rule.

    Only a device can choose (`hamkaas.tune.shapes`); what it chose is an option here, so that a run can be repeated
    without. Raises `CompileError` for a text that is not a shape.

    ```
    hamkaas.group @g0(...) -> ...   ->   hamkaas.group @g0(...) -> ... attributes {vector_shape = "128:128:2:64"}
    ```
    """

    name = "hamkaas-assign-shapes"

    shapes: tuple[str, ...] = ()
    """A choice each: the name of a group and a `VectorShape`, with a colon in between."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        chosen: dict[str, VectorShape] = {}
        for choice in self.shapes:
            name, _, shape = choice.partition(":")
            chosen[name] = VectorShape.parse(shape)
        for group in op.body.block.ops:
            if isinstance(group, hamkaas.GroupOp) and (shape := chosen.get(group.sym_name.data)) is not None:
                group.attributes["vector_shape"] = StringAttr(str(shape))
