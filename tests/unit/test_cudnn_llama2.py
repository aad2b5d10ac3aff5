"""A llama2 prefill graph: as many cuDNN graphs as there are distinct structures, however many layers."""

from collections import Counter

import pytest
from cudnn_cases import TOKENS, Prefill
from graphs import assert_close

from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.interpreters.hamkaas import run_function

STRUCTURES = {
    "rmsnorm 8x64": "the norm of the embeddings, in front of the first layer",
    "matmul 8x128 from 64": "queries, keys and values: products of one value, with their weights side by side",
    "matmul 8x64 from 64": "the output of the attention",
    "sdpa 16 of 8x16": "attention over the cache",
    "add rmsnorm 8x64": "a residual, which is kept, and the norm that follows: before the gate, and in the next layer",
    "matmul 8x96 from 64": "up projection",
    "matmul silu mul 8x96 from 64": "gate projection, times the up projection",
    "matmul 8x64 from 96": "down projection; the last residual stays apart, since only one row of it is normed",
}
"""The distinct structures of the prefill graph, and what they are."""


def described(graph: cudnn.GraphOp) -> str:
    """What a graph computes, in the words of `STRUCTURES`."""
    spec = build_graph(graph)
    kinds = " ".join(node.kind for node in spec.nodes)
    _, rows, columns = spec.tensors[spec.outputs[0]].dims
    if kinds == "sdpa":
        assert rows == TOKENS
        return f"sdpa {columns} of {rows}x{columns}"
    inner = "".join(f" from {spec.tensors[node.inputs[0]].dims[2]}" for node in spec.nodes if node.kind == "matmul")
    return f"{kinds} {rows}x{columns}{inner}"


@pytest.mark.parametrize("layers", [2, 32])
def test_graphs_are_as_many_as_structures(layers: int) -> None:
    module, remarks = Prefill(layers).outlined()
    graphs = [op for op in module.ops if isinstance(op, cudnn.GraphOp)]
    assert sorted(map(described, graphs)) == sorted(STRUCTURES)
    executions = Counter(op.callee.root_reference.data for op in module.walk() if isinstance(op, cudnn.ExecuteOp))
    # per layer: queries with keys and values, attention, output, norm, up, gate, down, norm; but for the last norm
    assert executions.total() == 8 * layers
    assert remarks == [f"cudnn-dedup: cudnn.graph: {len(STRUCTURES)} of {8 * layers} are distinct"]


@pytest.mark.parametrize("policy", ["lab", "profitable", "all"])
def test_the_outlined_model_gives_the_same_logits(policy: str) -> None:
    prefill = Prefill(2)
    weights = prefill.built.weights
    expected = run_function(prefill.built.module, prefill.inputs, weights, {})
    module, _ = prefill.outlined(policy)  # type: ignore[arg-type]
    result = run_function(module, prefill.inputs, weights, {})
    assert_close(result[0], expected[0], 5e-2)  # bf16 is rounded in other places
