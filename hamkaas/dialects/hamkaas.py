"""The `hamkaas` dialect: what the user meant.

Values are whole, immutable tensors of rank 1 to 3. Data that lives as long as the model (weights, states) is a
symbol of the module; no tensor data is ever written into the IR. Every operation states its shape rule once, in
`infer`: the Python frontend calls it when a node is built, the verifier calls it on IR, whoever wrote it.

Conventions: float operations accept f32, f16 and bf16, compute in f32 and give the type of their first operand;
i64 tensors are indices, which only indexing operations accept; i8 tensors are quantized weights.

The type of a value is what it holds. Every operation rounds its result to its type, to nearest even, wherever it is
computed: alone, in the middle of a group, on any target, in a region for cuDNN. Where that should not happen, the IR
has no such value: sums are taken in f32, and a cast to f32 in front keeps what follows in f32. `add`, `mul`,
`complex_mul`, `relu`, `cast` and `dequantize` round each product and sum as IEEE 754 has it, and give the same bits
everywhere; the other float operations sum in any order or compute functions to within a few ulp.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from math import prod, sqrt
from typing import ClassVar, TypeGuard

from xdsl.dialect_interfaces.constant_materialization import ConstantMaterializationInterface
from xdsl.dialects.builtin import (
    I64,
    ArrayAttr,
    BFloat16Type,
    DenseArrayBase,
    FixedBitwidthType,
    FlatSymbolRefAttrConstr,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    TensorType,
    f16,
    f32,
    f64,
    i64,
)
from xdsl.dialects.utils import parse_func_op_like, print_func_op_like
from xdsl.interfaces import HasCanonicalizationPatternsInterface, HasFolderInterface
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.pattern_rewriter import RewritePattern
from xdsl.printer import Printer
from xdsl.traits import ConstantLike, IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from hamkaas.artifact import ALIGNMENT

AnyTensor = TensorType[Attribute]

MAX_RANK = 3
"""The largest rank of a tensor: the one constant in the one place."""

MAX_ELEMENTS = 2**31 - 1
"""The most elements of a tensor: kernels count them in 32 bits."""

FLOAT_TYPES = (Float32Type, Float16Type, BFloat16Type)
STORAGE_TYPES = (*FLOAT_TYPES, IntegerType)


def is_tensor(type: Attribute) -> TypeGuard[AnyTensor]:
    """Whether it is a tensor. For type checkers: `isinstance` leaves the elements unknown, and `isa` takes 35 us."""
    return isinstance(type, TensorType)


def tensor_type(value: SSAValue) -> AnyTensor:
    """The type of `value`, narrowed: operands of this dialect are constrained to tensors, so this cannot fail."""
    assert is_tensor(value.type)
    return value.type


def check_tensor_type(type: Attribute) -> AnyTensor:
    """`type` if it is a tensor that HamKaas can hold: rank 1 to 3, no empty axis, not too big, a known element type.

    Raises `VerifyException` otherwise.
    """
    if not is_tensor(type):
        raise VerifyException(f"expected a tensor type, got {type}")
    shape = type.get_shape()
    if not 1 <= len(shape) <= MAX_RANK:
        raise VerifyException(f"expected a tensor of rank 1 to {MAX_RANK}, got {type}")
    if any(size < 1 for size in shape):
        raise VerifyException(f"expected a static shape with no empty axis, got {type}")
    if prod(shape) > MAX_ELEMENTS:
        raise VerifyException(f"expected at most {MAX_ELEMENTS} elements, got {type}")
    element = type.element_type
    if not isinstance(element, FLOAT_TYPES) and element not in (i64, IntegerType(8)):
        raise VerifyException(f"expected elements of f32, f16, bf16, i8 or i64, got {type}")
    return type


def constant_value(value: SSAValue) -> int | None:
    """The number in `value` if it is a one-element i64 constant, else None (known only when the program runs)."""
    if isinstance(value.owner, ConstantOp) and isinstance(value.owner.value, IntegerAttr):
        return value.owner.value.value.data
    return None


def is_index(type: AnyTensor) -> bool:
    """Whether the elements are i64, that is indices."""
    return type.element_type == i64


def _expect_float(what: str, type: AnyTensor) -> None:
    if not isinstance(type.element_type, FLOAT_TYPES):
        raise VerifyException(f"expected {what} of f32, f16 or bf16, got {type}")


def _expect_data(what: str, type: AnyTensor) -> None:
    if is_index(type):
        raise VerifyException(f"expected {what} of data, got indices: {type}")


def _expect_index(what: str, type: AnyTensor, sizes: Sequence[int]) -> None:
    if type.element_type != i64 or len(type.get_shape()) != 1 or type.get_shape()[0] not in sizes:
        wanted = " or ".join(f"tensor<{size}xi64>" for size in dict.fromkeys(sizes))
        raise VerifyException(f"expected {what} of type {wanted}, got {type}")


class TensorOp(IRDLOperation, ABC):
    """An operation from tensors to one tensor, without side effects: the base of nearly all that follows."""

    result = result_def(TensorType)
    traits = traits_def(Pure())

    @abstractmethod
    def inferred(self) -> AnyTensor:
        """The result type that the operands and properties ask for. Raises `VerifyException` if there is none."""

    def verify_(self) -> None:
        for value in (*self.operands, *self.results):
            check_tensor_type(value.type)
        expected = self.inferred()
        if self.result.type != expected:
            raise VerifyException(f"expected result {expected}, got {self.result.type}")


# --------------------------------------------------------------------------------------------------------------
# Module level: weights and states, and how a function reaches them
# --------------------------------------------------------------------------------------------------------------


class SymbolOp(IRDLOperation, ABC):
    """A tensor that lives as long as the model, known by name."""

    sym_name = prop_def(SymbolNameConstraint())
    type = prop_def(TensorType)
    traits = traits_def(SymbolOpInterface())
    assembly_format = "$sym_name `:` $type attr-dict"

    def __init__(self, name: str, type: AnyTensor):
        super().__init__(properties={"sym_name": StringAttr(name), "type": type})

    def verify_(self) -> None:
        check_tensor_type(self.type)


@irdl_op_definition
class WeightOp(SymbolOp):
    """A constant tensor; its data is bound by name when a model is built and never stands in the IR.

    `scales` names the weight that holds the scales of this one, of i8: both are made from the one array that is bound
    to this name. The scales are as `hamkaas.dequantize` takes them, and no other weight's.

    ```mlir
    hamkaas.weight @layers.0.wq : tensor<288x288xf32>
    hamkaas.weight @layers.0.wk : tensor<288x288xi8> scales @layers.0.wk.scales
    hamkaas.weight @layers.0.wk.scales : tensor<288x9xf16>
    ```
    """

    name = "hamkaas.weight"
    scales_ = opt_prop_def(FlatSymbolRefAttrConstr, prop_name="scales")
    traits = traits_def(SymbolOpInterface())
    assembly_format = "$sym_name `:` $type (`scales` $scales^)? attr-dict"

    def __init__(self, name: str, type: AnyTensor, scales: str | None = None):
        super().__init__(name, type)
        if scales is not None:
            self.properties["scales"] = SymbolRefAttr(scales)

    @property
    def scales(self) -> str | None:
        """The name of the weight that holds its scales, if there is one."""
        return None if self.scales_ is None else self.scales_.root_reference.data

    def verify_(self) -> None:
        super().verify_()
        if self.scales is None or (module := self.parent_op()) is None:
            return
        weights = [op for op in module.regions[0].block.ops if isinstance(op, WeightOp)]
        scales = next((op for op in weights if op.sym_name.data == self.scales), None)
        if scales is None:
            raise VerifyException(f"expected the name of a weight with scales, got @{self.scales}")
        if sum(op.scales == self.scales for op in weights) > 1:
            raise VerifyException(f"expected scales of one weight only, got @{self.scales} again")
        DequantizeOp.infer(check_tensor_type(self.type), check_tensor_type(scales.type))


@irdl_op_definition
class PackedWeightOp(SymbolOp):
    """A weight whose rows are those of others, one after the other, in the same memory: no array is bound to it.

    Its parts stay weights of their own, and none is part of two. All but the last fill whole multiples of `ALIGNMENT`
    bytes, so that nothing lies between them.

    ```mlir
    hamkaas.weight @wq : tensor<64x32xf32>
    hamkaas.weight @wk : tensor<16x32xf32>
    hamkaas.packed_weight @wq_wk : tensor<80x32xf32> of [@wq, @wk]
    ```
    """

    name = "hamkaas.packed_weight"
    parts_ = prop_def(ArrayAttr.constr(FlatSymbolRefAttrConstr), prop_name="parts")
    traits = traits_def(SymbolOpInterface())
    assembly_format = "$sym_name `:` $type `of` $parts attr-dict"

    def __init__(self, name: str, parts: Sequence[WeightOp]):
        super().__init__(name, packed_type([part.type for part in parts]))
        self.properties["parts"] = ArrayAttr([SymbolRefAttr(part.sym_name) for part in parts])

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(part.root_reference.data for part in self.parts_)

    def verify_(self) -> None:
        super().verify_()
        if (module := self.parent_op()) is None:
            return
        ops = list(module.regions[0].block.ops)
        weights = {op.sym_name.data: op for op in ops if isinstance(op, WeightOp)}
        uses = [part for op in ops if isinstance(op, PackedWeightOp) for part in op.parts]
        for part in self.parts:
            if part not in weights:
                raise VerifyException(f"expected the names of weights, got @{part}")
            if uses.count(part) > 1:
                raise VerifyException(f"expected each weight to be part of one only, got @{part} again")
        if self.type != (expected := packed_type([weights[part].type for part in self.parts])):
            raise VerifyException(f"expected {expected}, got {self.type}")


def packed_type(types: Sequence[Attribute]) -> AnyTensor:
    """The type of the rows of weights of these types. Raises `VerifyException` if they cannot be packed."""
    tensors = [check_tensor_type(type) for type in types]
    if len({(type.element_type, type.get_shape()[1:]) for type in tensors}) != 1:
        raise VerifyException(f"expected parts whose rows are of one type, got {', '.join(map(str, types)) or 'none'}")
    element, rows = tensors[0].element_type, [type.get_shape()[0] for type in tensors]
    assert isinstance(element, FixedBitwidthType)
    for type in tensors[:-1]:
        if prod(type.get_shape()) * element.size % ALIGNMENT:
            raise VerifyException(f"expected parts that fill a multiple of {ALIGNMENT} bytes, got {type}")
    return TensorType(element, [sum(rows), *tensors[0].get_shape()[1:]])


@irdl_op_definition
class StateOp(SymbolOp):
    """A tensor that is zero at the start and keeps its value from one run to the next.

    ```mlir
    hamkaas.state @keys : tensor<256x6x48xf32>
    ```
    """

    name = "hamkaas.state"


def unused_symbol(module: ModuleOp, name: str) -> str:
    """`name`, or that with a number behind it, such that no symbol of the module is called so."""
    taken = {op.properties.get("sym_name") for op in module.body.block.ops}
    candidates = (name, *(f"{name}_{number}" for number in range(len(taken))))
    return next(one for one in candidates if StringAttr(one) not in taken)


def value_name(name: str) -> str:
    """The name of an SSA value that is called after a tensor: letters, digits and `_`, no digit first."""
    return re.sub(r"^(?=\d)|[^A-Za-z0-9_]", "_", name)


@irdl_op_definition
class GetOp(IRDLOperation):
    """The value of a weight, or the value that a state had when the run began.

    ```mlir
    hamkaas.weight @w : tensor<4x8xf32>
    func.func @main() -> tensor<4x8xf32> {
      %w = hamkaas.get @w : tensor<4x8xf32>
      func.return %w : tensor<4x8xf32>
    }
    ```
    """

    name = "hamkaas.get"
    symbol = prop_def(FlatSymbolRefAttrConstr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "$symbol attr-dict `:` type($result)"

    def __init__(self, symbol: str, type: AnyTensor):
        super().__init__(properties={"symbol": SymbolRefAttr(symbol)}, result_types=[type])
        self.result.name_hint = value_name(symbol)


@irdl_op_definition
class SetOp(IRDLOperation):
    """Gives a state the value that the next run begins with. At most one per state in a function.

    ```mlir
    hamkaas.state @count : tensor<4xf32>
    func.func @main(%x: tensor<4xf32>) {
      %old = hamkaas.get @count : tensor<4xf32>
      %new = hamkaas.add %old, %x : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
      hamkaas.set @count, %new : tensor<4xf32>
      func.return
    }
    ```
    """

    name = "hamkaas.set"
    symbol = prop_def(FlatSymbolRefAttrConstr)
    value = operand_def(TensorType)
    assembly_format = "$symbol `,` $value attr-dict `:` type($value)"

    def __init__(self, symbol: str, value: SSAValue):
        super().__init__(properties={"symbol": SymbolRefAttr(symbol)}, operands=[value])


@irdl_op_definition
class ConstantOp(IRDLOperation, HasFolderInterface):
    """A tensor whose elements all are one number. Anything bigger is a weight.

    ```mlir
    %half = hamkaas.constant 5.000000e-01 : f32 -> tensor<1x1xf32>
    %begin = hamkaas.constant 3 : i64 -> tensor<1xi64>
    ```
    """

    name = "hamkaas.constant"
    value = prop_def(FloatAttr | IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure(), ConstantLike())
    assembly_format = "$value attr-dict `->` type($result)"

    def __init__(self, value: FloatAttr | IntegerAttr, type: AnyTensor):
        super().__init__(properties={"value": value}, result_types=[type])

    def fold(self) -> Sequence[SSAValue | Attribute]:
        return (self.value,)

    def verify_(self) -> None:
        type = check_tensor_type(self.result.type)
        if self.value.type != type.element_type:
            raise VerifyException(f"expected a value of type {type.element_type}, got {self.value}")


# --------------------------------------------------------------------------------------------------------------
# Element by element
# --------------------------------------------------------------------------------------------------------------


class UnaryOp(TensorOp, ABC):
    """One float tensor in, one of the same type out."""

    input = operand_def(TensorType)
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue):
        super().__init__(operands=[input], result_types=[self.infer(tensor_type(input))])

    @staticmethod
    def infer(input: AnyTensor) -> AnyTensor:
        """The type of the input, which must be of floats."""
        _expect_float("an input", input)
        return input

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input))


@irdl_op_definition
class ReluOp(UnaryOp, HasFolderInterface):
    """max(0, x), element by element; NaN stays NaN.

    ```mlir
    %x = hamkaas.constant -1.000000e+00 : f32 -> tensor<4xf32>
    %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
    ```
    """

    name = "hamkaas.relu"

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """relu(relu(x)) -> relu(x): relu is idempotent."""
        return (self.input,) if isinstance(self.input.owner, ReluOp) else None


@irdl_op_definition
class SiluOp(UnaryOp):
    """x / (1 + exp(-x)), element by element (SiLU, arXiv:1702.03118).

    ```mlir
    %x = hamkaas.constant 2.000000e+00 : f32 -> tensor<4xf32>
    %y = hamkaas.silu %x : (tensor<4xf32>) -> tensor<4xf32>
    ```
    """

    name = "hamkaas.silu"


def _check_broadcast(lhs: AnyTensor, rhs: AnyTensor) -> None:
    left, right = lhs.get_shape(), rhs.get_shape()
    if lhs.element_type != rhs.element_type:
        raise VerifyException(f"expected lhs and rhs to have one element type, got {lhs} and {rhs}")
    if len(left) != len(right):
        raise VerifyException(f"expected lhs and rhs of the same rank, got {lhs} and {rhs}")
    if any(b not in (a, 1) for a, b in zip(left, right, strict=True)):
        raise VerifyException(f"expected each axis of rhs to equal that of lhs or to be 1, got {lhs} and {rhs}")


class BinaryOp(TensorOp, ABC):
    """Two float tensors of one rank; the right one broadcasts along its axes of size 1. The left's shape results."""

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue):
        super().__init__(operands=[lhs, rhs], result_types=[self.infer(tensor_type(lhs), tensor_type(rhs))])

    @staticmethod
    def infer(lhs: AnyTensor, rhs: AnyTensor) -> AnyTensor:
        """The type of `lhs`."""
        _expect_float("lhs", lhs)
        _check_broadcast(lhs, rhs)
        return lhs

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.lhs), tensor_type(self.rhs))


