"""A llama2 prefill graph: as many cuDNN graphs as there are distinct structures, however many layers."""

from collections import Counter

import pytest
from cudnn_cases import Model, lowered
from graphs import assert_close

from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function

STRUCTURES = {
    "rmsnorm 8x32": "the norm of the input of the first layer: every other one has a product in front of it",
    "matmul 8x32 from 32": "queries",
    "matmul 8x16 from 32": "keys and values: two products of one structure",
    "matmul add sum_of_squares 8x32 from 32": "output of the attention, onto the residual; sums for the next norm",
    "matmul 8x48 from 32": "up projection",
    "matmul silu mul 8x48 from 32": "gate projection, times the up projection",
    "matmul add sum_of_squares 8x32 from 48": "down projection, onto the residual; sums for the next layer's norm",
    "matmul 8x32 from 48": "down projection of the last layer: no norm of all rows follows, so the addition stays",
    "rmsnorm 1x32": "the norm of the last row",
    "matmul 1x40 from 32": "the logits of the last row",
}
"""The distinct structures of the prefill graph, and what they are."""


def described(graph: cudnn.GraphOp) -> str:
    """What a graph computes, in the words of `STRUCTURES`."""
    spec = build_graph(graph)
    _, rows, columns = spec.tensors[spec.outputs[0]].dims
    inner = "".join(f" from {spec.tensors[node.inputs[0]].dims[2]}" for node in spec.nodes if node.kind == "matmul")
    return f"{' '.join(node.kind for node in spec.nodes)} {rows}x{columns}{inner}"


@pytest.mark.parametrize("layers", [2, 32])
def test_graphs_are_as_many_as_structures(layers: int) -> None:
    module, _, remarks = lowered(Model(layers), policy="profitable")
    graphs = [op for op in module.ops if isinstance(op, cudnn.GraphOp)]
    assert sorted(map(described, graphs)) == sorted(STRUCTURES)
    executions = Counter(op.callee.root_reference.data for op in module.walk() if isinstance(op, cudnn.ExecuteOp))
    # per layer: queries, keys, values, output, up, gate, down; then the first and the last norm, and the logits
    assert executions.total() == 7 * layers + 3
    assert remarks == [f"cudnn-dedup: cudnn.graph: {len(STRUCTURES)} of {7 * layers + 3} are distinct"]


@pytest.mark.parametrize("policy", ["lab", "profitable", "all"])
def test_the_outlined_model_gives_the_same_logits(policy: str) -> None:
    model = Model(2)
    built = build_module({"main": model.logits})
    expected = run_function(built.module, model.inputs, built.weights, {})
    module, weights, _ = lowered(model, policy=policy)
    result = run_function(module, model.inputs, weights, {})
    assert_close(result[0], expected[0], 5e-2)  # bf16 is rounded in other places
