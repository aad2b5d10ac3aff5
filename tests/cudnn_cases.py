"""What the tests of cuDNN graphs share: policies, graphs of many products, and a llama2 prefill."""

from collections import Counter
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import llama_reference
import ml_dtypes
import numpy as np
from graphs import Case, Maker
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.artifact import CudnnGraph
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Config, Transformer, chunk_inputs
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.hamkaas_convert_activations import HamkaasConvertActivationsPass
from hamkaas.passes.verify_dominance import verify_dominance
from hamkaas.pipeline import CudnnOptions, run_pipeline
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
    return Counter(str(kind) for kind in kinds if kind not in (None, "cast"))  # casts become types


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


CONFIG = Config(64, 96, 1, 4, 2, 40, 32, False)
TOKENS = 8


class Prefill:
    """Prefill of `TOKENS` tokens of a llama in bf16, as a compile sees it: the logits that follow the last one."""

    def __init__(self, layers: int):
        config = replace(CONFIG, num_layers=layers)
        weights = {
            name: array if array.ndim == 1 else array.astype(ml_dtypes.bfloat16)
            for name, array in llama_reference.random_weights(config).items()
        }
        self.built = build_module({"main": Transformer(config, weights, "bfloat16").chunk(TOKENS)})
        HamkaasConvertActivationsPass("bf16").apply(context(), self.built.module)
        tokens = np.arange(TOKENS) * 3 % config.vocab_size
        self.inputs = chunk_inputs(tokens.tolist(), 4, TOKENS) | {"row": np.array([TOKENS - 1])}

    def outlined(self, policy: PolicyName = "profitable") -> tuple[ModuleOp, list[str]]:
        """The module after all that puts it into cuDNN graphs, and the remarks of the deduplication."""
        module = self.built.module.clone()
        run_pipeline(context(), module, "cuda", until="graph")
        with collect() as remarks:
            for one in CudnnOptions(policy).passes:
                one.apply(context(), module)
        module.verify()
        return module, [str(one) for one in remarks if one.where == CudnnDedupPass.name]


def llama2_specs() -> list[CudnnGraph]:
    """The distinct graphs of a prefill of two layers."""
    module, _ = Prefill(2).outlined()
    return [build_graph(op) for op in module.ops if isinstance(op, cudnn.GraphOp)]