@irdl_op_definition
class AddOp(BinaryOp):
    """Sum, element by element.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<2x4xf32>
    %bias = hamkaas.constant 2.000000e+00 : f32 -> tensor<1x4xf32>
    %y = hamkaas.add %x, %bias : (tensor<2x4xf32>, tensor<1x4xf32>) -> tensor<2x4xf32>
    ```
    """

    name = "hamkaas.add"


@irdl_op_definition
class MulOp(BinaryOp, HasFolderInterface):
    """Product, element by element (Hadamard product).

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<2x4xf32>
    %scale = hamkaas.constant 2.000000e+00 : f32 -> tensor<1x1xf32>
    %y = hamkaas.mul %x, %scale : (tensor<2x4xf32>, tensor<1x1xf32>) -> tensor<2x4xf32>
    ```
    """

    name = "hamkaas.mul"

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """x * 1 -> x: exact for every x, NaN and infinities included."""
        match self.rhs.owner:
            case ConstantOp(value=FloatAttr() as value) if value.value.data == 1.0:
                return (self.lhs,)
            case _:
                return None


@irdl_op_definition
class ComplexMulOp(BinaryOp):
    """Product of complex numbers: the last axis is 2 and holds (re, im); (a+bi)(c+di) = (ac-bd) + (ad+bc)i.

    The right side broadcasts along the other axes as in `hamkaas.mul`. Rotary embedding (RoPE, arXiv:2104.09864)
    is such a product with a table of rotations.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<6x24x2xf32>
    %rotation = hamkaas.constant 5.000000e-01 : f32 -> tensor<1x24x2xf32>
    %y = hamkaas.complex_mul %x, %rotation : (tensor<6x24x2xf32>, tensor<1x24x2xf32>) -> tensor<6x24x2xf32>
    ```
    """

    name = "hamkaas.complex_mul"

    @staticmethod
    def infer(lhs: AnyTensor, rhs: AnyTensor) -> AnyTensor:
        """The type of `lhs`; the last axis of both must be 2."""
        _expect_float("lhs", lhs)
        if lhs.get_shape()[-1] != 2 or rhs.get_shape()[-1] != 2:
            raise VerifyException(f"expected a last axis of 2 (re, im) on both sides, got {lhs} and {rhs}")
        _check_broadcast(lhs, rhs)
        return lhs


