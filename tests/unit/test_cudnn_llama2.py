"""A llama2 prefill graph: as many cuDNN graphs as there are distinct structures, however many layers."""

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphs import assert_close

import hamkaas as hk
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.remarks import collect
from hamkaas.universe import context

TOKENS, DIM, HEADS, KV_HEADS, HIDDEN, VOCABULARY, POSITIONS = 8, 32, 4, 2, 48, 40, 16
HEAD = DIM // HEADS
BF16: Any = ml_dtypes.bfloat16


class Model:
    """Prefill of `TOKENS` tokens in bf16: the logits that follow the last one."""

    def __init__(self, layers: int):
        self.rng = np.random.default_rng(0)
        self.length = hk.InputTensor("length", "int64", [TOKENS])
        self.rotation = hk.InputTensor("rotation", BF16, [1, TOKENS * HEAD // 2, 2])
        x: hk.Tensor = hk.InputTensor("x", BF16, [TOKENS, DIM])
        for _ in range(layers):
            x = self.layer(x)
        self.logits = self.linear(self.norm(x[TOKENS - 1 :]), VOCABULARY)
        self.inputs = {
            "x": self.rng.standard_normal((TOKENS, DIM)).astype(BF16),
            "length": np.arange(1, TOKENS + 1, dtype=np.int64),
            "rotation": self.rng.standard_normal((1, TOKENS * HEAD // 2, 2)).astype(BF16),
        }

    def weight(self, *shape: int) -> hk.Tensor:
        return hk.ConstantTensor((self.rng.standard_normal(shape) * shape[-1] ** -0.5).astype(BF16))

    def linear(self, x: hk.Tensor, size: int) -> hk.Tensor:
        return x @ self.weight(size, x.shape[-1]).permute(1, 0)

    def norm(self, x: hk.Tensor) -> hk.Tensor:
        return x.rms_norm(self.weight(DIM))

    def cache(self, rows: hk.Tensor) -> hk.Tensor:
        empty = hk.ConstantTensor(np.zeros((POSITIONS, KV_HEADS, HEAD), BF16))
        return empty.replace(rows.reshape(TOKENS, KV_HEADS, HEAD), 0, TOKENS)

    def layer(self, x: hk.Tensor) -> hk.Tensor:
        h = self.norm(x)
        query = self.rotate(self.linear(h, DIM), HEADS)
        keys = self.cache(self.rotate(self.linear(h, KV_HEADS * HEAD), KV_HEADS))
        values = self.cache(self.linear(h, KV_HEADS * HEAD))
        attended = query.attention(keys, values, self.length).reshape(TOKENS, DIM)
        x = x + self.linear(attended, DIM)
        h = self.norm(x)
        return x + self.linear(self.linear(h, HIDDEN).silu() * self.linear(h, HIDDEN), DIM)

    def rotate(self, x: hk.Tensor, heads: int) -> hk.Tensor:
        """Turns the pairs of each head; [tokens, heads, head size]."""
        pairs = x.reshape(TOKENS, heads, HEAD).permute(1, 0, 2).reshape(heads, TOKENS * HEAD // 2, 2)
        turned = pairs.complex_hadamard_product(self.rotation)
        return turned.reshape(heads, TOKENS, HEAD).permute(1, 0, 2)


def lowered(model: Model, **options: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """The module of a model after outlining and deduplication, its weights, and the remarks of the latter."""
    built = build_module({"main": model.logits})
    CudnnOutlinePass(**options).apply(context(), built.module)
    with collect() as remarks:
        CudnnDedupPass().apply(context(), built.module)
    built.module.verify()
    return built.module, built.weights, [str(one) for one in remarks]


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
