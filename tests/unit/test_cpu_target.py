"""Every operation and random graphs on the CPU target, against the interpreter."""

from collections.abc import Callable

import numpy as np
import pytest
from graphs import Case, Maker, cases, random_graphs
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    make().check("cpu")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    case.check("cpu")


def test_special_values() -> None:
    m = Maker(0, special=True)
    x, y = m.real(7, 33), m.real(7, 33)
    outputs = (x.relu(), x + y, x * y, x.silu(), x.argmax(), x.sliced_softmax(20), x.reshape(33, 7).permute(1, 0))
    m.case(*outputs).check("cpu")


def test_strided_inputs() -> None:
    m = Maker(1)
    case = m.case(m.real(6, 5) * 2)
    backwards = {"x0": m.rng.standard_normal((5, 12)).astype(np.float32).T[::-2]}
    Case(case.outputs, backwards).check("cpu")