@irdl_op_definition
class CastOp(TensorOp, HasFolderInterface):
    """The same numbers in another float type, rounded to nearest even; i8 to float is exact.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f16 -> tensor<4xf16>
    %y = hamkaas.cast %x : (tensor<4xf16>) -> tensor<4xf32>
    ```
    """

    name = "hamkaas.cast"
    input = operand_def(TensorType)
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, element_type: Attribute):
        super().__init__(operands=[input], result_types=[self.infer(tensor_type(input), element_type)])

    @staticmethod
    def infer(input: AnyTensor, element_type: Attribute) -> AnyTensor:
        """The shape of the input with elements of `element_type`, a float type."""
        _expect_data("an input", input)
        result = TensorType(element_type, input.get_shape())
        _expect_float("a result", result)
        return result

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input), tensor_type(self.result).element_type)

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """cast(x) -> x where the type does not change."""
        return (self.input,) if self.input.type == self.result.type else None


@irdl_op_definition
class DequantizeOp(TensorOp):
    """Group-wise scaled integers as f32: values[..., i] * scales[..., i // group], as in Q8_0; scales of f32 or f16.

    ```mlir
    hamkaas.weight @wq : tensor<64x256xi8>
    hamkaas.weight @wq.scales : tensor<64x8xf16>
    func.func @main() -> tensor<64x256xf32> {
      %values = hamkaas.get @wq : tensor<64x256xi8>
      %scales = hamkaas.get @wq.scales : tensor<64x8xf16>
      %w = hamkaas.dequantize %values, %scales : (tensor<64x256xi8>, tensor<64x8xf16>) -> tensor<64x256xf32>
      func.return %w : tensor<64x256xf32>
    }
    ```
    """

    name = "hamkaas.dequantize"
    values = operand_def(TensorType)
    scales = operand_def(TensorType)
    assembly_format = "$values `,` $scales attr-dict `:` functional-type(operands, results)"

    def __init__(self, values: SSAValue, scales: SSAValue):
        super().__init__(operands=[values, scales], result_types=[self.infer(tensor_type(values), tensor_type(scales))])

    @staticmethod
    def infer(values: AnyTensor, scales: AnyTensor) -> AnyTensor:
        """f32 in the shape of `values`; `scales` has that shape but for a last axis that divides it."""
        if values.element_type != IntegerType(8) or scales.element_type not in (f32, f16):
            raise VerifyException(f"expected values of i8 and scales of f32 or f16, got {values} and {scales}")
        *outer, n = values.get_shape()
        *outer_scales, groups = scales.get_shape()
        if outer != outer_scales or n % groups:
            raise VerifyException(
                f"expected scales to split the last axis into equal groups, got {values} and {scales}"
            )
        return TensorType(f32, values.get_shape())

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.values), tensor_type(self.scales))

    @property
    def group(self) -> int:
        """Number of neighbouring values that share a scale."""
        return tensor_type(self.values).get_shape()[-1] // tensor_type(self.scales).get_shape()[-1]


