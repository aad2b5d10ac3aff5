"""Makes one kernel of groups that do not wait for each other."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.passes.hamkaas_outline_groups import REDUCTIONS

MOST_PARTS = 8
"""Groups without a reduction that become one, at most: bounds the size of a kernel."""


@dataclass(frozen=True)
class HamkaasMergeGroupsPass(ModulePass):
    """Merge groups that could run at the same time into one with a result for each.

    A small product does not fill a machine, and each kernel costs a start. The groups stay as they are side by side in
    the merged one, whose kernel gives each its own blocks. Executions are merged, at the place of the last, if

    1. each group multiplies one row, by a computation of the same row from the same values: the query, key and value of
       a layer; or none has a reduction: what is done to those of many rows before they meet;
    2. nothing between the first and the last reads a result of an earlier one, nor do they read each other's;
    3. none reads what another one updates.

    ```
    %q = hamkaas.execute @g0(%x, %wq)
    %k = hamkaas.execute @g1(%x, %wk)    ->    %q, %k = hamkaas.execute @g0(%x, %wq, %wk)
    ```
    """

    name = "hamkaas-merge-groups"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        groups = {child.sym_name.data: child for child in op.body.block.ops if isinstance(child, hamkaas.GroupOp)}
        for function in [child for child in op.body.block.ops if isinstance(child, func.FuncOp)]:
            for find in (_products_of_one_vector, _pointwise_side_by_side):
                for executes in find(function.body.block, groups):
                    _merge(executes, groups)
        used = {user.callee.root_reference.data for user in op.walk() if isinstance(user, hamkaas.ExecuteOp)}
        for name, group in groups.items():
            if name not in used:
                Rewriter.erase_op(group)


def _pointwise_side_by_side(block: Block, groups: dict[str, hamkaas.GroupOp]) -> list[list[hamkaas.ExecuteOp]]:
    """Runs of executions without a reduction, each as long as nobody reads a result of it."""
    found: list[list[hamkaas.ExecuteOp]] = []
    run: list[hamkaas.ExecuteOp] = []
    for op in block.ops:
        mine = op if isinstance(op, hamkaas.ExecuteOp) and _is_pointwise(op, groups) else None
        reads = any(operand.owner in run for operand in op.operands)
        if reads or (mine is not None and (len(run) == MOST_PARTS or _update_what_others_read([*run, mine], groups))):
            found.append(run)
            run = []
        if mine is not None:
            run.append(mine)
    return [run for run in [*found, run] if len(run) > 1]


def _is_pointwise(op: hamkaas.ExecuteOp, groups: dict[str, hamkaas.GroupOp]) -> bool:
    """Whether a group has one result, no reduction, and arguments that stay apart."""
    group = groups.get(op.callee.root_reference.data)
    if group is None or len(group.yielded.values) > 1 or len(set(op.inputs)) < len(op.inputs):
        return False
    return not any(isinstance(inner, REDUCTIONS) for inner in group.body.block.ops)


def _products_of_one_vector(block: Block, groups: dict[str, hamkaas.GroupOp]) -> list[list[hamkaas.ExecuteOp]]:
    """Executions of products that may be merged, in order."""
    order = {op: number for number, op in enumerate(block.ops)}
    by_vector: dict[Hashable, list[hamkaas.ExecuteOp]] = {}
    for op in block.ops:
        group = groups.get(op.callee.root_reference.data) if isinstance(op, hamkaas.ExecuteOp) else None
        if isinstance(op, hamkaas.ExecuteOp) and group is not None and (key := _vector(op, group)) is not None:
            by_vector.setdefault(key, []).append(op)
    found: list[list[hamkaas.ExecuteOp]] = []
    for executes in by_vector.values():
        last = order[executes[-1]]
        kept = [op for op in executes if all(order[use.operation] > last for r in op.results for use in r.uses)]
        if len(kept) > 1 and not _update_what_others_read(kept, groups):
            found.append(kept)
    return found


def _vector(execute: hamkaas.ExecuteOp, group: hamkaas.GroupOp) -> Hashable | None:
    """What tells how the one row that a group multiplies is computed; None for other groups."""
    products = [op for op in group.body.block.ops if isinstance(op, hamkaas.MatmulOp)]
    if not products or len(group.yielded.values) > 1 or len(tensor_type(products[0].lhs).get_shape()) > 1:
        return None
    if len(set(execute.inputs)) < len(execute.inputs):
        return None  # reads what it updates: the two arguments must stay two

    def key(value: SSAValue) -> Hashable:
        if isinstance(value, BlockArgument):
            return execute.inputs[value.index]
        op = value.owner
        assert isinstance(op, Operation)
        properties = tuple(sorted(op.properties.items(), key=lambda item: item[0]))
        return op.name, properties, tuple(map(key, op.operands)), value.type

    return key(products[0].lhs)


def _update_what_others_read(executes: Sequence[hamkaas.ExecuteOp], groups: dict[str, hamkaas.GroupOp]) -> bool:
    for op in executes:
        for value in groups[op.callee.root_reference.data].yielded.values:
            if not isinstance(value.owner, hamkaas.ReplaceSliceOp):
                continue
            base = value.owner.base
            assert isinstance(base, BlockArgument)
            updated = op.inputs[base.index]
            if any(updated in other.inputs for other in executes if other is not op):
                return True
    return False


def _merge(executes: Sequence[hamkaas.ExecuteOp], groups: dict[str, hamkaas.GroupOp]) -> None:
    """Replaces executions and their groups by one of a group that does what all do."""
    parts = [groups[op.callee.root_reference.data] for op in executes]
    inputs = list(dict.fromkeys(value for op in executes for value in op.inputs))
    results = [result for op in executes for result in op.results]
    name = _unused(parts[0].sym_name.data, groups)
    merged = hamkaas.GroupOp(name, FunctionType.from_lists([v.type for v in inputs], [r.type for r in results]))
    labels = [label.data for part in parts if isinstance(label := part.attributes.get("label"), StringAttr)]
    labels = [label for label in labels if label]  # a group of views alone has none
    merged.attributes["label"] = StringAttr(" | ".join(labels))
    block = merged.body.block
    yielded: list[SSAValue] = []
    for op, part in zip(executes, parts, strict=True):
        mapping: dict[SSAValue, SSAValue] = {}
        for value, arg in zip(op.inputs, part.body.block.args, strict=True):
            mapping[arg] = block.args[inputs.index(value)]
            mapping[arg].name_hint = mapping[arg].name_hint or arg.name_hint
        for inner in part.body.block.ops:
            if isinstance(inner, hamkaas.YieldOp):
                yielded.extend(mapping[value] for value in inner.values)
            else:
                block.add_op(inner.clone(mapping))
    block.add_op(hamkaas.YieldOp(*yielded))
    Rewriter.insert_op(merged, InsertPoint.before(parts[0]))
    groups[name] = merged
    execute = hamkaas.ExecuteOp(name, inputs, [result.type for result in results])
    Rewriter.insert_op(execute, InsertPoint.after(executes[-1]))
    for old, new in zip(results, execute.results, strict=True):
        new.name_hint = old.name_hint
        old.replace_all_uses_with(new)
    for op in executes:
        Rewriter.erase_op(op)


def _unused(name: str, groups: dict[str, hamkaas.GroupOp]) -> str:
    return next(one for number in range(len(groups) + 1) if (one := f"{name}_{number}") not in groups)
