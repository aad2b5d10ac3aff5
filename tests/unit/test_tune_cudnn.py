"""Which cuDNN graphs a model is compiled with, as a device decides; the device is a table here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from cudnn_cases import Prefill, llama2_specs, product_graphs
from graphs import Case, assert_close
from hypothesis import HealthCheck, given, settings
from xdsl.dialects.builtin import ModuleOp

from hamkaas.artifact import CudnnGraph, CudnnPlan, Execute, Launch, Space
from hamkaas.codegen.cudnn import build_graph
from hamkaas.codegen.plan import print_plan
from hamkaas.compiler import compile_artifact
from hamkaas.dialects import cudnn
from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.pipeline import CudaOptions, CudnnOptions, run_pipeline
from hamkaas.remarks import collect
from hamkaas.runtime.cudnn_reference import error, evaluate, random_inputs, tolerance
from hamkaas.tune import cudnn as tune
from hamkaas.universe import context


@dataclass
class Decision:
    plan: CudnnPlan | None
    microseconds: float = 10.0


def device(takes: Callable[[CudnnGraph], bool]) -> tuple[Callable[[CudnnGraph], Decision], list[CudnnGraph]]:
    """A device that has plans for some graphs, and those that it was asked about."""
    asked: list[CudnnGraph] = []

    def decide(graph: CudnnGraph) -> Decision:
        asked.append(graph)
        return Decision(CudnnPlan(graph, "eng0_k24=1", 512, graph.label.encode()) if takes(graph) else None)

    return decide, asked


def has(kind: str) -> Callable[[CudnnGraph], bool]:
    return lambda graph: any(node.kind == kind for node in graph.nodes)


def graph_of(prefill: Prefill) -> ModuleOp:
    """Its module at the stage 'graph'."""
    module = prefill.built.module.clone()
    run_pipeline(context(), module, "cuda", until="graph")
    return module


def test_all_graphs_that_have_plans_are_taken() -> None:
    prefill = Prefill(2)
    decide, asked = device(lambda graph: True)
    choice = tune.choose(graph_of(prefill), CudnnOptions(), decide, None)
    assert {plan.graph for plan in choice.plans} == set(asked) == set(llama2_specs())
    assert choice.options.refused == ()
    artifact = compile_artifact(prefill.built, "cuda", "sm_90", CudaOptions(choice.options), choice.plans)
    steps = artifact.programs[0].steps
    executions = [step for step in steps if isinstance(step, Execute)]
    assert len(executions) == 16
    for step in executions:
        assert artifact.plans[step.plan].data.decode() == step.label
        assert step.workspace is not None
        assert step.workspace.space is Space.ARENA
        assert step.workspace.offset + 512 <= artifact.arena_bytes
        assert step.workspace not in step.args
    # what comes behind a plan does not start before it has ended
    behind = [now for before, now in pairwise(steps) if isinstance(before, Execute)]
    assert not any(step.overlap for step in behind if isinstance(step, Launch))
    module = prefill.built.module.clone()
    run_pipeline(context(), module, "cuda", options=CudaOptions(choice.options))
    assert "16 executions of 8 cuDNN graphs" in print_plan(module)


@pytest.mark.parametrize("kind", ["sdpa", "rmsnorm", "silu"])
def test_what_has_no_plan_goes_to_our_kernels(kind: str) -> None:
    prefill = Prefill(2)
    decide, asked = device(lambda graph: not has(kind)(graph))
    choice = tune.choose(graph_of(prefill), CudnnOptions(), decide, None)
    assert {plan.graph for plan in choice.plans} <= set(asked)
    assert not any(has(kind)(plan.graph) for plan in choice.plans)
    assert set(choice.options.refused) == {graph.fingerprint for graph in asked if has(kind)(graph)}
    artifact = compile_artifact(prefill.built, "cuda", "sm_90", CudaOptions(choice.options), choice.plans)
    labels = " ".join(step.label for step in artifact.programs[0].steps if isinstance(step, Launch))
    assert {"sdpa": "attention", "rmsnorm": "rms_norm", "silu": "silu"}[kind] in labels


def test_products_stay_apart_where_the_one_of_all_is_refused() -> None:
    prefill = Prefill(2)
    together = "matmul 8x128 from 64, bfloat16"
    decide, asked = device(lambda graph: graph.label != together)
    choice = tune.choose(graph_of(prefill), CudnnOptions(), decide, None)
    labels = {plan.graph.label for plan in choice.plans}
    assert {"matmul 8x64 from 64, bfloat16", "matmul 8x32 from 64, bfloat16"} <= labels
    assert choice.options.refused == tuple({graph.fingerprint for graph in asked if graph.label == together})


def test_nothing_is_left_where_nothing_is_taken() -> None:
    prefill = Prefill(1)
    choice = tune.choose(graph_of(prefill), CudnnOptions(), device(lambda graph: False)[0], None)
    assert choice.plans == ()
    assert compile_artifact(prefill.built, "cuda", "sm_90", CudaOptions(choice.options), ()) == compile_artifact(
        prefill.built, "cuda", "sm_90"
    )


def test_our_own_kernels_may_be_faster() -> None:
    prefill = Prefill(1)
    with collect() as remarks:
        choice = tune.choose(
            graph_of(prefill),
            CudnnOptions(),
            device(lambda graph: True)[0],
            lambda graph: 9.0 if has("rmsnorm")(graph) else 11.0,
        )
    assert not any(has("rmsnorm")(plan.graph) for plan in choice.plans)
    assert any(has("matmul")(plan.graph) for plan in choice.plans)
    assert any("goes to our own kernels: 9.0 us against 10.0 us of eng0_k24=1" in remark.why for remark in remarks)
    assert {remark.where for remark in remarks} == {"cudnn"}, "passes remark in the run proper, not in trials"


@pytest.mark.parametrize("policy", ["lab", "all"])
def test_a_refusal_is_for_equal_graphs_only(policy: PolicyName) -> None:
    prefill = Prefill(2)
    module, _ = prefill.outlined(policy)
    specs = [build_graph(op) for op in module.ops if isinstance(op, cudnn.GraphOp)]
    refused = next(spec for spec in specs if has("matmul")(spec))
    rest = prefill.built.module.clone()
    run_pipeline(context(), rest, "cuda", until="graph")
    CudnnOutlinePass(policy, refused=(refused.fingerprint,)).apply(context(), rest)
    rest.verify()
    left = {build_graph(op) for op in rest.ops if isinstance(op, cudnn.GraphOp)}
    assert refused not in left
    assert len(left & set(specs)) >= len(specs) - 3  # its neighbours may have folded views of it
    expected = run_function(prefill.built.module, prefill.inputs, prefill.built.weights, {})
    assert_close(run_function(rest, prefill.inputs, prefill.built.weights, {})[0], expected[0], 5e-2)


# The same graph for our own kernels


def check_same(spec: CudnnGraph) -> None:
    """The tensors of a specification give what its reference gives."""
    inputs = random_inputs(spec)
    built = build_module({"main": tune.as_tensors(spec)})
    by_name = {f"t{number}": array for number, array in zip(spec.inputs, inputs, strict=True)}
    module = built.module
    shaped = {
        arg.name_hint: np.asarray(by_name[arg.name_hint], np.int64).reshape(1)
        if by_name[arg.name_hint].dtype == np.int32
        else by_name[arg.name_hint].reshape(arg.type.get_shape())
        for arg in next(op for op in module.ops if op.name == "func.func").body.block.args  # type: ignore[attr-defined]
    }
    results = run_function(module, shaped, built.weights, {})
    for result, wanted, number in zip(results, evaluate(spec, inputs), spec.outputs, strict=True):
        tensor = spec.tensors[number]
        seen = np.lib.stride_tricks.as_strided(
            np.ascontiguousarray(result), tensor.dims, [step * result.itemsize for step in tensor.strides]
        )
        assert error(seen, wanted) <= 2 * tolerance(spec)


@pytest.mark.parametrize("number", range(8))
def test_our_kernels_are_timed_on_the_same_computation(number: int) -> None:
    check_same(llama2_specs()[number])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(product_graphs())
def test_any_graph_can_be_timed(case: Case) -> None:
    module = build_module({"main": case.outputs}).module
    CudnnOutlinePass("all", 8, tf32=True).apply(context(), module)
    for op in module.ops:
        if isinstance(op, cudnn.GraphOp):
            check_same(build_graph(op))
