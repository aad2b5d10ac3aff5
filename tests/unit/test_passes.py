"""Passes on tensors keep the meaning: the interpreter before and after each of them."""

from collections.abc import Callable

import pytest
from graphs import Case, assert_close, cases, random_graphs
from hypothesis import HealthCheck, given, settings
from xdsl.passes import ModulePass

from hamkaas.frontend import build_module
from hamkaas.interpreters.hamkaas import run_function
from hamkaas.passes import ALL_PASSES
from hamkaas.pipeline import run_pass, stages
from hamkaas.universe import context

PIPELINE: list[ModulePass] = [one for stage in stages("cpu")[:2] for one in stage.passes]
"""What leads to the last stage that the interpreter runs."""

OTHERS = [
    one()
    for one in ALL_PASSES
    if one.name.startswith("hamkaas-") and one.name != "hamkaas-to-kernel" and one not in map(type, PIPELINE)
]
"""Passes on tensors that no compile runs by itself."""


def check(case: Case) -> None:
    """Runs the passes one after the other, the optional ones first, and the interpreter after each."""
    built = build_module({"main": case.outputs})
    module = built.module.clone()
    expected = case.expected()
    for one in [*OTHERS, *PIPELINE]:
        run_pass(context(), module, one)
        module.verify()
        for result, wanted in zip(run_function(module, case.inputs, built.weights, {}), expected, strict=True):
            assert_close(result, wanted, case.tolerance)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    check(make())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    check(case)
