"""Every operation and random graphs on the CUDA target, with all that cuDNN takes given to it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cudnn_cases import product_graphs
from graphs import Case, cases, random_graphs
from hypothesis import HealthCheck, given, settings

import hamkaas as hk
from hamkaas import api
from hamkaas.artifact import Execute
from hamkaas.errors import TargetError
from hamkaas.models.llama2 import ModelFeed, build_graphs, load_checkpoint
from hamkaas.pipeline import CudnnOptions
from hamkaas.runtime.cudnn import versions

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "cudnn")]

TF32 = 1e-3
"""Relative to the largest number, where products of f32 may be computed as tf32."""


@pytest.fixture(scope="module")
def cudnn() -> None:
    """Skips only where cuDNN is not installed."""
    try:
        versions()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that cuDNN takes goes there, and the first right plan is good enough."""
    monkeypatch.setattr(api, "CudnnOptions", partial(CudnnOptions, policy="all"))
    monkeypatch.setenv("HAMKAAS_CUDNN_PLANS", "1")


def check(case: Case) -> None:
    """Compares what is computed from inputs that tf32 can say, so that only what is in between is rounded."""
    inputs = {name: as_tf32(array) for name, array in case.inputs.items()}
    exact = replace(case, inputs=inputs, tolerance=max(case.tolerance, TF32))
    exact.check("cuda", cudnn=True, activations="tf32")


def as_tf32(array: np.ndarray) -> np.ndarray:
    """Numbers of float32 with 10 bits of mantissa; others as they are."""
    if array.dtype != np.float32:
        return array
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in cases()])
def test_operation(make: Callable[[], Case]) -> None:
    check(make())


@pytest.mark.usefixtures("everything")
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_graphs())
def test_random_graph(case: Case) -> None:
    check(case)


@pytest.mark.usefixtures("everything")
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(product_graphs(ml_dtypes.bfloat16))
def test_random_products_in_16_bits(case: Case) -> None:
    replace(case, tolerance=5e-2).check("cuda", cudnn=True)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_prefill_in_16_bits(models: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMKAAS_CUDNN_PLANS", "2")
    checkpoint = load_checkpoint(models / "stories260K.bin")
    reference = np.load(models / "stories260K_once_n64_logits.npz")
    tokens, cache = reference["tokens"].tolist(), {"bf16": "bfloat16", "f16": "float16"}[dtype]
    graphs = build_graphs(checkpoint.config, checkpoint.weights, 64, cache)
    built: list[str] = []
    for cudnn in (True, "auto", False):
        options = {"weights": dtype, "activations": dtype, "cudnn": cudnn}
        with hk.compile(graphs, target="cuda", progress=built.append, **options) as model:  # type: ignore[arg-type]
            executions = [step for step in model.artifact.programs[1].steps if isinstance(step, Execute)]
            assert bool(executions) >= (cudnn is True)
            logits = ModelFeed(model, checkpoint.config)(tokens, 0)
        scale = np.abs(reference["logits"][-1]).max()
        assert np.abs(logits - reference["logits"][-1]).max() < {"bf16": 5e-2, "f16": 1e-2}[dtype] * scale
    made = [what for what in built if what.startswith("compiling a cuDNN graph")]
    assert len(made) == len(set(made)) > 0  # each once, though it was compiled three times
