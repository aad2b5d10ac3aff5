"""Every operation and random graphs on the CUDA target, against the interpreter."""

from collections.abc import Callable

import pytest
from graphs import Case, Maker, cases, random_graphs
from hypothesis import HealthCheck, given, settings

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    make().check("cuda")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    case.check("cuda")


def test_special_values() -> None:
    m = Maker(0, special=True)
    x, y = m.real(7, 33), m.real(7, 33)
    outputs = (x.relu(), x + y, x * y, x.silu(), x.argmax(), x.sliced_softmax(20), x.reshape(33, 7).permute(1, 0))
    m.case(*outputs).check("cuda")
