"""Puts the operations of a function into groups that become one kernel each."""

from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr, f32
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.schedules.elements import forward_one
from hamkaas.schedules.index import Index, Var

REDUCTIONS = (
    hamkaas.MatmulOp,
    hamkaas.RmsNormOp,
    hamkaas.SlicedSoftmaxOp,
    hamkaas.ArgmaxOp,
    hamkaas.AttentionOp,
    hamkaas.SampleOp,
)
"""Operations that decide the loops of a kernel; a group holds one, or products that run through the same loops."""

TAKES_PRODUCERS = (hamkaas.RmsNormOp, hamkaas.SlicedSoftmaxOp, hamkaas.ArgmaxOp)
"""Reductions that read an element a few times only, so that computing it on the way in costs little."""

FREE = (hamkaas.ReshapeOp, hamkaas.PermuteOp, hamkaas.SliceOp, hamkaas.GatherOp, hamkaas.ConstantOp)
"""Operations that are only a way to compute an address: every group that reads one gets its own copy."""

POINTWISE = (
    hamkaas.AddOp,
    hamkaas.MulOp,
    hamkaas.ComplexMulOp,
    hamkaas.ReluOp,
    hamkaas.SiluOp,
    hamkaas.CastOp,
    hamkaas.DequantizeOp,
    hamkaas.RmsScaleOp,
)

INVERTIBLE = (hamkaas.ReshapeOp, hamkaas.PermuteOp)
"""Views through which the result of a reduction can be followed to where it is stored."""

MAX_VIEWS = 8
"""Of these, copied into one group: an address through reshapes of permutes of reshapes doubles in size with each."""


@dataclass(eq=False)
class Group:
    """The operations that are computed together; `root` gives the one result."""

    root: Operation
    members: set[Operation] = field(default_factory=set[Operation])
    reductions: list[Operation] = field(default_factory=list[Operation])
    size: int = 0
    """Members, and what is copied into the group."""
    views: int = 0
    """Reshapes and permutes among them."""


