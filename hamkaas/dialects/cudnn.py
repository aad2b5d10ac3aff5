"""The `cudnn` dialect: what one graph of the cuDNN graph API says.

A `cudnn.graph` is a symbol that is compiled once and executed often; `cudnn.execute` runs it on whole tensors. Inside,
a value is a `!cudnn.tensor`: three dims and three strides, as cuDNN describes memory, so that a transposed weight or a
slice is strides and an offset, never a copy. Axes are [batch, rows, columns]: a vector is `[1, 1, n]`, a matrix
`[1, m, n]`. Verifiers state what the API demands; what an engine supports beyond that is known when plans are built.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import (
    I64,
    BFloat16Type,
    DenseArrayBase,
    FixedBitwidthType,
    FlatSymbolRefAttrConstr,
    Float16Type,
    Float32Type,
    FloatTF32Type,
    FunctionType,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    TensorType,
    f32,
    i32,
    i64,
    tf32,
)
from xdsl.dialects.utils import parse_func_op_like, print_func_op_like
from xdsl.ir import (
    Attribute,
    Block,
    BlockArgument,
    Dialect,
    Operation,
    Region,
    SSAValue,
)
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, Pure, SymbolOpInterface, SymbolTable
from xdsl.utils.exceptions import VerifyException

from hamkaas.artifact import CUDNN_ALIGNMENT
from hamkaas.dialects.cudnn_nodes import (
    MatmulOp,
    NodeOp,
    PointwiseAttr,
    PointwiseOp,
    ReductionAttr,
    ReductionOp,
    RmsNormOp,
    SdpaOp,
    YieldOp,
)
from hamkaas.dialects.cudnn_types import GraphTensorType, graph_type
from hamkaas.dialects.hamkaas import tensor_type


@irdl_op_definition
class GraphOp(IRDLOperation):
    """Operations that cuDNN runs as one: a symbol, so that equal graphs are compiled once and executed often.

    `io` is the type of arguments and outputs, `compute` that of sums; products of f32 are computed as tf32, and a graph
    must say so. Every value has an element type of its own, to which it is rounded, also in between. What the engines
    demand:

    `plan` and `workspace`, the bytes of scratch memory that it takes, are known once a device was asked.

    1. a product is not computed from another one, and only one product has anything computed in front of it;
    2. what is computed in front of a product is read by nothing else and is no output;
    3. a norm or an attention shares a graph with no product and no other of its kind;
    4. no operation reads one argument twice: on an H200, attention with one tensor as keys and values read addresses
       that are not aligned. Two arguments may show the same memory.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
        attributes {io = f32, compute = f32} {
      %0 = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
      %1 = cudnn.pointwise silu %0 : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
      cudnn.yield %1 : !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>
    }
    ```
    """

    name = "cudnn.graph"
    sym_name = prop_def(SymbolNameConstraint())
    function_type = prop_def(FunctionType)
    io = prop_def(Float32Type | Float16Type | BFloat16Type)
    compute = prop_def(Float32Type | FloatTF32Type)
    plan = opt_prop_def(StringAttr)
    workspace = opt_prop_def(IntegerAttr[I64])
    body = region_def("single_block")
    traits = traits_def(SymbolOpInterface(), IsolatedFromAbove())
    _RESERVED: ClassVar = ("sym_name", "function_type")

    def __init__(
        self,
        name: str,
        function_type: FunctionType,
        *,
        io: Attribute,
        compute: Attribute = f32,
        body: Region | None = None,
    ):
        types = {"io": io, "compute": compute}
        super().__init__(
            properties={"sym_name": StringAttr(name), "function_type": function_type, **types},
            regions=[body if body is not None else Region(Block(arg_types=function_type.inputs.data))],
        )

    @classmethod
    def parse(cls, parser: Parser) -> "GraphOp":
        name, inputs, outputs, region, attributes, *_ = parse_func_op_like(parser, reserved_attr_names=cls._RESERVED)
        types = {key: value for key, value in attributes.data.items()} if attributes else {}
        function_type = FunctionType.from_lists(inputs, outputs)
        properties: dict[str, Attribute] = {"sym_name": StringAttr(name), "function_type": function_type, **types}
        return cls.create(properties=properties, regions=[region])

    def print(self, printer: Printer) -> None:
        shown = {name: value for name, value in self.properties.items() if name not in self._RESERVED}
        print_func_op_like(
            printer, self.sym_name, self.function_type, self.body, shown, reserved_attr_names=self._RESERVED
        )

    @property
    def nodes(self) -> Iterator[NodeOp]:
        """The operations but the terminator, in order."""
        return (op for op in self.body.block.ops if isinstance(op, NodeOp))

    @property
    def yielded(self) -> YieldOp:
        """The terminator."""
        terminator = self.body.block.last_op
        assert isinstance(terminator, YieldOp)
        return terminator

    def verify_(self) -> None:
        self._verify_interface()
        if products := [op for op in self.nodes if isinstance(op, MatmulOp)]:
            self._verify_products(products)
        alone = [op for op in self.nodes if isinstance(op, RmsNormOp | SdpaOp)]
        if len(alone) + bool(products) > 1:
            names = _listed(op.name for op in (*alone, *products))
            raise VerifyException(f"expected at most one norm, attention or product, got {names}")
        for op in self.nodes:
            arguments = [operand for operand in op.operands if isinstance(operand, BlockArgument)]
            if len(set(arguments)) < len(arguments):
                raise VerifyException(f"expected {op.name} to read different arguments, got one twice")

    def _verify_interface(self) -> None:
        inputs = tuple(arg.type for arg in self.body.block.args)
        if inputs != self.function_type.inputs.data:
            raise VerifyException(
                f"expected block arguments {_listed(self.function_type.inputs)}, got {_listed(inputs)}"
            )
        *nodes, terminator = self.body.block.ops
        if not isinstance(terminator, YieldOp):
            raise VerifyException("expected the body to end in cudnn.yield")
        if others := [op.name for op in nodes if not isinstance(op, NodeOp)]:
            raise VerifyException(f"expected operations of cudnn only, got {_listed(others)}")
        outputs = tuple(value.type for value in terminator.values)
        if outputs != self.function_type.outputs.data:
            raise VerifyException(f"expected to yield {_listed(self.function_type.outputs)}, got {_listed(outputs)}")
        if not outputs or any(isinstance(value.owner, Block) for value in terminator.values):
            raise VerifyException("expected to yield values that the graph computes, got none or an argument")
        if len(set(terminator.values)) != len(outputs):
            raise VerifyException("expected to yield each value once, got one twice")
        if any(arg.first_use is None for arg in self.body.block.args):
            raise VerifyException("expected every argument to be used, got one that is not")

    def _verify_products(self, products: Sequence[MatmulOp]) -> None:
        if isinstance(self.compute, Float32Type) and any(graph_type(op.lhs).element_type == f32 for op in products):
            raise VerifyException(f"expected products of f32 to be computed in {tf32}, got {self.compute}")
        prologue = producers(products)
        if any(isinstance(op, MatmulOp) for op in prologue):
            raise VerifyException("expected no product to be computed from another, got two in a row")
        if prologue and len(products) > 1:
            raise VerifyException(
                f"expected one product where operations stand in front of it, got {len(products)} products"
            )
        for op in prologue:
            if any(use.operation not in prologue and use.operation not in products for use in op.result.uses):
                raise VerifyException(f"expected {op.name} to be read in front of the product only, got another use")


def producers(ops: Iterable[Operation]) -> set[NodeOp]:
    """All nodes that these operations are computed from, themselves not included."""
    found = set[NodeOp]()
    todo = list(ops)
    while todo:
        for operand in todo.pop().operands:
            if isinstance(operand.owner, NodeOp) and operand.owner not in found:
                found.add(operand.owner)
                todo.append(operand.owner)
    return found


def _listed(items: Iterable[Attribute | str]) -> str:
    return ", ".join(map(str, items)) or "nothing"


@irdl_op_definition
class ExecuteOp(IRDLOperation):
    """Runs a graph on tensors: each is dense memory, in which the graph sees its argument from an offset on.

    Offsets are in elements and are left out where all are 0. An output fills its tensor: its strides say in which
    order. An i64 index serves as an i32 (its low half, as it is stored), which is what cuDNN reads lengths as.

    ```mlir
    cudnn.graph @g0(%x: !cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32>
        attributes {io = f32, compute = f32} {
      %y = cudnn.pointwise relu %x : (!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>)
        -> !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32>
      cudnn.yield %y : !cudnn.tensor<[1, 4, 8], strides [32, 1, 4], f32>
    }
    func.func @main(%x: tensor<6x8xf32>) -> tensor<8x4xf32> {
      %y = cudnn.execute @g0(%x) offsets [16] : (tensor<6x8xf32>) -> tensor<8x4xf32>
      func.return %y : tensor<8x4xf32>
    }
    ```
    """

    name = "cudnn.execute"
    callee = prop_def(FlatSymbolRefAttrConstr)
    offsets_ = opt_prop_def(DenseArrayBase.constr(i64), prop_name="offsets")
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "$callee `(` $inputs `)` (`offsets` $offsets^)? attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(
        self, callee: str, inputs: Sequence[SSAValue], output_types: Sequence[Attribute], offsets: Sequence[int] = ()
    ):
        properties: dict[str, Attribute | None] = {
            "callee": SymbolRefAttr(callee),
            "offsets": DenseArrayBase.from_list(i64, offsets) if any(offsets) else None,
        }
        super().__init__(operands=[inputs], result_types=[output_types], properties=properties)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each input begins, in elements."""
        if self.offsets_ is None:
            return (0,) * len(self.inputs)
        return tuple(int(offset) for offset in self.offsets_.get_values())

    def graph(self) -> GraphOp:
        """The graph that it runs. Raises `VerifyException` if there is none."""
        table = self.parent_op()
        while table is not None and not table.has_trait(SymbolTable):
            table = table.parent_op()
        for op in table.regions[0].block.ops if table is not None else ():
            if isinstance(op, GraphOp) and op.sym_name == self.callee.root_reference:
                return op
        raise VerifyException(f"expected the name of a cudnn.graph, got {self.callee}")

    def verify_(self) -> None:
        if self.parent_op() is None:
            return
        type = self.graph().function_type
        counts = (len(self.inputs), len(self.offsets), len(self.outputs))
        if counts != (expected := (len(type.inputs), len(type.inputs), len(type.outputs))):
            raise VerifyException(f"expected {expected} inputs, offsets and outputs, got {counts}")
        for value, offset, seen in zip(self.inputs, self.offsets, type.inputs, strict=True):
            _verify_input(value, offset, seen)
        for value, seen in zip(self.outputs, type.outputs, strict=True):
            assert isinstance(seen, GraphTensorType)
            whole = tensor_type(value)
            if whole.element_type != seen.element_type or prod(whole.get_shape()) != seen.span or not seen.is_dense:
                raise VerifyException(f"expected an output that {seen} fills, got {whole}")


def item_size(type: Attribute) -> int:
    """Bytes of an element."""
    assert isinstance(type, FixedBitwidthType)
    return type.size


def _verify_input(value: SSAValue, offset: int, seen: Attribute) -> None:
    assert isinstance(seen, GraphTensorType)
    whole = tensor_type(value)
    halves = seen.element_type == i32 and whole.element_type == i64 and seen.span == 1
    if whole.element_type != seen.element_type and not halves:
        raise VerifyException(f"expected elements of {seen.element_type}, got {whole}")
    total = prod(whole.get_shape())
    if offset < 0 or offset + seen.span > total:
        raise VerifyException(f"expected {seen} to lie in the {total} elements of {whole}, got offset {offset}")
    if offset * item_size(whole.element_type) % CUDNN_ALIGNMENT:
        raise VerifyException(
            f"expected an input to start at a multiple of {CUDNN_ALIGNMENT} bytes, got offset {offset}"
        )


CUDNN = Dialect(
    "cudnn",
    [MatmulOp, PointwiseOp, RmsNormOp, ReductionOp, SdpaOp, YieldOp, GraphOp, ExecuteOp],
    [GraphTensorType, PointwiseAttr, ReductionAttr],
)
