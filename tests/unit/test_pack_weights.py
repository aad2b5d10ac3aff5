"""Weights that are packed: the same numbers, one product for several, parts that follow each other in memory."""

from dataclasses import replace

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from graphs import Case, Maker, assert_close
from hypothesis import HealthCheck, given, settings
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.artifact import ALIGNMENT, Artifact, CudnnGraph, CudnnPlan, Execute, Space
from hamkaas.codegen.cudnn import build_graph
from hamkaas.codegen.plan import build_artifact
from hamkaas.dialects import cudnn, hamkaas
from hamkaas.frontend import BuiltModule, build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.hamkaas_pack_weights import HamkaasPackWeightsPass
from hamkaas.pipeline import CudaOptions, CudnnOptions, run_pipeline
from hamkaas.universe import context


def heads(x: hk.Tensor, *widths: int, seed: int = 0) -> list[hk.Tensor]:
    """Products of one value by weights of these many rows, read by what cuDNN does not have."""
    rng = np.random.default_rng(seed)
    inner = x.shape[1]
    names = [f"w{seed}.{number}" for number in range(len(widths))]
    weights = [rng.standard_normal((width, inner)).astype(ml_dtypes.bfloat16) for width in widths]
    products = [x @ hk.ConstantTensor(w, name).permute(1, 0) for w, name in zip(weights, names, strict=True)]
    return [y.sliced_softmax(y.shape[1] // 2) for y in products]


def packed(built: BuiltModule, refused: tuple[str, ...] = ()) -> ModuleOp:
    """The module with what cuDNN takes, and weights packed."""
    module = built.module.clone()
    CudnnOutlinePass("profitable").apply(context(), module)
    HamkaasPackWeightsPass(refused).apply(context(), module)
    module.verify()
    return module


def graphs(module: ModuleOp) -> list[CudnnGraph]:
    return [build_graph(op) for op in module.body.block.ops if isinstance(op, cudnn.GraphOp)]


@st.composite
def families(draw: st.DrawFn) -> Case:
    """Products of a few values by weights of several sizes, and what reads them."""
    m = Maker(draw(st.integers(0, 1 << 30)))
    inner = draw(st.sampled_from([8, 16, 32]))
    whole = m.real(8, inner, dtype=ml_dtypes.bfloat16)
    values = [whole, whole[:4], whole[4:], m.real(draw(st.sampled_from([1, 2])), inner, dtype=ml_dtypes.bfloat16)]
    names = iter(range(100))
    weights = [
        hk.ConstantTensor(m.rng.standard_normal((rows, inner)).astype(ml_dtypes.bfloat16), f"w{next(names)}")
        for rows in draw(st.lists(st.sampled_from([8, 16, 24, 32, 33]), min_size=1, max_size=5))
    ]
    outputs: list[hk.Tensor] = []
    for _ in range(draw(st.integers(1, 8))):
        x = draw(st.sampled_from(values))
        y = x @ draw(st.sampled_from(weights)).permute(1, 0)
        match draw(st.integers(0, 7)):
            case 0:
                y = y.sliced_softmax(y.shape[1] // 2)
            case 1 if y.shape[1] % 2 == 0:
                pairs = y.reshape(y.shape[0], y.shape[1] // 2, 2)
                y = pairs.complex_hadamard_product(pairs)
            case 2:
                y = y.gather(hk.ConstantTensor(np.array([y.shape[0] - 1])))
            case 3:
                y = y.silu() * y
            case 4:
                y = y.relu().sliced_softmax(y.shape[1] // 2)
            case 5:
                y = y.permute(1, 0).sliced_softmax(y.shape[0])
            case 6:
                y = y.cast("float16").sliced_softmax(y.shape[1] // 2)
            case _:
                pass
        outputs.append(y)
    return m.case(*outputs, tolerance=3e-2)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(families())
def test_numbers_stay_the_same(case: Case) -> None:
    built = build_module({"main": case.outputs})
    results = run_function(packed(built), case.inputs, built.weights, {})
    for result, expected in zip(results, case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)


def test_a_family_is_one_product_unless_that_was_refused() -> None:
    built = build_module({"main": heads(hk.InputTensor("x", "bfloat16", [4, 16]), 16, 8, 24)})
    module = packed(built)
    (graph,) = graphs(module)
    assert graph.label == "matmul 4x48 from 16, bfloat16"
    apart = packed(built, (graph.fingerprint,))
    assert [one.label.split()[1] for one in graphs(apart)] == ["4x16", "4x8", "4x24"]
    assert not any(isinstance(op, hamkaas.PackedWeightOp) for op in apart.walk())


def artifact_of(*outputs: hk.Tensor) -> Artifact:
    """The artifact of a graph for CUDA, with plans that do not exist."""
    module = build_module({"main": outputs}).module.clone()
    run_pipeline(context(), module, "cuda", options=CudaOptions(CudnnOptions()))
    specs = [build_graph(op) for op in module.body.block.ops if isinstance(op, cudnn.GraphOp)]
    return build_artifact(module, "cuda", "sm_90", "", {}, [CudnnPlan(spec, "eng0", 0, b"") for spec in specs])


def test_parts_follow_each_other_in_memory() -> None:
    x, y = hk.InputTensor("x", "bfloat16", [4, 16]), hk.InputTensor("y", "bfloat16", [4, 16])
    pairs = zip(heads(x, 16, 8, 24, seed=1), heads(y, 8, 32, 40, seed=2), strict=True)  # declared in turn
    artifact = artifact_of(*(one for pair in pairs for one in pair))
    names = [spec.name for spec in artifact.weights]
    assert names == ["w1.0", "w1.1", "w1.2", "w2.0", "w2.1", "w2.2"]
    assert all(spec.nbytes % ALIGNMENT == 0 for spec in artifact.weights)
    executions = [step for step in artifact.programs[0].steps if isinstance(step, Execute)]
    weights = [ref for step in executions for ref in step.args if ref.space == Space.WEIGHT]
    assert [(names[ref.index], ref.offset) for ref in weights] == [("w1.0", 0), ("w2.0", 0)]
    for step, width in zip(executions, (48, 80), strict=True):
        assert artifact.plans[step.plan].graph.argument_bytes[1] == 16 * width * 2


def test_a_part_is_still_a_weight() -> None:
    m = Maker(3)
    x, one = m.real(4, 16, dtype=ml_dtypes.bfloat16), m.real(16, dtype=ml_dtypes.bfloat16)
    rng = np.random.default_rng(4)
    v, w = (hk.ConstantTensor(rng.standard_normal((16, 16)).astype(ml_dtypes.bfloat16), name) for name in "vw")
    outputs = [(x @ weight.permute(1, 0)).sliced_softmax(8) for weight in (v, w)]
    case = replace(m.case(*outputs, one @ w.permute(1, 0)), tolerance=3e-2)
    built = build_module({"main": case.outputs})
    module = packed(built)
    read = [op.symbol.root_reference.data for op in module.walk() if isinstance(op, hamkaas.GetOp) and op.result.uses]
    assert sorted(read) == ["v_w", "w"]
    for result, expected in zip(run_function(module, case.inputs, built.weights, {}), case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)


@pytest.mark.parametrize("rows", [1, 4])
def test_one_row_is_left_to_our_kernels(rows: int) -> None:
    built = build_module({"main": heads(hk.InputTensor("x", "bfloat16", [rows, 16]), 16, 8)})
    assert len(graphs(packed(built))) == (rows > 1)


def test_a_name_that_is_taken_is_not_given_again() -> None:
    x = hk.InputTensor("x", "bfloat16", [4, 16])
    other = hk.ConstantTensor(np.ones(8, np.float32), "w0.0_w0.1")
    module = packed(build_module({"main": [*heads(x, 16, 8), other + 1.0]}))
    (weight,) = (op for op in module.body.block.ops if isinstance(op, hamkaas.PackedWeightOp))
    assert weight.sym_name.data == "w0.0_w0.1_"