@dataclass(frozen=True)
class HamkaasOutlineGroupsPass(ModulePass):
    """Outline what is computed in one go: a reduction with its consumers, or a tree of pointwise operations.

    Operations are visited from the last to the first, so that all users of one are placed before it. An operation
    joins the group of its users if they all are in one group and the group stays computable in one loop nest:

    1. a pointwise operation joins a group without a reduction, or one whose reduction it feeds if that one reads its
       input only a few times, or the consumers of a reduction;
    2. a reduction joins a group of pointwise operations through which its result can be followed, element by element,
       to the place where it is stored;
    3. a product joins a group that has another one already, if both multiply the same left side by right sides of one
       type and their results meet element by element (the gate of a feed-forward layer);
    4. anything else is the root of a new group. So is what a function returns, what a state is set to, and the
       base of a `hamkaas.replace_slice`, which is updated in place.

    Views, gathers and constants are copied into each group that reads them, since they only change an address; so are
    casts and dequantizations of weights, since reading fewer bytes is worth more than to do them once. So is
    a `hamkaas.rms_norm` of one row that nothing but products read, if `copy-norms` is set: each computes its one scale
    for itself, which is cheaper than to wait for another kernel.

    ```
    %0 = hamkaas.matmul %x, %w                   %2 = hamkaas.execute @g0(%x, %w, %y)
    %1 = hamkaas.relu %0                  ->     hamkaas.group @g0(%x, %w, %y) {
    %2 = hamkaas.add %1, %y                        ... matmul, relu, add, yield }
    ```
    """

    name = "hamkaas-outline-groups"

    max_ops: int = 32
    """The most operations that a group holds: bounds the size of a kernel."""

    copy_norms: bool = False
    """Whether norms of one row are copied into the groups that read them: for targets where a kernel's start costs."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        number = sum(isinstance(child, hamkaas.GroupOp) for child in op.body.block.ops)
        functions = [child for child in op.body.block.ops if isinstance(child, func.FuncOp)]
        for function in functions:
            partition = Partition(function.body.block, self.max_ops, self.copy_norms)
            for group in partition.groups:
                _outline(group, partition, f"g{number}", functions[0])
                number += 1
            _drop_unused(function.body.block)


class Partition:
    """Which operation of a block belongs to which group."""

    def __init__(self, block: Block, max_ops: int, copy_norms: bool):
        self.max_ops = max_ops
        self.copy_norms = copy_norms
        self.order = {op: number for number, op in enumerate(block.ops)}
        self.group_of: dict[Operation, Group] = {}
        self.readers: dict[Operation, set[Group]] = {}
        """For an operation that is copied: the groups that get a copy."""
        roots: list[Group] = []
        for op in reversed(self.order):
            if isinstance(op, (*REDUCTIONS, *FREE, *POINTWISE, hamkaas.ReplaceSliceOp)):
                self._place(op, roots)
        self.groups = roots[::-1]
        """In the order of their roots."""

    def _place(self, op: Operation, roots: list[Group]) -> None:
        users = self._groups_that_read(op)
        is_copied = isinstance(op, FREE) or _converts_weight(op) or (self.copy_norms and _is_prologue(op))
        if is_copied and (copies := self._may_copy(op, users)) is not None:
            self.readers[op] = copies
            for group in copies:
                group.size += 1
                group.views += isinstance(op, INVERTIBLE)
            return
        group = next(iter(users)) if len(users) == 1 else None
        if group is None or not self._may_join(op, group):
            group = Group(op)
            roots.append(group)
        group.members.add(op)
        group.size += 1
        self.group_of[op] = group
        if isinstance(op, REDUCTIONS):
            group.reductions.append(op)

    def _groups_that_read(self, op: Operation) -> set[Group | None]:
        """The groups of an operation's users, through what is copied; None stands for a user that is in no group."""
        found: set[Group | None] = set()
        for use in op.results[0].uses:
            if (copied := self.readers.get(use.operation)) is not None:
                found |= copied
            elif isinstance(use.operation, hamkaas.ReplaceSliceOp) and use.index == 0:
                found.add(None)
            else:
                found.add(self.group_of.get(use.operation))
        return found

    def _may_copy(self, op: Operation, users: set[Group | None]) -> set[Group] | None:
        groups = {group for group in users if group is not None and group.size < self.max_ops}
        is_full = isinstance(op, INVERTIBLE) and any(group.views >= MAX_VIEWS for group in groups)
        return groups if len(groups) == len(users) and not is_full else None

    def _may_join(self, op: Operation, group: Group) -> bool:
        if group.size >= self.max_ops or isinstance(op, (hamkaas.ReplaceSliceOp, *FREE)):
            return False
        users = [use.operation for use in op.results[0].uses]
        if len(users) > 1 and any(user in self.readers for user in users):
            return False  # would be computed once for each view, and what feeds it twice as often again
        if isinstance(op, REDUCTIONS):
            if (path := self._path(op, group)) is None:
                return False
            return all(_are_twins(op, other) and path == self._path(other, group) for other in group.reductions)
        if all(isinstance(reduction, TAKES_PRODUCERS) for reduction in group.reductions):
            return True
        return not any(self._feeds(op, reduction) for reduction in group.reductions)

    def _feeds(self, op: Operation, reduction: Operation) -> bool:
        """Whether the reduction is computed from `op`, within its group."""
        todo, seen = [op], set[Operation]()
        while todo:
            current = todo.pop()
            if current is reduction:
                return True
            if current not in seen and self.order[current] < self.order[reduction]:
                seen.add(current)
                todo.extend(use.operation for use in current.results[0].uses)
        return False

    def _path(self, op: Operation, group: Group) -> tuple[Operation, ...] | None:
        """The views between a reduction and the root, if each element of its result makes one of the group's result.

        So it is if all paths to the root pass through pointwise operations that keep the shape (never as the operand
        that broadcasts), through the same reshapes and permutes, and nothing else. A complex product takes two
        elements: it may be on the path if these are neighbours in a row of the reduction, which its schedule gives
        together.
        """
        views: dict[Operation, tuple[Operation, ...]] = {op: ()}
        todo = [op]
        while todo:
            current = min(todo, key=self.order.__getitem__)
            todo.remove(current)
            if current is group.root:
                continue
            for use in current.results[0].uses:
                user = use.operation
                if not _keeps_elements(user, use.index):
                    return None
                if isinstance(user, hamkaas.ComplexMulOp) and not _keeps_pairs(op, views[current]):
                    return None
                path = (*views[current], user) if isinstance(user, INVERTIBLE) else views[current]
                if views.setdefault(user, path) != path:
                    return None
                if user not in todo:
                    todo.append(user)
        return views[group.root]


