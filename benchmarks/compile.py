#!/usr/bin/env python3
"""Compile time: what more layers cost, and what it saves that equal cuDNN graphs are planned once.

    compile.py --decode 7B --layers 32 64 --weights f16
    compile.py --prefill 7B --tokens 512 --plans 1 --repeat-layers 2 --json compile.json

Each line is JSON. With `--decode`: seconds from the graphs of `Transformer.decode` to code that is ready to run,
without weights: with an empty cache folder (cold), again in this process (warm), and in a new one, which should compile
nothing. The ratio is that of the last number of layers to the first.

With `--prefill` (on a GPU): seconds until cuDNN graphs are found and each distinct one has a plan that was built,
checked and timed, and then in a new process, which should plan nothing. Our own kernels for the same are not timed.
Planning each execution for itself would take as long as planning each structure, as often as it is executed: that is
`without_dedup_planning_seconds`; graphs that cuDNN refuses are left out of it. Two more lines say whether this holds:
the structure that was planned fastest is planned again, and all executions of `--repeat-layers` layers really are
planned, each as if it were the first.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, ParamSpec, TypeVar, get_args

from report import Report
from shapes import CACHES, PRECISIONS, SHAPES, blank_weights
from timing import compile_timed, empty_cache
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas import knobs
from hamkaas.api import choose_target
from hamkaas.artifact import CudnnGraph
from hamkaas.codegen.cudnn import build_graph
from hamkaas.compiler import without_garbage_collection
from hamkaas.dialects.cudnn import ExecuteOp, GraphOp
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Transformer
from hamkaas.passes.hamkaas_convert_activations import HamkaasConvertActivationsPass
from hamkaas.passes.hamkaas_convert_weights import Precision
from hamkaas.pipeline import CudnnOptions, run_pipeline
from hamkaas.tune import cudnn as tune
from hamkaas.universe import context

P = ParamSpec("P")
T = TypeVar("T")


def main() -> int:
    """Measures all that is asked for; 1 if something failed."""
    options = parse()
    report = Report(options.target, options.json)
    for shape, weights in product(options.decode, options.weights):
        with report.attempt(shape=shape, weights=weights):
            measure_decode(shape, weights, options.layers or [SHAPES[shape].num_layers], options.target, report)
    for shape, tokens, activations in product(options.prefill, options.tokens, options.activations):
        for layers in options.layers or [SHAPES[shape].num_layers]:
            case = Prompt(shape, layers, tokens, activations)
            with report.attempt(shape=shape, layers=layers, tokens=tokens, activations=activations):
                measure_prefill(case, options.repeat_layers, report)
    return int(report.failed)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures compile time.")
    parser.add_argument("--decode", choices=list(SHAPES), nargs="+", default=[])
    parser.add_argument("--prefill", choices=list(SHAPES), nargs="+", default=[])
    parser.add_argument("--layers", type=int, nargs="+", help="instead of those of the shape")
    parser.add_argument("--weights", choices=get_args(Precision), nargs="+", default=["f16"], help="(decode)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512], help="of the prompt (prefill)")
    parser.add_argument("--activations", choices=list(PRECISIONS), nargs="+", default=["bf16"], help="(prefill)")
    parser.add_argument("--plans", type=int, default=0, metavar="N", help="try N plans of a graph, 0 for all (prefill)")
    parser.add_argument("--repeat-layers", type=int, default=2, metavar="N", help="0 for none (prefill)")
    parser.add_argument("--target", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    options = parser.parse_args()
    if options.target == "cpu" and options.prefill:
        parser.error("--prefill is for a GPU, got --target cpu")
    try:
        choose_target(options.target)
    except hk.TargetError as error:
        parser.error(str(error))
    os.environ[knobs.CUDNN_PLANS.name] = str(options.plans)
    return options


def in_new_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it gives in a process that has done nothing before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


# a step of decoding


def measure_decode(shape: str, weights: str, layers: list[int], target: str, report: Report) -> None:
    """A row for each number of layers, and the ratio of the last to the first."""
    rows: list[dict[str, float]] = []
    for count in layers:
        with empty_cache():
            cold, _ = compile_decode(shape, weights, count, target)
            warm, _ = compile_decode(shape, weights, count, target)
            new, compiled = in_new_process(compile_decode, shape, weights, count, target)
        rows.append({"cold_seconds": cold, "warm_seconds": warm, "new_process_seconds": new})
        row = {name: round(seconds, 2) for name, seconds in rows[-1].items()}
        case = {"shape": shape, "layers": count, "weights": weights, "target": target}
        report.add(case | row | {"compiled_in_new_process": compiled})
    if len(layers) > 1:
        ratios = {name.replace("seconds", "ratio"): round(rows[-1][name] / rows[0][name], 2) for name in rows[0]}
        report.add({"shape": shape, "layers": f"{layers[-1]}/{layers[0]}", "weights": weights} | ratios)


def compile_decode(shape: str, weights: str, layers: int, target: Any) -> tuple[float, int]:
    """Seconds to compile a step of decoding, and how many things had to be compiled, or timed, as no cache had them."""
    config = replace(SHAPES[shape], num_layers=layers)
    graphs = Transformer(config, blank_weights(config, weights), CACHES["f16"]).decode()
    with hk.compile(
        hk.InputTensor("x", "float32", [1]).relu(), target=target
    ):  # loads what compiles, starts the device
        made = compile_timed(graphs, load=False, target=target)
    return made.compile_seconds, sum(not step.startswith("uploading") for step in made.slow_steps)


# the cuDNN graphs of a prompt


@dataclass(frozen=True)
class Prompt:
    """What is compiled."""

    shape: str
    layers: int
    tokens: int
    activations: str

    def module(self) -> ModuleOp:
        """Its graph."""
        config = replace(SHAPES[self.shape], num_layers=self.layers)
        precision = PRECISIONS[self.activations]
        graph = Transformer(config, blank_weights(config, precision), CACHES[precision]).chunk(self.tokens)
        module = build_module({"main": graph}).module
        HamkaasConvertActivationsPass(self.activations).apply(context(), module)  # type: ignore[arg-type]
        return module

    def executions(self, options: CudnnOptions) -> Counter[CudnnGraph]:
        """How often each of its cuDNN graphs is executed."""
        module = self.module()
        run_pipeline(context(), module, "cuda", until="graph")
        for one in options.passes:
            one.apply(context(), module)
        graphs = {op.sym_name.data: build_graph(op) for op in module.body.block.ops if isinstance(op, GraphOp)}
        return Counter(graphs[op.callee.root_reference.data] for op in module.walk() if isinstance(op, ExecuteOp))


def total(seconds: Mapping[CudnnGraph, float], executions: Counter[CudnnGraph]) -> float:
    """Seconds to plan each execution for itself."""
    return sum(count * seconds[graph] for graph, count in executions.items())


def measure_prefill(prompt: Prompt, repeat_layers: int, report: Report) -> None:
    """A row for each structure, one for all of them, and those that check the arithmetic."""
    with planner() as plans:
        with empty_cache():
            plans.forget(knobs.cache_dir())
            options, whole, seconds = plans.choose(prompt)
            new, planned = in_new_process(choose_again, prompt)
        executions = prompt.executions(options)
        if not executions:
            raise ValueError(f"expected cuDNN graphs, got none; {len(options.refused)} were refused")
        for graph, count in executions.items():
            report.add({"region": graph.label, "executions": count, "planning_seconds": round(seconds[graph], 3)})
        once, each = total(seconds, Counter(executions.keys())), total(seconds, executions)
        case = {"shape": prompt.shape, "layers": prompt.layers, "tokens": prompt.tokens}
        case |= {"activations": prompt.activations, "plans": knobs.CUDNN_PLANS.get()}
        result = {
            "executions": executions.total(),
            "structures": len(executions),
            "refused": len(options.refused),
            "cold_seconds": round(whole, 2),
            "planning_seconds": round(once, 2),
            "new_process_seconds": round(new, 2),
            "planned_in_new_process": planned,
            "without_dedup_planning_seconds": round(each, 2),
            "planning_ratio": round(each / once, 1),
            "whole_ratio": round((whole + each - once) / whole, 1),
        }
        report.add(case | result)
        fastest = min(executions, key=lambda graph: seconds[graph])
        times = {"first_seconds": round(seconds[fastest], 3), "again_seconds": round(plans.plan(fastest), 3)}
        report.add({"region": fastest.label} | times)
        if repeat_layers:
            few = replace(prompt, layers=repeat_layers).executions(options)
            result = {"planned_one_by_one": few.total(), "predicted_seconds": round(total(seconds, few), 2)}
            measured = sum(plans.plan(graph) for graph in few.elements())
            report.add(case | {"layers": repeat_layers} | result | {"measured_seconds": round(measured, 2)})


def choose_again(prompt: Prompt) -> tuple[float, int]:
    """Seconds until all graphs have their plans, and how many of these were not on disk."""
    with planner() as plans:
        plans.forget(knobs.cache_dir())
        _, seconds, _ = plans.choose(prompt)
        return seconds, plans.made


@contextmanager
def planner() -> "Generator[Plans]":
    """A planner, once cuDNN has loaded what it needs for its first plans."""
    from hamkaas.runtime.cudnn_planner import Planner  # loads the driver

    one = Planner()
    try:
        plans = Plans(one)
        for graph in list(Prompt("260K", 1, 16, "bf16").executions(CudnnOptions()))[:2]:  # a norm and a product
            plans.plan(graph)
        yield plans
    finally:
        one.close()


class Plans:
    """A planner that can forget."""

    def __init__(self, planner: Any):
        self._planner = planner

    def forget(self, folder: Path | None = None) -> None:
        """From now on only what is in this folder is known."""
        from hamkaas.runtime.cache import DiskCache
        from hamkaas.runtime.cudnn import versions
        from hamkaas.runtime.cudnn_plans import PlanStore

        self._planner.store = PlanStore(DiskCache(folder), versions(), self._planner.store.device)

    @property
    def made(self) -> int:
        """How many graphs were planned since."""
        return self._planner.store.made

    def plan(self, graph: CudnnGraph) -> float:
        """Seconds to plan a graph of which nothing is known."""
        self.forget()
        started = perf_counter()
        self._planner.decide(graph)
        return perf_counter() - started

    def choose(self, prompt: Prompt) -> tuple[CudnnOptions, float, dict[CudnnGraph, float]]:
        """What goes to cuDNN, seconds until it is known, and those of each structure."""
        seconds: dict[CudnnGraph, float] = {}

        def decide(graph: CudnnGraph) -> tune.Decision:
            begun = perf_counter()
            decision = self._planner.decide(graph)
            seconds.setdefault(graph, perf_counter() - begun)
            return decision

        module = prompt.module()
        with without_garbage_collection():
            started = perf_counter()
            run_pipeline(context(), module, "cuda", until="graph")
            choice = tune.choose(module, CudnnOptions(tf32=prompt.activations == "tf32"), decide, None)
            return choice.options, perf_counter() - started, seconds


if __name__ == "__main__":
    sys.exit(main())