# --------------------------------------------------------------------------------------------------------------
# Views: the same elements under other indices. Lowering folds them into addresses, so that they cost nothing
# --------------------------------------------------------------------------------------------------------------


@irdl_op_definition
class ReshapeOp(TensorOp, HasFolderInterface, HasCanonicalizationPatternsInterface):
    """The same elements in row-major order under another shape.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<288xf32>
    %y = hamkaas.reshape %x : (tensor<288xf32>) -> tensor<6x24x2xf32>
    ```
    """

    name = "hamkaas.reshape"
    input = operand_def(TensorType)
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, shape: Sequence[int]):
        super().__init__(operands=[input], result_types=[self.infer(tensor_type(input), shape)])

    @staticmethod
    def infer(input: AnyTensor, shape: Sequence[int]) -> AnyTensor:
        """The input's elements under `shape`, which must have as many."""
        _expect_data("an input", input)
        result = check_tensor_type(TensorType(input.element_type, shape))
        if prod(input.get_shape()) != prod(shape):
            raise VerifyException(f"expected as many elements as in {input}, got {result}")
        return result

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input), tensor_type(self.result).get_shape())

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """reshape(x) -> x where the shape does not change; reshape(constant) -> constant."""
        if self.input.type == self.result.type:
            return (self.input,)
        return (self.input.owner.value,) if isinstance(self.input.owner, ConstantOp) else None

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from hamkaas.dialects.hamkaas_patterns import ReshapeOfReshape

        return (ReshapeOfReshape(),)


@irdl_op_definition
class PermuteOp(TensorOp, HasFolderInterface, HasCanonicalizationPatternsInterface):
    """Axis i of the result is axis `axes[i]` of the input (a transpose).

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<2x3x4xf32>
    %y = hamkaas.permute %x axes [2, 0, 1] : (tensor<2x3x4xf32>) -> tensor<4x2x3xf32>
    ```
    """

    name = "hamkaas.permute"
    input = operand_def(TensorType)
    axes = prop_def(DenseArrayBase.constr(i64))
    assembly_format = "$input `axes` $axes attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, axes: Sequence[int]):
        super().__init__(
            operands=[input],
            properties={"axes": DenseArrayBase.from_list(i64, axes)},
            result_types=[self.infer(tensor_type(input), axes)],
        )

    @staticmethod
    def infer(input: AnyTensor, axes: Sequence[int]) -> AnyTensor:
        """The input's shape permuted by `axes`, a permutation of its axes."""
        _expect_data("an input", input)
        shape = input.get_shape()
        if sorted(axes) != list(range(len(shape))):
            raise VerifyException(f"expected axes to be a permutation of {list(range(len(shape)))}, got {list(axes)}")
        return TensorType(input.element_type, [shape[axis] for axis in axes])

    @property
    def permutation(self) -> tuple[int, ...]:
        """The axes as Python integers."""
        return tuple(int(axis) for axis in self.axes.get_values())

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input), self.permutation)

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """permute(x) -> x by the identity; permute(constant) -> constant."""
        if self.permutation == tuple(range(len(self.permutation))):
            return (self.input,)
        return (self.input.owner.value,) if isinstance(self.input.owner, ConstantOp) else None

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from hamkaas.dialects.hamkaas_patterns import PermuteOfPermute

        return (PermuteOfPermute(),)


