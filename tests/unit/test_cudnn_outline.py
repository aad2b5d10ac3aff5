"""Outlining for cuDNN changes no number, loses no operation and makes no cycle, whatever the graph."""

from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from cudnn_cases import POLICIES, outlined, product_graphs
from graphs import Case, Maker, assert_close, random_graphs
from hypothesis import HealthCheck, given, settings
from xdsl.dialects.builtin import ModuleOp

from hamkaas.dialects import cudnn, hamkaas
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.universe import context


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
