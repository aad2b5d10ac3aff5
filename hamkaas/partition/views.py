"""Views as strides: where the elements of a reshaped, permuted or sliced value lie in the memory of another one.

A cast that widens is a view of a kind too, for whoever reads numbers of any type: it changes none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from hamkaas.dialects.cudnn import item_size
from hamkaas.dialects.cudnn_types import FLOAT_TYPES
from hamkaas.dialects.hamkaas import VIEW_OPS, CastOp, PermuteOp, SliceOp, tensor_type


@dataclass(frozen=True)
class View:
    """The memory of `base`, which is dense, seen from `offset` on with a shape and strides (all in elements)."""

    base: SSAValue
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a row-major tensor."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def views_of(value: SSAValue, through_casts: bool) -> Iterator[tuple[View | None, Operation | None]]:
    """The value seen in its own memory, then in that of what it is a view of, step by step.

    With each comes the view operation that it makes superfluous (None for the first); where no strides say it, the
    view is None. A view through a cast has another element type than the value.
    """
    path: list[Operation] = []
    while True:
        yield _view(value, path), path[0] if path else None
        owner = value.owner
        if not isinstance(owner, VIEW_OPS) and not (through_casts and isinstance(owner, CastOp) and widens(owner)):
            return
        path.insert(0, owner)
        value = owner.operands[0]


def widens(op: Operation) -> bool:
    """Whether an operation is a cast from a float type to a bigger one."""
    if not isinstance(op, CastOp):
        return False
    before, after = tensor_type(op.input).element_type, tensor_type(op.result).element_type
    return isinstance(before, FLOAT_TYPES) and item_size(after) > item_size(before)


def _view(base: SSAValue, path: Sequence[Operation]) -> View | None:
    """The memory of `base` as the last of these view operations sees it."""
    offset, shape = 0, tensor_type(base).get_shape()
    strides: tuple[int, ...] | None = dense_strides(shape)
    for op in path:
        new = tensor_type(op.results[0]).get_shape()
        if isinstance(op, SliceOp):
            offset += op.begin.value.data * strides[0]
        elif isinstance(op, PermuteOp):
            strides = tuple(strides[axis] for axis in op.permutation)
        elif not isinstance(op, CastOp):
            strides = reshape_strides(shape, strides, new)
        if strides is None:
            return None
        shape = new
    return View(base, offset, shape, strides)


def reshape_strides(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """The strides that show the elements, taken in row-major order, under another shape; None if there are none."""
    runs: list[tuple[int, int]] = []  # (elements, step): axes that follow each other evenly, as one
    for n, step in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * step:
            runs[-1] = (runs[-1][0] * n, step)
        else:
            runs.append((n, step))
    result: list[int] = []
    left, step = 1, 1
    for n in reversed(new):
        if left == 1 and n > 1:
            left, step = runs.pop()
        if left % n:
            return None
        result.append(step)
        left //= n
        step *= n
    return tuple(reversed(result))


def strides_before(op: PermuteOp, strides: Sequence[int]) -> tuple[int, ...]:
    """For the strides of a permuted tensor: those of its input in the same memory."""
    step_of = dict(zip(op.permutation, strides, strict=True))
    return tuple(step_of[axis] for axis in range(len(strides)))