def _keeps_pairs(reduction: Operation, views: tuple[Operation, ...]) -> bool:
    """Whether elements 2q and 2q + 1 of a reduction's rows are a pair of the last axis behind these views."""
    value = reduction.results[0]
    *rows, columns = tensor_type(value).get_shape()
    if columns % 2:
        return False
    part = Var(value, 2)  # any value will do: no operation is built from these indices
    index = (*(Index.of(Var(value, size)) for size in rows), Index.of(Var(value, columns // 2)) * 2 + Index.of(part))
    for view in views:
        index = forward_one(view, index)
    return index[-1] == Index.of(part) and not any(i.mentions(part) for i in index[:-1])


def _is_prologue(op: Operation) -> bool:
    """Whether it is a norm of one row of f32 that only products read, as their left side.

    They leave its scale to the end of their sums, where a narrower result could not be rounded.
    """
    if not isinstance(op, hamkaas.RmsNormOp) or len((type := tensor_type(op.result)).get_shape()) > 1:
        return False
    if type.element_type != f32:
        return False
    uses = list(op.result.uses)
    return bool(uses) and all(isinstance(use.operation, hamkaas.MatmulOp) and use.index == 0 for use in uses)


def _are_twins(op: Operation, other: Operation) -> bool:
    """Whether two products run through the same loops."""
    if not isinstance(op, hamkaas.MatmulOp) or not isinstance(other, hamkaas.MatmulOp):
        return False
    return op.lhs is other.lhs and op.rhs.type == other.rhs.type


def _converts_weight(op: Operation) -> bool:
    """Whether the operation gives a weight of few bits as numbers: cheaper to do again than to read more bytes."""
    return isinstance(op, hamkaas.CastOp | hamkaas.DequantizeOp) and all(
        isinstance(operand.owner, hamkaas.GetOp) for operand in op.operands
    )


def _keeps_elements(user: Operation, operand: int) -> bool:
    """Whether each element of this operand makes one element of the user's result."""
    match user:
        case hamkaas.ReplaceSliceOp():
            return operand == 1
        case hamkaas.BinaryOp():
            return operand == 0 or tensor_type(user.rhs) == tensor_type(user.lhs)
        case hamkaas.DequantizeOp():
            return False
        case hamkaas.RmsScaleOp():
            return operand == 0
        case _:
            return isinstance(user, (*INVERTIBLE, *POINTWISE))


def _outline(group: Group, partition: Partition, name: str, first: func.FuncOp) -> None:
    """Copies a group's operations into a `hamkaas.group` in front of the first function.

    A `hamkaas.execute` comes in the place of the root.
    """
    inputs, ops = _collect(group, partition)
    root = group.root.results[0]
    # what is updated in place is an argument of its own: whoever reads it beside must be seen to do so
    base = group.root.operands[0] if isinstance(group.root, hamkaas.ReplaceSliceOp) else None
    inputs = [*inputs, base] if base is not None else inputs
    outlined = hamkaas.GroupOp(name, FunctionType.from_lists([value.type for value in inputs], [root.type]))
    outlined.attributes["label"] = StringAttr(
        " ".join(op.name.partition(".")[2] for op in ops if not isinstance(op, FREE))
    )
    block = outlined.body.block
    mapping: dict[SSAValue, SSAValue] = {}
    for value, arg in reversed(list(zip(inputs, block.args, strict=True))):
        mapping[value] = arg
        arg.name_hint = value.name_hint
    for op in ops:
        if op is group.root and base is not None:
            mapping[base] = block.args[-1]
        block.add_op(op.clone(mapping))
    block.add_op(hamkaas.YieldOp(mapping[root]))
    Rewriter.insert_op(outlined, InsertPoint.before(first))
    Rewriter.replace_op(group.root, hamkaas.ExecuteOp(name, inputs, [root.type]))


def _collect(group: Group, partition: Partition) -> tuple[list[SSAValue], list[Operation]]:
    """What a group reads from outside, and its operations in an order in which they can be computed."""
    inputs: dict[SSAValue, None] = {}
    ops: dict[Operation, None] = {}
    todo: list[Operation] = [group.root]
    while todo:
        op = todo[-1]
        inside = [
            value.owner
            for value in op.operands
            if isinstance(value.owner, Operation) and (value.owner in group.members or value.owner in partition.readers)
        ]
        if waiting := [owner for owner in inside if owner not in ops]:
            todo.extend(reversed(waiting))
            continue
        todo.pop()
        if op not in ops:
            ops[op] = None
            own = op.operands[1:] if op is group.root and isinstance(op, hamkaas.ReplaceSliceOp) else op.operands
            inputs.update((value, None) for value in own if value.owner not in inside)
    return list(inputs), list(ops)


def _drop_unused(block: Block) -> None:
    """Erases what has been copied into the groups."""
    for op in reversed(list(block.ops)):
        if isinstance(op, (*FREE, *POINTWISE, *REDUCTIONS, hamkaas.GetOp)) and op.results[0].first_use is None:
            Rewriter.erase_op(op)
