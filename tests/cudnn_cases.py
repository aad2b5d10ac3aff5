"""What the tests of cuDNN graphs share: policies, graphs of many products, and a llama2 prefill."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
from graphs import Case, Maker
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.artifact import CudnnGraph
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.frontend import build_module
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.verify_dominance import verify_dominance
from hamkaas.remarks import collect
from hamkaas.universe import context

POLICIES: tuple[PolicyName, ...] = ("lab", "profitable", "all")

KIND_OF = {
    "hamkaas.add": "add",
    "hamkaas.mul": "mul",
    "hamkaas.relu": "relu",
    "hamkaas.silu": "silu",
    "hamkaas.matmul": "matmul",
    "hamkaas.rms_norm": "norm",
    "hamkaas.rms_scale": "norm",
    "hamkaas.attention": "attention",
    "cudnn.matmul": "matmul",
    "cudnn.rmsnorm": "norm",
    "cudnn.sdpa": "attention",
}
"""What an operation computes, on either side of the pass."""


def computed(module: ModuleOp) -> Counter[str]:
    """How often each thing is computed."""
    kinds = (op.kind.data if isinstance(op, cudnn.PointwiseOp) else KIND_OF.get(op.name) for op in module.walk())
    return Counter(str(kind) for kind in kinds if kind is not None)


def outlined(case: Case, policy: PolicyName, max_nodes: int = 30) -> ModuleOp:
    """The outlined module, after all that can be checked without running it."""
    module = build_module({"main": case.outputs}).module
    before = computed(module)
    with collect() as remarks:
        CudnnOutlinePass(policy, max_nodes, tf32=True).apply(context(), module)
    module.verify()
    left = sum(
        op.name in KIND_OF for op in module.walk() if op.dialect_name() == "hamkaas" and op.name != "hamkaas.rms_scale"
    )
    assert left <= len(remarks), "what is left out has a remark each"
    verify_dominance(module)
    assert computed(module) == before
    for graph in module.ops:
        if isinstance(graph, cudnn.GraphOp):
            assert sum(not isinstance(op, cudnn.ReductionOp) for op in graph.nodes) <= max_nodes
    return module


@st.composite
def product_graphs(draw: st.DrawFn, dtype: Any = np.float32) -> Case:
    """2 to 60 nodes, mostly products and what stands around them; values are read often, in diamonds and by views."""
    m = Maker(draw(st.integers(0, 1 << 30)))
    n = draw(st.sampled_from([1, 4, 8, 32]))
    pool = [m.real(n, n, dtype=dtype), m.real(n, n, dtype=dtype), m.real(n, n, dtype=dtype)]
    row, column, one, weight = (
        m.real(1, n, dtype=dtype),
        m.real(n, 1, dtype=dtype),
        m.real(1, 1, dtype=dtype),
        m.real(n, dtype=dtype),
    )

    def value() -> hk.Tensor:
        recent = draw(st.booleans())
        return draw(st.sampled_from(pool[-3:] if recent else pool))

    for _ in range(draw(st.integers(2, 60))):
        x = value()
        match draw(st.integers(0, 10)):
            case 0 | 1:
                y = x @ value() * 0.3
            case 2:
                y = x @ value().permute(1, 0)
            case 3:
                y = x + value()
            case 4:
                y = x * value()
            case 5:
                y = x.relu()
            case 6:
                y = x.silu()
            case 7:
                y = x + draw(st.sampled_from([row, column, one]))
            case 8:
                y = x.rms_norm(weight)
            case 9:
                y = x.permute(1, 0)
            case _:
                y = x.reshape(1, n, n).permute(1, 0, 2).reshape(n, n)
        pool.append(y.rms_norm(weight) if len(pool) % 5 == 0 else y)  # keeps the numbers small
    return m.case(pool[-1], *draw(st.lists(st.sampled_from(pool[3:]), max_size=3)), tolerance=1e-3)


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


def llama2_specs() -> list[CudnnGraph]:
    """The distinct graphs of a prefill of two layers."""
    module, _, _ = lowered(Model(2), policy="profitable")
    return [build_graph(op) for op in module.ops if isinstance(op, cudnn.GraphOp)]