@irdl_op_definition
class SliceOp(TensorOp, HasFolderInterface, HasCanonicalizationPatternsInterface):
    """Rows `begin` to `end` - 1 of the first axis; not empty.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<8x4xf32>
    %y = hamkaas.slice %x from 2 to 5 : (tensor<8x4xf32>) -> tensor<3x4xf32>
    ```
    """

    name = "hamkaas.slice"
    input = operand_def(TensorType)
    begin = prop_def(IntegerAttr[I64])
    end = prop_def(IntegerAttr[I64])
    assembly_format = "$input `from` $begin `to` $end attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, begin: int, end: int):
        super().__init__(
            operands=[input],
            properties={"begin": IntegerAttr(begin, i64), "end": IntegerAttr(end, i64)},
            result_types=[self.infer(tensor_type(input), begin, end)],
        )

    @staticmethod
    def infer(input: AnyTensor, begin: int, end: int) -> AnyTensor:
        """`end` - `begin` rows of the input."""
        _expect_data("an input", input)
        size, *inner = input.get_shape()
        if not 0 <= begin < end <= size:
            raise VerifyException(f"expected 0 <= begin < end <= {size}, got begin {begin} and end {end}")
        return TensorType(input.element_type, [end - begin, *inner])

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input), self.begin.value.data, self.end.value.data)

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """slice(x) -> x where it takes all; slice(constant) -> constant."""
        if self.input.type == self.result.type:
            return (self.input,)
        return (self.input.owner.value,) if isinstance(self.input.owner, ConstantOp) else None

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from hamkaas.dialects.hamkaas_patterns import SliceOfSlice

        return (SliceOfSlice(),)


# --------------------------------------------------------------------------------------------------------------
# Indexing by values that are known only when the program runs
# --------------------------------------------------------------------------------------------------------------


@irdl_op_definition
class ReplaceSliceOp(TensorOp, HasFolderInterface):
    """The base with rows `begin` to `end` - 1 of the first axis replaced.

    The bounds are one-element i64 tensors. Constants are checked here; bounds that are inputs are checked before
    anything runs; bounds that a kernel computes never write outside the tensor and raise at the next
    synchronisation.

    ```mlir
    hamkaas.state @keys : tensor<256x48xf32>
    func.func @main(%key: tensor<1x48xf32>, %begin: tensor<1xi64>, %end: tensor<1xi64>) {
      %keys = hamkaas.get @keys : tensor<256x48xf32>
      %new = hamkaas.replace_slice %keys, %key from %begin to %end
        : (tensor<256x48xf32>, tensor<1x48xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<256x48xf32>
      hamkaas.set @keys, %new : tensor<256x48xf32>
      func.return
    }
    ```
    """

    name = "hamkaas.replace_slice"
    base = operand_def(TensorType)
    replacement = operand_def(TensorType)
    begin = operand_def(TensorType)
    end = operand_def(TensorType)
    assembly_format = "$base `,` $replacement `from` $begin `to` $end attr-dict `:` functional-type(operands, results)"

    def __init__(self, base: SSAValue, replacement: SSAValue, begin: SSAValue, end: SSAValue):
        super().__init__(operands=[base, replacement, begin, end], result_types=[base.type])

    @staticmethod
    def infer(base: AnyTensor, replacement: AnyTensor, begin: AnyTensor | int, end: AnyTensor | int) -> AnyTensor:
        """The type of `base`. The bounds are numbers where they are known, else their types."""
        size, *inner = base.get_shape()
        rows, *inner_replacement = replacement.get_shape()
        if base.element_type != replacement.element_type or inner != inner_replacement:
            raise VerifyException(
                f"expected a replacement that differs in its first axis only, got {replacement} for {base}"
            )
        if rows > size:
            raise VerifyException(f"expected a replacement of at most {size} rows, got {replacement}")
        for what, bound in (("begin", begin), ("end", end)):
            if not isinstance(bound, int):
                _expect_index(what, bound, [1])
            elif not 0 <= bound <= size:
                raise VerifyException(f"expected {what} between 0 and {size}, got {bound}")
        if isinstance(begin, int) and isinstance(end, int) and end - begin != rows:
            raise VerifyException(f"expected end - begin to be the {rows} rows of the replacement, got {end} - {begin}")
        return base

    def inferred(self) -> AnyTensor:
        begin, end = constant_value(self.begin), constant_value(self.end)
        return self.infer(
            tensor_type(self.base),
            tensor_type(self.replacement),
            tensor_type(self.begin) if begin is None else begin,
            tensor_type(self.end) if end is None else end,
        )

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """replace_slice(x, y) -> y where y replaces all rows, at constant bounds."""
        everything = self.base.type == self.replacement.type and constant_value(self.begin) == 0
        return (self.replacement,) if everything and constant_value(self.end) is not None else None


@irdl_op_definition
class GatherOp(TensorOp):
    """Rows of a table by index: result[i, ...] = table[index[i], ...]. A token's embedding is one.

    A table of indices is a function on them: with the table 1, 2, 3, ... the result is index + 1.

    Indices outside the table are treated as the bounds of `hamkaas.replace_slice` are.

    ```mlir
    hamkaas.weight @embedding : tensor<512x64xf32>
    func.func @main(%token: tensor<1xi64>) -> tensor<1x64xf32> {
      %table = hamkaas.get @embedding : tensor<512x64xf32>
      %row = hamkaas.gather %table by %token : (tensor<512x64xf32>, tensor<1xi64>) -> tensor<1x64xf32>
      func.return %row : tensor<1x64xf32>
    }
    ```
    """

    name = "hamkaas.gather"
    table = operand_def(TensorType)
    index = operand_def(TensorType)
    assembly_format = "$table `by` $index attr-dict `:` functional-type(operands, results)"

    def __init__(self, table: SSAValue, index: SSAValue):
        super().__init__(operands=[table, index], result_types=[self.infer(tensor_type(table), tensor_type(index))])

    @staticmethod
    def infer(table: AnyTensor, index: AnyTensor) -> AnyTensor:
        """`[rows, ...]` by `[n]` gives `[n, ...]`."""
        _expect_index("an index", index, index.get_shape()[:1])
        return TensorType(table.element_type, [index.get_shape()[0], *table.get_shape()[1:]])

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.table), tensor_type(self.index))


# --------------------------------------------------------------------------------------------------------------
# Reductions
# --------------------------------------------------------------------------------------------------------------


