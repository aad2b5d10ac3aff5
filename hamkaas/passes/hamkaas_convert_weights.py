"""Stores the matrices of products in fewer bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerType, ModuleOp, TensorType, bf16, f16, f32
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import check_tensor_type

Precision: TypeAlias = Literal["f32", "f16", "bf16", "i8"]
"""Element types that weights can be given."""

ELEMENTS: dict[str, Attribute] = {"f16": f16, "bf16": bf16, "i8": IntegerType(8)}


@dataclass(frozen=True)
class HamkaasConvertWeightsPass(ModulePass):
    """Give f32 weights another element type, where nothing but products and gathers read them.

    A weight qualifies if it has two axes and is, in all functions, only the right side of products (through permutes)
    or a table of `hamkaas.gather`. It is read as f32 again, so that sums and all that is computed stay f32. With i8,
    neighbours along the last axis share an f16 scale (Q8_0): groups of `group`, or of the largest number that divides
    both.
    Whoever binds arrays to weights converts them: the type of the weight says to what.

    ```
    hamkaas.weight @w : tensor<8x32xf32>          hamkaas.weight @w : tensor<8x32xi8> scales @w.scales
    %w = hamkaas.get @w : tensor<8x32xf32>   ->   hamkaas.weight @w.scales : tensor<8x1xf16>
                                                  %q = hamkaas.get @w        %s = hamkaas.get @w.scales
                                                  %w = hamkaas.dequantize %q, %s
    ```
    """

    name = "hamkaas-convert-weights"

    dtype: Precision = "f16"
    """The element type; f32 changes nothing."""

    group: int = 32
    """With i8: how many neighbours share a scale, at most."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.dtype == "f32":
            return
        reads: dict[str, list[hamkaas.GetOp]] = {}
        for get in op.walk():
            if isinstance(get, hamkaas.GetOp):
                reads.setdefault(get.symbol.root_reference.data, []).append(get)
        for weight in [child for child in op.body.block.ops if isinstance(child, hamkaas.WeightOp)]:
            gets = reads.get(weight.sym_name.data, [])
            if _is_matrix(weight.type) and gets and all(_is_only_multiplied(get.result) for get in gets):
                self._convert(op, weight, gets)

    def _convert(self, module: ModuleOp, weight: hamkaas.WeightOp, gets: list[hamkaas.GetOp]) -> None:
        name, type = weight.sym_name.data, weight.type
        assert hamkaas.is_tensor(type)
        narrow = TensorType(ELEMENTS[self.dtype], type.get_shape())
        weights = [hamkaas.WeightOp(name, narrow)]
        if self.dtype == "i8":
            rows, columns = type.get_shape()
            scales = hamkaas.unused_symbol(module, f"{name}.scales")
            weights = [
                hamkaas.WeightOp(name, narrow, scales),
                hamkaas.WeightOp(scales, TensorType(f16, [rows, columns // gcd(columns, self.group)])),
            ]
        Rewriter.replace_op(weight, weights, new_results=[])
        for get in gets:
            _read(get, weights)


def _is_matrix(type: Attribute) -> bool:
    return hamkaas.is_tensor(type) and type.element_type == f32 and len(type.get_shape()) == 2


def _is_only_multiplied(value: SSAValue) -> bool:
    """Whether a value is read by nothing but products, as their right side, and gathers, as their table."""

    def fits(op: Operation, operand: int) -> bool:
        if isinstance(op, hamkaas.PermuteOp):
            return _is_only_multiplied(op.result)
        return (isinstance(op, hamkaas.MatmulOp) and operand == 1) or (
            isinstance(op, hamkaas.GatherOp) and operand == 0
        )

    return all(fits(use.operation, use.index) for use in value.uses)


def _read(get: hamkaas.GetOp, weights: Sequence[hamkaas.WeightOp]) -> None:
    """Replaces a read of the f32 weight; a gather takes the rows that it wants before they become f32."""
    parts = [hamkaas.GetOp(weight.sym_name.data, check_tensor_type(weight.type)) for weight in weights]
    Rewriter.insert_op(parts, InsertPoint.before(get))
    for use in list(get.result.uses):
        if isinstance(use.operation, hamkaas.GatherOp):
            rows = [hamkaas.GatherOp(part.result, use.operation.index) for part in parts]
            Rewriter.insert_op(rows, InsertPoint.before(use.operation))
            Rewriter.replace_op(use.operation, _widen([row.result for row in rows]))
    if get.result.first_use is None:
        Rewriter.erase_op(get)
    else:
        Rewriter.replace_op(get, _widen([part.result for part in parts]))


def _widen(parts: list[SSAValue]) -> Operation:
    """The same numbers as f32."""
    return hamkaas.CastOp(parts[0], f32) if len(parts) == 1 else hamkaas.DequantizeOp(parts[0], parts[1])
