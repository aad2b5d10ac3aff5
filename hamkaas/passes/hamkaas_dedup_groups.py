"""Keeps one of several equal groups."""

from collections.abc import Hashable
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, SymbolRefAttr
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from hamkaas.dialects import hamkaas


@dataclass(frozen=True)
class HamkaasDedupGroupsPass(ModulePass):
    """Replace groups that differ in nothing but their names by the first of them, and number what is left.

    32 equal layers of a model leave the groups of one: each is compiled once and executed 32 times. Equal means the
    same operations, properties, types and connections; the names of groups and values do not count.

    ```
    hamkaas.group @g0(%a) { relu }    hamkaas.execute @g0(%x)         hamkaas.group @g0(%a) { relu }
    hamkaas.group @g7(%b) { relu }    hamkaas.execute @g7(%y)   ->    execute @g0(%x)    execute @g0(%y)
    ```
    """

    name = "hamkaas-dedup-groups"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        first_of: dict[Hashable, hamkaas.GroupOp] = {}
        kept_as: dict[str, str] = {}
        for group in [child for child in op.body.block.ops if isinstance(child, hamkaas.GroupOp)]:
            name = group.sym_name.data
            kept = first_of.setdefault(fingerprint(group), group)
            if kept is group:
                kept_as[name] = f"g{len(first_of) - 1}"
                continue
            assert kept.body.is_structurally_equivalent(group.body)
            kept_as[name] = kept_as[kept.sym_name.data]
            Rewriter.erase_op(group)
        renamed = {old: SymbolRefAttr(new) for old, new in kept_as.items()}
        for group in first_of.values():
            group.properties["sym_name"] = renamed[group.sym_name.data].root_reference
        for user in op.walk():
            if isinstance(user, hamkaas.ExecuteOp) and (callee := user.callee.root_reference.data) in renamed:
                user.properties["callee"] = renamed[callee]


def fingerprint(group: hamkaas.GroupOp) -> Hashable:
    """A value that is equal for equal groups: operations with their operands by number, properties and types."""
    number: dict[SSAValue, int] = {}
    for arg in group.body.block.args:
        number[arg] = len(number)
    parts: list[Hashable] = [group.function_type]
    for op in group.body.block.ops:
        properties = tuple(sorted(op.properties.items(), key=lambda item: item[0]))
        types = tuple(result.type for result in op.results)
        parts.append((op.name, properties, tuple(number[operand] for operand in op.operands), types))
        for result in op.results:
            number[result] = len(number)
    return tuple(parts)