@irdl_op_definition
class MatmulOp(TensorOp):
    """Matrix product: `[n]x[n,k]`, `[m,n]x[n,k]` or `[b,m,n]x[b,n,k]`; sums are taken in f32.

    The right side may have another float type, as the weights of a converted model do.

    ```mlir
    hamkaas.weight @w : tensor<288x768xf32>
    func.func @main(%x: tensor<288xf32>) -> tensor<768xf32> {
      %w = hamkaas.get @w : tensor<288x768xf32>
      %y = hamkaas.matmul %x, %w : (tensor<288xf32>, tensor<288x768xf32>) -> tensor<768xf32>
      func.return %y : tensor<768xf32>
    }
    ```
    """

    name = "hamkaas.matmul"
    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue):
        super().__init__(operands=[lhs, rhs], result_types=[self.infer(tensor_type(lhs), tensor_type(rhs))])

    @staticmethod
    def infer(lhs: AnyTensor, rhs: AnyTensor) -> AnyTensor:
        """The product's type: the inner axes must agree, and the batch axes if there are any."""
        _expect_float("lhs", lhs)
        _expect_float("rhs", rhs)
        left, right = lhs.get_shape(), rhs.get_shape()
        if (len(left), len(right)) not in ((1, 2), (2, 2), (3, 3)):
            raise VerifyException(f"expected ranks 1 and 2, 2 and 2, or 3 and 3, got {lhs} and {rhs}")
        if left[-1] != right[-2]:
            raise VerifyException(f"expected lhs and rhs to agree on the inner axis, got {lhs} and {rhs}")
        if len(left) == MAX_RANK and left[0] != right[0]:
            raise VerifyException(f"expected lhs and rhs to agree on the batch axis, got {lhs} and {rhs}")
        return TensorType(lhs.element_type, [*left[:-1], right[-1]])

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.lhs), tensor_type(self.rhs))


@irdl_op_definition
class RmsNormOp(TensorOp):
    """x * weight / sqrt(mean(x^2) + eps) over the last axis (RMSNorm, arXiv:1910.07467).

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<288xf32>
    %w = hamkaas.constant 1.000000e+00 : f32 -> tensor<288xf32>
    %y = hamkaas.rms_norm %x, %w eps 1.000000e-05 : (tensor<288xf32>, tensor<288xf32>) -> tensor<288xf32>
    ```
    """

    name = "hamkaas.rms_norm"
    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    eps = prop_def(FloatAttr[Float64Type])
    assembly_format = "$input `,` $weight `eps` $eps attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, weight: SSAValue, eps: float = 1e-5):
        super().__init__(
            operands=[input, weight],
            properties={"eps": FloatAttr(eps, f64)},
            result_types=[self.infer(tensor_type(input), tensor_type(weight), eps)],
        )

    @staticmethod
    def infer(input: AnyTensor, weight: AnyTensor, eps: float = 1e-5) -> AnyTensor:
        """The type of the input; the weight has rank 1 and the size of its last axis; eps is not negative."""
        _expect_float("an input", input)
        _expect_float("a weight", weight)
        if weight.get_shape() != input.get_shape()[-1:]:
            raise VerifyException(f"expected a weight for the last axis of {input}, got {weight}")
        if not eps >= 0:
            raise VerifyException(f"expected eps of at least 0, got {eps}")
        return input

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input), tensor_type(self.weight), self.eps.value.data)


@irdl_op_definition
class RmsScaleOp(TensorOp):
    """x * weight / sqrt(sums / n + eps): what is left of rms_norm where the sums of x^2 over the last axis are known.

    ```mlir
    func.func @main(%x: tensor<4x8xf32>, %w: tensor<8xf32>, %sums: tensor<4x1xf32>) -> tensor<4x8xf32> {
      %y = hamkaas.rms_scale %x, %w by %sums eps 1.000000e-05
        : (tensor<4x8xf32>, tensor<8xf32>, tensor<4x1xf32>) -> tensor<4x8xf32>
      func.return %y : tensor<4x8xf32>
    }
    ```
    """

    name = "hamkaas.rms_scale"
    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    sums = operand_def(TensorType)
    eps = prop_def(FloatAttr[Float64Type])
    assembly_format = "$input `,` $weight `by` $sums `eps` $eps attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, weight: SSAValue, sums: SSAValue, eps: float = 1e-5):
        super().__init__(
            operands=[input, weight, sums],
            properties={"eps": FloatAttr(eps, f64)},
            result_types=[self.infer(tensor_type(input), tensor_type(weight), tensor_type(sums), eps)],
        )

    @staticmethod
    def sums_of(input: AnyTensor) -> AnyTensor:
        """The type of the sums: f32, with a last axis of 1."""
        return TensorType(f32, [*input.get_shape()[:-1], 1])

    @classmethod
    def infer(cls, input: AnyTensor, weight: AnyTensor, sums: AnyTensor, eps: float = 1e-5) -> AnyTensor:
        """The type of the input, as `RmsNormOp.infer`."""
        if sums != (expected := cls.sums_of(input)):
            raise VerifyException(f"expected sums of type {expected}, got {sums}")
        return RmsNormOp.infer(input, weight, eps)

    def inferred(self) -> AnyTensor:
        types = (tensor_type(self.input), tensor_type(self.weight), tensor_type(self.sums))
        return self.infer(*types, self.eps.value.data)


@irdl_op_definition
class SlicedSoftmaxOp(TensorOp):
    """Softmax of the first `prefix` elements of the last axis; the others pass through unchanged.

    A prefix of 0 leaves all as it is. The prefix is one number for all rows, or one for each index of the second
    last axis (a causal mask).

    ```mlir
    func.func @main(%x: tensor<6x256xf32>, %length: tensor<1xi64>) -> tensor<6x256xf32> {
      %y = hamkaas.sliced_softmax %x prefix %length : (tensor<6x256xf32>, tensor<1xi64>) -> tensor<6x256xf32>
      func.return %y : tensor<6x256xf32>
    }
    ```
    """

    name = "hamkaas.sliced_softmax"
    input = operand_def(TensorType)
    prefix = operand_def(TensorType)
    assembly_format = "$input `prefix` $prefix attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, prefix: SSAValue):
        super().__init__(operands=[input, prefix], result_types=[input.type])

    @staticmethod
    def infer(input: AnyTensor, prefix: AnyTensor | int) -> AnyTensor:
        """The type of the input. The prefix is a number where it is known, else its type."""
        _expect_float("an input", input)
        n = input.get_shape()[-1]
        if isinstance(prefix, int):
            if not 0 <= prefix <= n:
                raise VerifyException(f"expected a prefix between 0 and {n}, got {prefix}")
        else:
            _expect_index("a prefix", prefix, [1, *input.get_shape()[-2:-1]])
        return input

    def inferred(self) -> AnyTensor:
        prefix = constant_value(self.prefix)
        return self.infer(tensor_type(self.input), tensor_type(self.prefix) if prefix is None else prefix)


