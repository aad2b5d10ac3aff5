"""What cuDNN can take, and which of it a policy wants."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from xdsl.dialects.builtin import Float32Type
from xdsl.ir import Operation, SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.cudnn import item_size
from hamkaas.dialects.cudnn_nodes import Pointwise
from hamkaas.dialects.cudnn_types import FLOAT_TYPES
from hamkaas.dialects.hamkaas import AnyTensor, tensor_type

PolicyName = Literal["lab", "profitable", "all"]

KINDS: dict[type[Operation], Pointwise] = {
    hamkaas.AddOp: Pointwise.ADD,
    hamkaas.MulOp: Pointwise.MUL,
    hamkaas.ReluOp: Pointwise.RELU,
    hamkaas.SiluOp: Pointwise.SILU,
    hamkaas.CastOp: Pointwise.CAST,
}
"""Pointwise operations that cuDNN has."""

HEADS_MULTIPLE = 8
"""Elements of a head must be a multiple of it, for attention."""

NORM_ROW_BYTES = 128
"""Rows of a norm that has neighbours must be a multiple of it: no engine was offered for any other."""


@dataclass(frozen=True)
class Policy:
    """Which regions are wanted. The numbers behind the choices were measured on an H100 with cuDNN 9.19."""

    prologue: bool
    """Pointwise producers of a product's left side: slower than a kernel in front, by a fifth to a third."""
    broadcast: bool
    """Operands that broadcast."""
    lone_add: bool
    """Nothing but additions behind a product: slower than cuBLAS's own, by a tenth."""
    norms: bool
    """rms_norm with its neighbours: the sum in front of it, which is kept, and what follows."""
    sums: bool
    """The row sums of squares that a norm behind a product needs, as an output of the product."""
    attention: bool
    """Attention of one query."""
    f32_attention: bool
    """Attention in f32: a third of the speed of others."""
    anchored: bool
    """Whether a function must have a product or an attention that goes to cuDNN before anything else does. A norm alone
    is not worth the start of cuDNN, and pointwise operations without either fuse better with kernels of ours."""
    min_rows: int
    """The fewest rows of a product or a norm."""
    min_pointwise: int
    """The fewest operations of a region without a product or a norm; casts do not count."""
    max_nodes: int
    max_silus: int
    """An epilogue is unrolled: 16 sigmoids take 14 s to compile, 60 take 286 s."""
    max_inputs: int
    """What a region may read: 32 inputs take 9 s to compile."""


MANY = 1 << 30

POLICIES: dict[PolicyName, Policy] = {
    "lab": Policy(
        prologue=True, broadcast=False, lone_add=True, norms=False, sums=False, attention=False, f32_attention=False,
        anchored=False, min_rows=1, min_pointwise=1, max_nodes=MANY, max_silus=MANY, max_inputs=MANY,
    ),
    "profitable": Policy(
        prologue=False, broadcast=True, lone_add=False, norms=True, sums=False, attention=True, f32_attention=False,
        anchored=True, min_rows=2, min_pointwise=MANY, max_nodes=8, max_silus=4, max_inputs=8,
    ),
    "all": Policy(
        prologue=True, broadcast=True, lone_add=True, norms=True, sums=True, attention=True, f32_attention=True,
        anchored=False, min_rows=1, min_pointwise=1, max_nodes=MANY, max_silus=MANY, max_inputs=MANY,
    ),
}  # fmt: skip


def norm_stands_alone(op: hamkaas.RmsNormOp) -> bool:
    """Whether cuDNN takes a norm only without anything in front of it or behind."""
    type = tensor_type(op.input)
    return type.get_shape()[-1] * item_size(type.element_type) % NORM_ROW_BYTES != 0


def is_f32(type: AnyTensor) -> bool:
    """Whether the elements are f32."""
    return isinstance(type.element_type, Float32Type)


def refusal(op: Operation, policy: Policy, tf32: bool) -> str | None:
    """Why an operation cannot be in any region; None if it can."""
    match op:
        case hamkaas.MatmulOp():
            return _refuse_product(op, tf32) or _refuse_rows(op.lhs, policy)
        case hamkaas.RmsNormOp():
            if tensor_type(op.input).get_shape()[-1] == 1:
                return "cuDNN norms no rows of one element"
            if not policy.norms:
                return "the policy leaves norms to our kernels"
            return _refuse_rows(op.input, policy)
        case hamkaas.AttentionOp():
            return _refuse_attention(op, policy, tf32)
        case hamkaas.AddOp() | hamkaas.MulOp():
            broadcasts = tensor_type(op.lhs) != tensor_type(op.rhs)
            return "the policy takes no operand that broadcasts" if broadcasts and not policy.broadcast else None
        case hamkaas.CastOp() if not isinstance(element := tensor_type(op.input).element_type, FLOAT_TYPES):
            return f"expected elements of f32, f16 or bf16, got {element}"
        case _:
            return None if type(op) in KINDS else "cuDNN has no such operation"


def _refuse_rows(value: SSAValue, policy: Policy) -> str | None:
    if (rows := prod(tensor_type(value).get_shape()[:-1])) < policy.min_rows:
        return f"expected at least {policy.min_rows} rows, got {rows}: our kernels fuse more and read as fast"
    return None


def _refuse_product(op: hamkaas.MatmulOp, tf32: bool) -> str | None:
    lhs, rhs = tensor_type(op.lhs), tensor_type(op.rhs)
    if lhs.element_type != rhs.element_type:
        return f"expected both sides of one element type, got {lhs.element_type} and {rhs.element_type}"
    if is_f32(lhs) and not tf32:
        return "cuDNN computes products of f32 as tf32, which was not asked for (tf32=true)"
    return None


def _refuse_attention(op: hamkaas.AttentionOp, policy: Policy, tf32: bool) -> str | None:
    query = tensor_type(op.query)
    if not policy.attention:
        return "the policy leaves attention to our kernels"
    if len({tensor_type(value).element_type for value in (op.query, op.keys)}) > 1:
        return "expected query, keys and values of one element type"
    if query.get_shape()[-1] % HEADS_MULTIPLE:
        return f"expected heads of a multiple of {HEADS_MULTIPLE} elements, got {query.get_shape()[-1]}"
    if op.queries > 1 and not op.is_causal:
        return "expected one query or causal ones: a length for each of several is no mask that cuDNN has"
    if is_f32(query) and not (policy.f32_attention and tf32):
        return "cuDNN's attention in f32 is three times slower than ours"
    return None
