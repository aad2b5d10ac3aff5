"""`compile(cudnn=...)`: who is asked what, with a planner and a runtime that stand in for those of a GPU."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cudnn_cases import CONFIG
from llama_reference import random_weights

import hamkaas as hk
from hamkaas.artifact import Artifact, CudnnGraph, CudnnPlan
from hamkaas.errors import CompileError, TargetError
from hamkaas.models.llama2 import Transformer
from hamkaas.remarks import collect
from hamkaas.runtime import cuda, cudnn_planner
from hamkaas.runtime.cudnn_plans import Decision


class Planner:
    """Takes everything, and counts."""

    opened = closed = 0
    asked: list[CudnnGraph]
    store: Any

    def __init__(self, progress: object = None):
        type(self).opened += 1
        self.store = self
        self.device = "a GPU that is not there"

    def decide(self, graph: CudnnGraph) -> Decision:
        Planner.asked.append(graph)
        return Decision(CudnnPlan(graph, "eng0", 0, b"plan"), "", 5.0)

    def close(self) -> None:
        type(self).closed += 1


class Absent(Planner):
    def __init__(self, progress: object = None):
        raise TargetError("cuDNN does not load: no such file (pip install 'hamkaas[cudnn]')")


class Runtime:
    def __init__(self, artifact: Artifact, weights: Iterable[Any], progress: object = None):
        assert len(list(weights)) == len(artifact.weights)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU on which everything is taken."""
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "driver_available", lambda: None)
    monkeypatch.setattr(cuda, "gpu_name", lambda: "a GPU that is not there")
    monkeypatch.setattr(cuda, "default_arch", lambda: "sm_90")
    monkeypatch.setattr(cuda, "CudaRuntime", Runtime)
    monkeypatch.setattr(cudnn_planner, "Planner", Planner)
    monkeypatch.setattr(hk.api, "own_microseconds", lambda graph, arch, device: 6.0)
    Planner.opened = Planner.closed = 0
    Planner.asked = []


def compiled(**options: Any) -> hk.Model:
    weights = random_weights(CONFIG)
    options = {"weights": "bf16", "activations": "bf16"} | options
    return hk.compile(Transformer(CONFIG, weights, "bfloat16").chunk(8), target="cuda", **options)


@pytest.mark.parametrize("choice", ["auto", True])
def test_what_the_device_takes_goes_to_cudnn(choice: Any) -> None:
    model = compiled(cudnn=choice)
    assert len(model.artifact.plans) == len(set(Planner.asked)) == 8
    assert (Planner.opened, Planner.closed) == (1, 1)
    assert 'plan = "eng0"' in model.ir("partitioned")
    assert "program.execute @c0" in model.ir("program")
    assert "cuDNN graphs" in model.memory_plan


def test_faster_kernels_of_our_own_win_but_not_if_cudnn_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hk.api, "own_microseconds", lambda graph, arch, device: 4.0)
    assert compiled(cudnn="auto").artifact.plans == ()
    assert len(compiled(cudnn=True).artifact.plans) == 8


@pytest.mark.parametrize(
    "options", [{"cudnn": False}, {"activations": "f32"}, {"weights": "f32", "activations": "f32"}]
)
def test_nobody_is_asked_where_nothing_can_go_there(options: dict[str, Any]) -> None:
    assert compiled(**options).artifact.plans == ()
    assert Planner.opened == 0


def test_tf32_is_a_choice() -> None:
    assert compiled(weights="f32", activations="tf32").artifact.plans
    assert {graph.compute for graph in Planner.asked if graph.nodes[0].kind == "matmul"} == {"tf32"}


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_planner, "Planner", Absent)
    with collect() as remarks:
        assert compiled(cudnn="auto").artifact.plans == ()
    assert [str(remark) for remark in remarks if remark.what == "all graphs"] == [
        "cudnn: all graphs: go to our own kernels: cuDNN does not load: no such file (pip install 'hamkaas[cudnn]')"
    ]
    with pytest.raises(TargetError, match=r"^cuDNN does not load: no such file \(pip install 'hamkaas\[cudnn\]'\)$"):
        compiled(cudnn=True)


def test_what_cudnn_had_a_say_in_is_asked_again() -> None:
    compiled(cudnn=True)
    asked = len(Planner.asked)
    compiled(cudnn=True)
    assert len(Planner.asked) == 2 * asked


def test_cudnn_is_demanded_for_the_cpu() -> None:
    with pytest.raises(TargetError, match=r"^cudnn=True is for target 'cuda', got target 'cpu'$"):
        hk.compile(hk.InputTensor("x", np.float32, [4]).relu(), target="cpu", cudnn=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cudnn": "on"}, "expected cudnn to be 'auto', True or False, got 'on'"),
        ({"activations": "i8"}, "expected activations to be 'f32', 'tf32', 'f16' or 'bf16', got 'i8'"),
        ({"weights": "f64"}, "expected weights to be 'f32', 'f16', 'bf16' or 'i8', got 'f64'"),
    ],
)
def test_unknown_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}$"):
        compiled(**options)
