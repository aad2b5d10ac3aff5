"""`cudnn.graph` to the plain data that the runtime builds plans from; needs no cuDNN."""

from xdsl.ir import Attribute, SSAValue

from hamkaas.artifact import CudnnGraph, CudnnNode, CudnnTensor
from hamkaas.dialects import cudnn
from hamkaas.dialects.cudnn_types import graph_type

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32", "tf32": "tf32"}
"""Element types by the names that a specification has for them."""


def build_graph(graph: cudnn.GraphOp) -> CudnnGraph:
    """The specification of a graph: a walk over its body, with values numbered as they come."""
    number: dict[SSAValue, int] = {}
    for value in (*graph.body.block.args, *(op.result for op in graph.nodes)):
        number[value] = len(number)
    return CudnnGraph(
        io=_dtype(graph.io),
        compute=_dtype(graph.compute),
        tensors=tuple(_tensor(value) for value in number),
        inputs=tuple(number[arg] for arg in graph.body.block.args),
        outputs=tuple(number[value] for value in graph.yielded.values),
        nodes=tuple(_node(op, number) for op in graph.nodes),
    )


def _dtype(type: Attribute) -> str:
    return DTYPES[str(type)]


def _tensor(value: SSAValue) -> CudnnTensor:
    type = graph_type(value)
    return CudnnTensor(type.dims, type.strides, _dtype(type.element_type))


def _node(op: cudnn.NodeOp, number: dict[SSAValue, int]) -> CudnnNode:
    value = 0.0
    match op:
        case cudnn.PointwiseOp() | cudnn.ReductionOp():
            kind = str(op.kind.data)
        case cudnn.RmsNormOp():
            kind, value = "rmsnorm", op.eps.value.data
        case cudnn.SdpaOp():
            kind, value = "sdpa", op.scale.value.data
        case _:
            kind = "matmul"
    return CudnnNode(kind, tuple(number[operand] for operand in op.operands), number[op.result], value)
