"""Computes products of many rows in 16 bits."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, bf16, f16, f32
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type

Activations: TypeAlias = Literal["f32", "tf32", "f16", "bf16"]
"""What the left sides of products of many rows may be rounded to. tf32 is not a type of the IR: cuDNN rounds by itself,
if it is told that it may (`cudnn-outline{tf32=true}`)."""

ELEMENTS: dict[str, Attribute] = {"f16": f16, "bf16": bf16}


@dataclass(frozen=True)
class HamkaasConvertActivationsPass(ModulePass):
    """Round what meets weights or a cache of 16 bits to their type, where there is more than one row of it.

    A product then has both sides of one type, as tensor cores want it; a product of one row gains nothing. Sums are f32
    as before, and so is all else: what one adds, norms and turns is not rounded. Two equations, for an f32 `x` or `q`:

    1. matmul(x, widen(w)) = widen(matmul(narrow(x), w));
    2. attention(q, k, v, n) = widen(attention(narrow(q), k, v, n)).

    Here narrow casts to the type of `w` or `k`, and widen casts to f32. narrow(widen(x)) is x, also through views.

    ```
    %w = hamkaas.cast %0 : bf16 to f32      %n = hamkaas.cast %x : f32 to bf16
    %y = hamkaas.matmul %x, %w         ->   %p = hamkaas.matmul %n, %0
                                            %y = hamkaas.cast %p : bf16 to f32
    ```
    """

    name = "hamkaas-convert-activations"

    dtype: Activations = "bf16"
    """The element type; f32 and tf32 change nothing."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if (element := ELEMENTS.get(self.dtype)) is None:
            return
        for one in list(op.walk()):
            match one:
                case hamkaas.MatmulOp() if _has_rows(one.lhs, 2):
                    weight = _exactly(one.rhs, element)
                    if weight is not None and tensor_type(one.lhs).element_type == f32:
                        _replace(one, hamkaas.MatmulOp(_narrow(one, one.lhs, element), weight))
                case hamkaas.AttentionOp() if one.queries > 1:
                    if tensor_type(one.keys).element_type == element and tensor_type(one.query).element_type == f32:
                        query = _narrow(one, one.query, element)
                        scale = one.scale.value.data
                        _replace(one, hamkaas.AttentionOp(query, one.keys, one.values, one.length, scale))
                case _:
                    pass


def _has_rows(value: SSAValue, count: int) -> bool:
    """Whether a left side has so many rows, batches aside."""
    shape = tensor_type(value).get_shape()
    return len(shape) > 1 and shape[-2] >= count


def _exactly(value: SSAValue, element: Attribute) -> SSAValue | None:
    """The value before it was widened from this type, under the same views; None if it never was."""
    if isinstance(value.owner, hamkaas.CastOp):
        input = value.owner.input
        return input if tensor_type(input).element_type == element else None
    if not isinstance(value.owner, hamkaas.VIEW_OPS):
        return None
    inner = _exactly(value.owner.input, element)
    return None if inner is None else _view_of(value.owner, inner)


def _view_of(op: hamkaas.ReshapeOp | hamkaas.PermuteOp | hamkaas.SliceOp, value: SSAValue) -> SSAValue:
    """The same view of another value, built beside the old one."""
    match op:
        case hamkaas.ReshapeOp():
            view = hamkaas.ReshapeOp(value, tensor_type(op.result).get_shape())
        case hamkaas.PermuteOp():
            view = hamkaas.PermuteOp(value, op.permutation)
        case hamkaas.SliceOp():
            view = hamkaas.SliceOp(value, op.begin.value.data, op.end.value.data)
    Rewriter.insert_op(view, InsertPoint.after(op))
    view.result.name_hint = op.result.name_hint
    return view.result


def _narrow(reader: Operation, value: SSAValue, element: Attribute) -> SSAValue:
    """The value rounded to this type, in front of its reader."""
    if (exact := _exactly(value, element)) is not None:
        return exact
    cast = hamkaas.CastOp(value, element)
    Rewriter.insert_op(cast, InsertPoint.before(reader))
    cast.result.name_hint = value.name_hint
    return cast.result


def _replace(op: hamkaas.MatmulOp | hamkaas.AttentionOp, narrow: hamkaas.MatmulOp | hamkaas.AttentionOp) -> None:
    narrow.result.name_hint = op.result.name_hint
    Rewriter.replace_op(op, [narrow, hamkaas.CastOp(narrow.result, f32)])
