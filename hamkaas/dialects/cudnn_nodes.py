"""The operations inside a `cudnn.graph`."""

from abc import ABC
from collections.abc import Sequence
from enum import auto

from xdsl.dialects.builtin import (
    Float64Type,
    FloatAttr,
    f32,
    f64,
    i32,
)
from xdsl.dialects.utils import EnumAttribute
from xdsl.ir import (
    SpacedOpaqueSyntaxAttribute,
    SSAValue,
)
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import IsTerminator, Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from hamkaas.dialects.cudnn_types import GraphTensorType, graph_type


class Pointwise(StrEnum):
    """What `cudnn.pointwise` computes."""

    ADD = auto()
    MUL = auto()
    RELU = auto()
    SILU = auto()
    CAST = auto()


BINARY = (Pointwise.ADD, Pointwise.MUL)


@irdl_attr_definition
class PointwiseAttr(EnumAttribute[Pointwise], SpacedOpaqueSyntaxAttribute):
    """The kind of a pointwise operation."""

    name = "cudnn.pointwise_kind"


class Reduction(StrEnum):
    """What `cudnn.reduction` computes."""

    SUM_OF_SQUARES = auto()


@irdl_attr_definition
class ReductionAttr(EnumAttribute[Reduction], SpacedOpaqueSyntaxAttribute):
    """The kind of a reduction."""

    name = "cudnn.reduction_kind"


class NodeOp(IRDLOperation, ABC):
    """An operation inside a `cudnn.graph`."""

    result = result_def(GraphTensorType)
    traits = traits_def(Pure())

    def expect_dims(self, expected: Sequence[int]) -> None:
        """Raises `VerifyException` if the result has other dims."""
        if (dims := graph_type(self.result).dims) != tuple(expected):
            raise VerifyException(f"expected a result with dims {list(expected)}, got {list(dims)}")


@irdl_op_definition
class MatmulOp(NodeOp):
    """Product of `[b, m, k]` and `[b, k, n]`; a batch of 1 on either side serves all of the other.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>,
                    %w: !cudnn.tensor<[1, 8, 16], strides [128, 1, 8], bf16>)
        -> !cudnn.tensor<[1, 4, 16], strides [64, 16, 1], bf16>
        attributes {io = bf16, compute = f32} {
      %y = cudnn.matmul %x, %w
        : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>, !cudnn.tensor<[1, 8, 16], strides [128, 1, 8], bf16>)
        -> !cudnn.tensor<[1, 4, 16], strides [64, 16, 1], bf16>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 16], strides [64, 16, 1], bf16>
    }
    ```
    """

    name = "cudnn.matmul"
    lhs = operand_def(GraphTensorType)
    rhs = operand_def(GraphTensorType)
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue, result_type: GraphTensorType):
        super().__init__(operands=[lhs, rhs], result_types=[result_type])

    def verify_(self) -> None:
        lhs, rhs = graph_type(self.lhs), graph_type(self.rhs)
        if lhs.element_type != rhs.element_type:
            raise VerifyException(f"expected lhs and rhs to have one element type, got {lhs} and {rhs}")
        if lhs.dims[2] != rhs.dims[1]:
            raise VerifyException(f"expected lhs and rhs to agree on the inner axis, got {lhs} and {rhs}")
        if len({lhs.dims[0], rhs.dims[0]} - {1}) > 1:
            raise VerifyException(f"expected batches that agree or are 1, got {lhs} and {rhs}")
        for what, type in (("lhs", lhs), ("rhs", rhs)):
            if not type.is_matrix:
                raise VerifyException(f"expected {what} to have an inner stride of 1, got {type}")
        self.expect_dims([max(lhs.dims[0], rhs.dims[0]), lhs.dims[1], rhs.dims[2]])