@irdl_op_definition
class ArgmaxOp(TensorOp):
    """Index of the largest element of the last axis, the first if several are; NaN counts as the smallest.

    ```mlir
    %x = hamkaas.constant 1.000000e+00 : f32 -> tensor<32000xf32>
    %token = hamkaas.argmax %x : (tensor<32000xf32>) -> tensor<1xi64>
    ```
    """

    name = "hamkaas.argmax"
    input = operand_def(TensorType)
    assembly_format = "$input attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue):
        super().__init__(operands=[input], result_types=[self.infer(tensor_type(input))])

    @staticmethod
    def infer(input: AnyTensor) -> AnyTensor:
        """`[n]` gives `[1]`, `[m,n]` gives `[m]`, of i64."""
        _expect_float("an input", input)
        if len(input.get_shape()) > 2:
            raise VerifyException(f"expected an input of rank 1 or 2, got {input}")
        return TensorType(i64, input.get_shape()[:-1] or [1])

    def inferred(self) -> AnyTensor:
        return self.infer(tensor_type(self.input))


LARGEST_COIN = 1 - 2.0**-23
"""The largest coin of `hamkaas.sample`: larger ones, of which there are few below 1, count as this one."""


@irdl_op_definition
class SampleOp(TensorOp):
    """A token drawn from logits: temperature, nucleus (top-p, arXiv:1904.09751), and one random number.

    With p = softmax(logits / temperature) sorted from the largest (ties by index), keep the shortest prefix whose
    sum exceeds top_p, and take the first token at which the running sum exceeds coin * (sum of what was kept).
    A temperature that is not above 0 takes the argmax, a top_p of 1 or more keeps all, and one below 0 counts as 0. A
    coin outside of [0, 1) counts as the nearest number inside. A NaN among the logits counts as -inf; of several
    infinite ones each has the same p.

    ```mlir
    func.func @main(%logits: tensor<512xf32>, %temperature: tensor<1xf32>, %top_p: tensor<1xf32>,
                    %coin: tensor<1xf32>) -> tensor<1xi64> {
      %token = hamkaas.sample %logits temperature %temperature top_p %top_p coin %coin
        : (tensor<512xf32>, tensor<1xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<1xi64>
      func.return %token : tensor<1xi64>
    }
    ```
    """

    name = "hamkaas.sample"
    logits = operand_def(TensorType)
    temperature = operand_def(TensorType)
    top_p = operand_def(TensorType)
    coin = operand_def(TensorType)
    assembly_format = (
        "$logits `temperature` $temperature `top_p` $top_p `coin` $coin attr-dict "
        "`:` functional-type(operands, results)"
    )

    def __init__(self, logits: SSAValue, temperature: SSAValue, top_p: SSAValue, coin: SSAValue):
        operands = [logits, temperature, top_p, coin]
        super().__init__(operands=operands, result_types=[self.infer(*map(tensor_type, operands))])

    @staticmethod
    def infer(logits: AnyTensor, temperature: AnyTensor, top_p: AnyTensor, coin: AnyTensor) -> AnyTensor:
        """`[n]` gives one index; the three parameters are single f32 numbers."""
        one = TensorType(f32, [1])
        if logits.element_type != f32 or len(logits.get_shape()) != 1:
            raise VerifyException(f"expected logits of f32 and rank 1, got {logits}")
        for what, type in (("temperature", temperature), ("top_p", top_p), ("coin", coin)):
            if type != one:
                raise VerifyException(f"expected {what} of type {one}, got {type}")
        return TensorType(i64, [1])

    def inferred(self) -> AnyTensor:
        return self.infer(*(tensor_type(operand) for operand in self.operands))


