"""What benchmarks work out from what they measure; devices and clocks are tables here."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cudnn_cases import llama2_specs

from hamkaas import knobs
from hamkaas.artifact import CudnnGraph, CudnnPlan
from hamkaas.models.llama2 import Quantized, Weight
from hamkaas.runtime.cache import DiskCache
from hamkaas.runtime.cudnn_plans import Decision, PlanStore

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
VERSIONS = ("9.19", "1.28")

SECONDS = {"sdpa": 5.0, "rmsnorm": 2.0, "matmul": 1.0}
"""How long a graph is planned, by what it begins with; 3 for others."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Gives a benchmark as a module; each test gets its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module


class Clock:
    """Moves on when it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Planner:
    """Takes the time that the table says; `slower` is what is added for a graph that it has planned before."""

    clock = Clock()
    slower = 0.0

    def __init__(self) -> None:
        self.store = PlanStore(DiskCache(knobs.cache_dir()), VERSIONS, "a device")
        self.seen: set[CudnnGraph] = set()

    def decide(self, graph: CudnnGraph) -> Decision:
        def plan(plans: list[CudnnPlan]) -> Decision:
            self.clock.now += SECONDS.get(graph.nodes[0].kind, 3.0) + self.slower * (graph in self.seen)
            self.seen.add(graph)
            return Decision(plans[0], "the only one", 1.0)

        return self.store.decide(graph, lambda graph: [CudnnPlan(graph, "eng0", 0, b"plan")], plan)

    def close(self) -> None:
        pass


@pytest.fixture
def compile_(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """compile.py with the planner and the clock of the table."""
    module = load("compile")
    monkeypatch.setattr("hamkaas.runtime.cudnn_planner.Planner", Planner)
    monkeypatch.setattr("hamkaas.runtime.cudnn.versions", lambda: VERSIONS)
    monkeypatch.setattr(module, "perf_counter", Planner.clock)
    monkeypatch.setattr(module, "in_new_process", lambda work, *args: work(*args))
    yield module
    Planner.slower = 0.0


def test_planning_each_execution_is_planning_each_structure_so_often(load: Callable[[str], Any]) -> None:
    one, other, *_ = llama2_specs()
    assert load("compile").total({one: 0.5, other: 2.0}, Counter({one: 3, other: 1})) == 3.5


def test_compile_reports_what_is_saved_by_planning_equal_graphs_once(compile_: Any) -> None:
    report = compile_.Report("cpu", None)
    compile_.measure_prefill(compile_.Prompt("260K", 5, 8, "bf16"), 2, report)
    *regions, whole, again, few = report.rows
    assert sum(row["executions"] for row in regions) == whole["executions"] == 40
    assert len(regions) == whole["structures"] == 8
    # queries with keys and values, output, up, gate, down; attention; the first norm; residuals with a norm
    assert whole["without_dedup_planning_seconds"] == 5 * 5 * 1 + 5 * 5 + 2 + 9 * 3
    assert whole["planning_seconds"] == whole["cold_seconds"] == 5 * 1 + 5 + 2 + 3
    assert whole["planning_ratio"] == whole["whole_ratio"] == 5.3
    assert whole["new_process_seconds"] == whole["planned_in_new_process"] == whole["refused"] == 0
    assert again["first_seconds"] == again["again_seconds"] == 1
    assert few["planned_one_by_one"] == 16
    assert few["predicted_seconds"] == few["measured_seconds"] == 2 * 5 + 2 * 5 + 2 + 3 * 3


def test_compile_shows_where_the_prediction_fails(compile_: Any) -> None:
    Planner.slower = 0.25
    report = compile_.Report("cpu", None)
    compile_.measure_prefill(compile_.Prompt("260K", 5, 8, "bf16"), 1, report)
    *_, again, few = report.rows
    assert again["again_seconds"] == again["first_seconds"] + 0.25
    assert few["measured_seconds"] == few["predicted_seconds"] + 8 * 0.25


def test_compile_measures_layers(load: Callable[[str], Any]) -> None:
    compile_ = load("compile")
    report = compile_.Report("cpu", None)
    compile_.measure_decode("260K", "f16", [1, 2], "cpu", report)
    one, two, ratio = report.rows
    for row in (one, two):
        assert row["compiled_in_new_process"] == 0
        assert row["cold_seconds"] > row["warm_seconds"] > 0
    assert ratio["layers"] == "2/1"
    assert ratio["cold_ratio"] == pytest.approx(two["cold_seconds"] / one["cold_seconds"], rel=0.1)


def test_blank_weights_are_those_of_the_model(load: Callable[[str], Any]) -> None:
    shapes = load("shapes")
    config = shapes.SHAPES["260K"]
    for precision in ("f32", "i8"):
        blank, random = shapes.blank_weights(config, precision), shapes.random_weights(config, precision)
        assert list(blank) == list(random)
        for name, weight in random.items():
            assert described(blank[name]) == described(weight)


def described(weight: Weight) -> tuple[Any, ...]:
    """Shapes and types of what a weight consists of."""
    arrays = (weight.values, weight.scales) if isinstance(weight, Quantized) else (weight,)
    return tuple((array.shape, array.dtype) for array in arrays)