@irdl_op_definition
class PointwiseOp(NodeOp):
    """`add`, `mul`, `relu` (max(0, x)), `silu` (x / (1 + exp(-x))) or `cast` (x) of each element.

    Axes of size 1 broadcast. Every result is rounded to the element type of its own type.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>,
                    %bias: !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
        attributes {io = f32, compute = f32} {
      %y = cudnn.pointwise add %x, %bias
        : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>, !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
    }
    ```
    """

    name = "cudnn.pointwise"
    kind = prop_def(PointwiseAttr)
    inputs = var_operand_def(GraphTensorType)
    assembly_format = "$kind $inputs attr-dict `:` functional-type(operands, results)"

    def __init__(self, kind: Pointwise, inputs: Sequence[SSAValue], result_type: GraphTensorType):
        super().__init__(operands=[inputs], result_types=[result_type], properties={"kind": PointwiseAttr(kind)})

    def verify_(self) -> None:
        count = 2 if self.kind.data in BINARY else 1
        if len(self.inputs) != count:
            raise VerifyException(f"expected {count} operands of {self.kind.data}, got {len(self.inputs)}")
        shapes = [graph_type(value).dims for value in self.inputs]
        full = tuple(map(max, *shapes)) if count == 2 else shapes[0]
        if full not in shapes or any(n not in (1, m) for dims in shapes for n, m in zip(dims, full, strict=True)):
            got = " and ".join(str(list(dims)) for dims in shapes)
            raise VerifyException(f"expected one operand to broadcast to the dims of the other, got {got}")
        self.expect_dims(full)


@irdl_op_definition
class RmsNormOp(NodeOp):
    """x * weight / sqrt(mean(x^2) + eps) over the columns; the weight is `[1, 1, n]` (arXiv:1910.07467).

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>,
                    %w: !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], bf16>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
        attributes {io = bf16, compute = f32} {
      %y = cudnn.rmsnorm %x, %w eps 1.000000e-05
        : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>, !cudnn.tensor<[1, 1, 8], strides [8, 8, 1], bf16>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], bf16>
    }
    ```
    """

    name = "cudnn.rmsnorm"
    input = operand_def(GraphTensorType)
    weight = operand_def(GraphTensorType)
    eps = prop_def(FloatAttr[Float64Type])
    assembly_format = "$input `,` $weight `eps` $eps attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, weight: SSAValue, eps: float, result_type: GraphTensorType):
        properties = {"eps": FloatAttr(eps, f64)}
        super().__init__(operands=[input, weight], result_types=[result_type], properties=properties)

    def verify_(self) -> None:
        dims = graph_type(self.input).dims
        if (weight := graph_type(self.weight)).dims != (1, 1, dims[2]):
            raise VerifyException(f"expected a weight with dims {[1, 1, dims[2]]}, got {weight}")
        self.expect_dims(dims)


@irdl_op_definition
class ReductionOp(NodeOp):
    """The sum of squares of each row, `[b, m, n]` to `[b, m, 1]`, in f32. It is an output, and nothing else reads it.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>
        attributes {io = f32, compute = f32} {
      %y = cudnn.reduction sum_of_squares %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 1], strides [4, 1, 4], f32>
    }
    ```
    """

    name = "cudnn.reduction"
    kind = prop_def(ReductionAttr)
    input = operand_def(GraphTensorType)
    assembly_format = "$kind $input attr-dict `:` functional-type(operands, results)"

    def __init__(self, kind: Reduction, input: SSAValue):
        dims = graph_type(input).dims
        result = GraphTensorType.of([*dims[:2], 1], None, f32)
        super().__init__(operands=[input], result_types=[result], properties={"kind": ReductionAttr(kind)})

    def verify_(self) -> None:
        self.expect_dims([*graph_type(self.input).dims[:2], 1])
        if (element := graph_type(self.result).element_type) != f32:
            raise VerifyException(f"expected a sum in f32, got {element}")
        if any(not isinstance(use.operation, YieldOp) for use in self.result.uses):
            raise VerifyException("expected a reduction to be an output only, got another use inside the graph")