@irdl_op_definition
class AttentionOp(TensorOp):
    """Attention of each query over the first `length` rows of a cache (arXiv:1706.03762; grouped: arXiv:2305.13245).

    For query head h, with g = h // (heads / kv_heads): softmax over j < length of scale * q[h] . keys[j, g], times
    values[j, g]. `[heads, d]` is one query with a length of one element; `[t, heads, d]` are t queries with a length
    each, or with one for all, which makes them causal: the last query sees `length` rows, each one before it a row
    less. A length of 0 or less gives zeros. The scale is usually 1/sqrt(d). Where a value that is seen is infinite, the
    result is infinite or NaN: which of them depends on the order of the sums.

    ```mlir
    func.func @main(%q: tensor<8x16xf32>, %keys: tensor<512x4x16xf32>, %values: tensor<512x4x16xf32>,
                    %length: tensor<1xi64>) -> tensor<8x16xf32> {
      %y = hamkaas.attention %q, %keys, %values length %length scale 2.500000e-01
        : (tensor<8x16xf32>, tensor<512x4x16xf32>, tensor<512x4x16xf32>, tensor<1xi64>) -> tensor<8x16xf32>
      func.return %y : tensor<8x16xf32>
    }
    ```
    """

    name = "hamkaas.attention"
    query = operand_def(TensorType)
    keys = operand_def(TensorType)
    values = operand_def(TensorType)
    length = operand_def(TensorType)
    scale = prop_def(FloatAttr[Float64Type])
    assembly_format = (
        "$query `,` $keys `,` $values `length` $length `scale` $scale attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, query: SSAValue, keys: SSAValue, values: SSAValue, length: SSAValue, scale: float | None = None):
        if scale is None:
            scale = 1 / sqrt(tensor_type(query).get_shape()[-1])
        super().__init__(
            operands=[query, keys, values, length],
            properties={"scale": FloatAttr(scale, f64)},
            result_types=[query.type],
        )

    @staticmethod
    def infer(query: AnyTensor, keys: AnyTensor, values: AnyTensor, length: AnyTensor | int) -> AnyTensor:
        """The type of the query. The length is a number where it is known, else its type."""
        for what, type in (("a query", query), ("keys", keys), ("values", values)):
            _expect_float(what, type)
        shape = query.get_shape()
        if len(shape) not in (2, 3):
            raise VerifyException(f"expected a query of rank 2 or 3, got {query}")
        heads, d = shape[-2:]
        if keys != values or len(keys.get_shape()) != 3 or keys.get_shape()[-1] != d or heads % keys.get_shape()[1]:
            raise VerifyException(
                f"expected keys and values [positions, kv_heads, {d}] with kv_heads dividing {heads}, "
                f"got {keys} and {values}"
            )
        queries = shape[0] if len(shape) == 3 else 1
        if not isinstance(length, int):
            _expect_index("a length", length, [queries, 1])
        elif not 0 <= length <= keys.get_shape()[0]:
            raise VerifyException(f"expected a length between 0 and {keys.get_shape()[0]}, got {length}")
        return query

    @property
    def queries(self) -> int:
        """How many queries there are."""
        shape = tensor_type(self.query).get_shape()
        return shape[0] if len(shape) == 3 else 1

    @property
    def is_causal(self) -> bool:
        """Whether one length serves several queries, so that each sees a row more than the one before."""
        return self.queries > 1 and tensor_type(self.length).get_shape() == (1,)

    def inferred(self) -> AnyTensor:
        length = constant_value(self.length)
        return self.infer(
            tensor_type(self.query),
            tensor_type(self.keys),
            tensor_type(self.values),
            tensor_type(self.length) if length is None else length,
        )


# --------------------------------------------------------------------------------------------------------------
# Groups: regions of the graph that become one kernel each
# --------------------------------------------------------------------------------------------------------------


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Ends a `hamkaas.group` and names its results.

    ```mlir
    hamkaas.group @g0(%x: tensor<4xf32>) -> tensor<4xf32> {
      %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
      hamkaas.yield %y : tensor<4xf32>
    }
    ```
    """

    name = "hamkaas.yield"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator())
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


def _listed(types: Iterable[Attribute]) -> str:
    return ", ".join(map(str, types)) or "nothing"


@irdl_op_definition
class GroupOp(IRDLOperation):
    """Operations that run as one kernel: a symbol, so that equal groups are compiled once and executed often.

    ```mlir
    hamkaas.group @g0(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
      %0 = hamkaas.add %x, %y : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
      %1 = hamkaas.relu %0 : (tensor<4xf32>) -> tensor<4xf32>
      hamkaas.yield %1 : tensor<4xf32>
    }
    ```
    """

    name = "hamkaas.group"
    sym_name = prop_def(SymbolNameConstraint())
    function_type = prop_def(FunctionType)
    body = region_def("single_block")
    traits = traits_def(SymbolOpInterface(), IsolatedFromAbove())
    _RESERVED: ClassVar = ("sym_name", "function_type")

    def __init__(self, name: str, function_type: FunctionType, body: Region | None = None):
        if body is None:
            body = Region(Block(arg_types=function_type.inputs.data))
        super().__init__(properties={"sym_name": StringAttr(name), "function_type": function_type}, regions=[body])

    @property
    def vector_shape(self) -> str | None:
        """How its products of one row are shared out on a GPU, if that was chosen (`hamkaas-assign-shapes`)."""
        found = self.attributes.get("vector_shape")
        return found.data if isinstance(found, StringAttr) else None

    @classmethod
    def parse(cls, parser: Parser) -> "GroupOp":
        name, inputs, outputs, region, attributes, *_ = parse_func_op_like(parser, reserved_attr_names=cls._RESERVED)
        group = cls(name, FunctionType.from_lists(inputs, outputs), region)
        group.attributes |= attributes.data if attributes else {}
        return group

    def print(self, printer: Printer) -> None:
        print_func_op_like(
            printer, self.sym_name, self.function_type, self.body, self.attributes, reserved_attr_names=self._RESERVED
        )

    def verify_(self) -> None:
        inputs = tuple(arg.type for arg in self.body.block.args)
        if inputs != self.function_type.inputs.data:
            raise VerifyException(
                f"expected block arguments {_listed(self.function_type.inputs)}, got {_listed(inputs)}"
            )
        terminator = self.body.block.last_op
        if not isinstance(terminator, YieldOp):
            raise VerifyException("expected the body to end in hamkaas.yield")
        outputs = tuple(value.type for value in terminator.values)
        if outputs != self.function_type.outputs.data:
            raise VerifyException(f"expected to yield {_listed(self.function_type.outputs)}, got {_listed(outputs)}")

    @property
    def yielded(self) -> YieldOp:
        """The terminator."""
        terminator = self.body.block.last_op
        assert isinstance(terminator, YieldOp)
        return terminator


@irdl_op_definition
class ExecuteOp(IRDLOperation):
    """Runs a group (or, after lowering, the kernel of the same name) on tensors.

    ```mlir
    hamkaas.group @g0(%x: tensor<4xf32>) -> tensor<4xf32> {
      %y = hamkaas.relu %x : (tensor<4xf32>) -> tensor<4xf32>
      hamkaas.yield %y : tensor<4xf32>
    }
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %y = hamkaas.execute @g0(%x) : (tensor<4xf32>) -> tensor<4xf32>
      func.return %y : tensor<4xf32>
    }
    ```
    """

    name = "hamkaas.execute"
    callee = prop_def(FlatSymbolRefAttrConstr)
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "$callee `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(self, callee: str, inputs: Sequence[SSAValue], output_types: Sequence[Attribute]):
        super().__init__(operands=[inputs], result_types=[output_types], properties={"callee": SymbolRefAttr(callee)})


class MaterializeConstant(ConstantMaterializationInterface):
    """Turns the attribute that a folder gave back into a `hamkaas.constant`."""

    def materialize_constant(self, value: Attribute, type: Attribute) -> Operation | None:
        if isa(value, FloatAttr | IntegerAttr) and is_tensor(type):
            return ConstantOp(value, type)
        return None


VIEW_OPS = (ReshapeOp, PermuteOp, SliceOp)
"""Operations that only rename indices."""

POINTWISE_OPS = (AddOp, MulOp, ComplexMulOp, ReluOp, SiluOp, CastOp, DequantizeOp, ConstantOp)
"""Operations whose every element can be computed from a few elements of their operands."""

HAMKAAS = Dialect(
    "hamkaas",
    [
        WeightOp,
        PackedWeightOp,
        StateOp,
        GetOp,
        SetOp,
        ConstantOp,
        ReluOp,
        SiluOp,
        AddOp,
        MulOp,
        ComplexMulOp,
        CastOp,
        DequantizeOp,
        ReshapeOp,
        PermuteOp,
        SliceOp,
        ReplaceSliceOp,
        GatherOp,
        MatmulOp,
        RmsNormOp,
        RmsScaleOp,
        SlicedSoftmaxOp,
        ArgmaxOp,
        SampleOp,
        AttentionOp,
        YieldOp,
        GroupOp,
        ExecuteOp,
    ],
    [],
    [MaterializeConstant()],
)
