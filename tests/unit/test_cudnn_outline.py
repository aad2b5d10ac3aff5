"""Outlining for cuDNN changes no number, loses no operation and makes no cycle, whatever the graph."""

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from graphs import Case, Maker, assert_close, random_graphs
from hypothesis import HealthCheck, given, settings
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.dialects import cudnn, hamkaas
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.verify_dominance import verify_dominance
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
    CudnnOutlinePass(policy, max_nodes, tf32=True).apply(context(), module)
    module.verify()
    verify_dominance(module)
    assert computed(module) == before
    for graph in module.ops:
        if isinstance(graph, cudnn.GraphOp):
            assert sum(not isinstance(op, cudnn.ReductionOp) for op in graph.nodes) <= max_nodes
    return module


def check(case: Case, policy: PolicyName, max_nodes: int = 30) -> ModuleOp:
    """Compares the outlined module with the original."""
    module = outlined(case, policy, max_nodes)
    weights = build_module({"main": case.outputs}).weights
    results = run_function(module, case.inputs, weights, {})
    for result, expected in zip(results, case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)
    return module


def graphs(module: ModuleOp) -> list[cudnn.GraphOp]:
    """The graphs of a module."""
    return [op for op in module.ops if isinstance(op, cudnn.GraphOp)]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs(60), st.sampled_from(POLICIES), st.sampled_from([1, 2, 5, 30]))
def test_random_graph(case: Case, policy: PolicyName, max_nodes: int) -> None:
    check(case, policy, max_nodes)


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


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs(30), st.sampled_from(POLICIES))
def test_what_is_outlined_stays_as_it_is(case: Case, policy: PolicyName) -> None:
    module = outlined(case, policy)
    CudnnDedupPass().apply(context(), module)
    before = str(module)
    CudnnOutlinePass(policy, tf32=True).apply(context(), module)
    CudnnDedupPass().apply(context(), module)
    assert str(module) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(product_graphs(), st.sampled_from(POLICIES), st.sampled_from([2, 5, 30]))
def test_products(case: Case, policy: PolicyName, max_nodes: int) -> None:
    check(case, policy, max_nodes)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("policy", POLICIES)
def test_16_bit_values_are_rounded_less_often(dtype: Any, policy: PolicyName) -> None:
    m = Maker(1)
    x, w, y = m.real(8, 16, dtype=dtype), m.real(24, 16, dtype=dtype), m.real(8, 24, dtype=dtype)
    norm = m.real(24)
    residual = y + (x.relu() @ w.permute(1, 0)).silu() * y
    module = check(m.case(residual.rms_norm(norm), residual, x.relu() @ w.permute(1, 0), tolerance=3e-2), policy)
    assert {str(graph.io) for graph in graphs(module)} == {"f16" if dtype is np.float16 else "bf16"}


@pytest.mark.parametrize("length", [0, 1, 7, 32])
def test_attention(length: int) -> None:
    m = Maker(2)
    keys, values = m.real(32, 2, 16), m.real(32, 2, 16)
    module = check(m.case(m.real(4, 16).attention(keys, values, m.index(length))), "all")
    assert [op.name for op in graphs(module)[0].nodes] == ["cudnn.sdpa"]


def test_a_batch_of_products_reads_slices_in_place() -> None:
    m = Maker(3)
    q, cache = m.real(2, 3, 8), m.real(9, 2, 8)
    module = check(m.case((q @ cache[2:].permute(1, 2, 0)).permute(1, 0, 2).reshape(3, 14)), "lab")
    assert not any(isinstance(op, hamkaas.VIEW_OPS) for op in module.walk())