@irdl_op_definition
class SdpaOp(NodeOp):
    """Attention of the queries `[heads, m, d]` over the first `length` of `[kv_heads, positions, d]`.

    Axes are [head, position, element] (arXiv:1706.03762). Query head h reads the keys and values of head
    h / (heads / kv_heads). The length is one number, on the device. Several queries are causal: the last one sees
    `length` positions, each one before it a position less; `rows`, on the device too, is their number m.

    ```mlir
    cudnn.graph @g0(%q: !cudnn.tensor<[8, 1, 64], strides [64, 64, 1], bf16>,
                    %k: !cudnn.tensor<[2, 512, 64], strides [64, 128, 1], bf16>,
                    %v: !cudnn.tensor<[2, 512, 64], strides [64, 128, 1], bf16>,
                    %n: !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>)
        -> !cudnn.tensor<[8, 1, 64], strides [64, 64, 1], bf16>
        attributes {io = bf16, compute = f32} {
      %y = cudnn.sdpa %q, %k, %v length %n scale 1.250000e-01
        : (!cudnn.tensor<[8, 1, 64], strides [64, 64, 1], bf16>,
           !cudnn.tensor<[2, 512, 64], strides [64, 128, 1], bf16>,
           !cudnn.tensor<[2, 512, 64], strides [64, 128, 1], bf16>, !cudnn.tensor<[1, 1, 1], strides [1, 1, 1], i32>)
        -> !cudnn.tensor<[8, 1, 64], strides [64, 64, 1], bf16>
      cudnn.yield %y : !cudnn.tensor<[8, 1, 64], strides [64, 64, 1], bf16>
    }
    ```
    """

    name = "cudnn.sdpa"
    query = operand_def(GraphTensorType)
    keys = operand_def(GraphTensorType)
    values = operand_def(GraphTensorType)
    length = operand_def(GraphTensorType)
    rows = opt_operand_def(GraphTensorType)
    scale = prop_def(FloatAttr[Float64Type])
    assembly_format = (
        "$query `,` $keys `,` $values `length` $length (`rows` $rows^)? `scale` $scale attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(
        self,
        query: SSAValue,
        keys: SSAValue,
        values: SSAValue,
        length: SSAValue,
        rows: SSAValue | None,
        scale: float,
        result_type: GraphTensorType,
    ):
        operands = [query, keys, values, length, rows]
        super().__init__(operands=operands, result_types=[result_type], properties={"scale": FloatAttr(scale, f64)})

    def verify_(self) -> None:
        query, keys, values = graph_type(self.query), graph_type(self.keys), graph_type(self.values)
        heads, queries, d = query.dims
        if keys.dims != values.dims or keys.dims[2] != d or heads % keys.dims[0]:
            raise VerifyException(
                f"expected keys and values [kv_heads, positions, {d}] with kv_heads dividing {heads}, "
                f"got {keys} and {values}"
            )
        if d % 8:
            raise VerifyException(f"expected heads of a multiple of 8 elements, got {d}")
        for what, type in (("query", query), ("keys", keys), ("values", values)):
            if type.strides[2] != 1:
                raise VerifyException(f"expected {what} with a last stride of 1, got {type}")
        for what, number in (("length", self.length), ("number of rows", self.rows)):
            if number is not None and ((type := graph_type(number)).dims != (1, 1, 1) or type.element_type != i32):
                raise VerifyException(f"expected one {what} of i32, got {type}")
        if (self.rows is None) != (queries == 1):
            raise VerifyException(f"expected the number of rows where there are several, got {queries} queries")
        self.expect_dims(query.dims)


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a `cudnn.graph` and names its outputs.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
        attributes {io = f32, compute = f32} {
      %y = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
    }
    ```
    """

    name = "cudnn.yield"
    values = var_operand_def(GraphTensorType)
    traits = traits_def(IsTerminator())
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])
