"""Every operation and random graphs on the CUDA target, against the interpreter."""

from collections.abc import Callable

import pytest
from graphs import VECTOR_SHAPES, Case, Maker, cases, narrow, random_graphs
from hypothesis import HealthCheck, given, settings

from hamkaas.schedules import matmul
from hamkaas.schedules.matmul import VectorShape

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    make().check("cuda")


@pytest.mark.parametrize("shape", VECTOR_SHAPES, ids=str)
@pytest.mark.parametrize(
    ("n", "k", "form"),
    [
        (1028, 10, "float32"),
        (1104, 21, "float16"),
        (4096, 9, "bfloat16"),
        (2064, 50, "i8 16"),
        (4096, 34, "i8 32 half"),
        (11008, 18, "i8 64"),
    ],
)
def test_vector_shape(shape: VectorShape, n: int, k: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "vector_shape", lambda *_: shape)
    narrow(n, k, form).check("cuda")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    case.check("cuda")


def test_special_values() -> None:
    m = Maker(0, special=True)
    x, y = m.real(7, 33), m.real(7, 33)
    outputs = (x.relu(), x + y, x * y, x.silu(), x.argmax(), x.sliced_softmax(20), x.reshape(33, 7).permute(1, 0))
    m.case(*outputs).check("cuda")
