"""Compares random graphs on a target with the interpreter; also a program: `python tests/differential.py --help`.

How far a result may be off follows from the graph itself. Operations that round once (`EXACT`) must give the same bits
on every target and in every grouping. The others sum in any order, or compute functions to within an ulp or two: the
interpreter runs a few times more with noise of that size on what goes in and comes out of these operations, and what
its results then vary by is what a target's may differ by. Where the noise decides (a tie, a sum at a threshold), every
outcome that occurs is right.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from graphs import runs_of
from random_graphs import Array, Generator, RandomGraph
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.codegen.plan import build_artifact
from hamkaas.dialects import hamkaas
from hamkaas.errors import HamkaasError, RuntimeFault
from hamkaas.frontend import BuiltModule, build_module
from hamkaas.interpreters import hamkaas as interpreter
from hamkaas.interpreters.program import run_program
from hamkaas.passes.hamkaas_convert_activations import HamkaasConvertActivationsPass
from hamkaas.passes.hamkaas_convert_weights import HamkaasConvertWeightsPass
from hamkaas.pipeline import CudaOptions, CudnnOptions, run_pipeline
from hamkaas.universe import context
from hamkaas.weights import bind_weights

EXACT = (
    hamkaas.AddOp,
    hamkaas.MulOp,
    hamkaas.ComplexMulOp,
    hamkaas.ReluOp,
    hamkaas.CastOp,
    hamkaas.DequantizeOp,
    hamkaas.ReshapeOp,
    hamkaas.PermuteOp,
    hamkaas.SliceOp,
    hamkaas.ReplaceSliceOp,
    hamkaas.GatherOp,
    hamkaas.ArgmaxOp,
    hamkaas.ConstantOp,
)
"""Operations of which every target gives the same bits as numpy."""

RUNS = 2
"""Runs of each graph in a row: what a state holds shows in the second one."""

NOISE = 2.0**-21
"""Relative, of what goes into an inexact operation and comes out: a few ulp of f32."""

WEIGHT_NOISE = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "i8": 2.0**-7}
"""Relative to the largest number of a row: what a precision of weights may cost."""

ACTIVATION_NOISE = {"f32": 0.0, "tf32": 2.0**-10, "f16": 2.0**-10, "bf16": 2.0**-7}

MARGIN = 6.0
"""How often the variation of a few noisy runs a difference may be."""


@dataclass(frozen=True)
class Options:
    """How a model is compiled."""

    target: str = "cpu"
    """cpu, cuda, kernels (what is made for cuda, run by the kernel interpreter), or groups (regions and groups, run by
    the interpreter)."""
    weights: Any = "f32"
    activations: Any = "f32"
    cudnn: Any = False
    schedule: Any = "graph"
    arch: str = "sm_90"


@dataclass
class Mismatch(Exception):
    """A graph whose results differ, or that does not compile or run."""

    seed: int
    what: str


# reference


@contextmanager
def noise(rng: np.random.Generator | None, options: Options) -> Iterator[None]:
    """Inside, inexact operations of the interpreter get noise from `rng`."""
    if rng is None:
        yield
        return
    activation = ACTIVATION_NOISE[options.activations]

    def shaken(array: Array, relative: float = NOISE) -> Array:
        if array.dtype.kind not in "fV" or not relative:
            return array
        return array * (1 + relative * rng.choice((-1.0, 1.0), array.shape))

    def with_noise(op_type: type, meaning: Callable[..., Any]) -> Callable[..., Any]:
        def run(op: Any, *operands: Array) -> Any:
            if op_type is hamkaas.SampleOp and not operands[1][0] > 0:
                return meaning(op, *operands)
            rounds = op_type in (hamkaas.MatmulOp, hamkaas.AttentionOp)
            inputs = [shaken(shaken(operand), activation if rounds else 0.0) for operand in operands]
            result = np.asarray(meaning(op, *inputs))
            if op_type is hamkaas.AttentionOp and rng.random() < 0.5:  # which of the two it is, is not defined
                result = np.where(np.isinf(result), np.nan, result)
            return shaken(shaken(result), activation if rounds else 0.0)

        return run

    with pytest.MonkeyPatch.context() as patch:
        noisy = {op: f if op in EXACT else with_noise(op, f) for op, f in interpreter.MEANING.items()}
        patch.setattr(interpreter, "MEANING", noisy)
        yield


def shaken_weights(weights: Mapping[str, Array], rng: np.random.Generator | None, options: Options) -> dict[str, Array]:
    """Weights with the noise of their precision: of matrices of f32 only, which are all that is converted."""
    relative = WEIGHT_NOISE[options.weights]
    if rng is None or not relative:
        return dict(weights)
    result: dict[str, Array] = {}
    for name, array in weights.items():
        if array.dtype == np.float32 and array.ndim == 2:
            finite = np.where(np.isfinite(array), np.abs(array), 0).max(axis=-1, keepdims=True)
            array = (array + relative * finite * rng.uniform(-1, 1, array.shape)).astype(np.float32)
        result[name] = array
    return result


def reference(
    built: BuiltModule, name: str, graph: RandomGraph, options: Options, rng: np.random.Generator | None = None
) -> list[list[Array]]:
    """The results of each run. Raises `RuntimeFault` where an index is wrong."""
    states: dict[str, Array] = {}
    weights = shaken_weights(built.weights, rng, options)
    with noise(rng, options), np.errstate(all="ignore"):
        return [list(interpreter.run_function(built.module, graph.inputs, weights, states, name)) for _ in range(RUNS)]


@dataclass
class Expected:
    """What a graph may give: the results without noise, and those of some runs with it."""

    exact: list[list[Array]]
    varied: list[list[list[Array]]] = field(default_factory=list[list[list[Array]]])

    def difference(self, results: Sequence[Sequence[Array]]) -> str | None:
        """The first difference that noise does not explain."""
        for run, (got, want) in enumerate(zip(results, self.exact, strict=True)):
            for number, (x, y) in enumerate(zip(got, want, strict=True)):
                others = [varied[run][number] for varied in self.varied]
                if (why := difference(np.asarray(x), y, others)) is not None:
                    return f"run {run}, output {number}: {why}"
        return None


def difference(got: Array, want: Array, others: Sequence[Array]) -> str | None:
    """Why `got` is not `want`, nor as near as the results with noise are; None if it is."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"expected {want.dtype} {want.shape}, got {got.dtype} {got.shape}"
    if want.dtype.kind == "i":
        wrong = got != want
        for other in others:
            wrong &= got != other
        if len({other.tobytes() for other in (want, *others)}) > 2:
            return None  # the noise decides
    else:
        x, y, *rest = (array.astype(np.float64) for array in (got, want, *others))
        wrong = np.ones(y.shape, np.bool_)
        for other in (y, *rest):
            wrong &= ~((x == other) | (np.isnan(x) & np.isnan(other)))
        finite = np.isfinite([y, *rest])
        if rest:
            with np.errstate(invalid="ignore"):
                spread = np.where(finite.all(axis=0), np.max([np.abs(other - y) for other in rest], axis=0), 0)
                bound = MARGIN * np.maximum(spread, 0.1 * spread.max(initial=0))
                wrong &= ~(finite.all(axis=0) & (np.abs(x - y) <= bound))
        wrong &= finite.all(axis=0) | ~finite.any(axis=0)  # else the noise decides whether it is finite
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{int(wrong.sum())} of {wrong.size} differ, the first at {place}: expected {want[place]}, got {got[place]}"


# targets


class Batch:
    """Graphs of some seeds as one model."""

    def __init__(self, seeds: Sequence[int], options: Options, most_ops: int = 12):
        self.options = options
        self.graphs: dict[str, RandomGraph] = {}
        self.seed_of: dict[str, int] = {}
        self.expected: dict[str, Expected] = {}
        for seed in seeds:
            self._add(seed, Generator(seed, most_ops).graph())
        self.built = build_module(self.outputs) if self.graphs else None

    @property
    def outputs(self) -> dict[str, list[hk.Tensor]]:
        """By graph."""
        return {name: graph.outputs for name, graph in self.graphs.items()}

    def _add(self, seed: int, graph: RandomGraph) -> None:
        name = f"graph{seed}"
        built = build_module({name: graph.outputs})
        matrices = [array for array in built.weights.values() if array.dtype == np.float32 and array.ndim == 2]
        if self.options.weights == "i8" and not all(np.isfinite(array).all() for array in matrices):
            return  # refused, since a group of int8 has no infinity
        try:
            expected = Expected(reference(built, name, graph, self.options))
        except RuntimeFault:
            return  # an index that is computed is outside of its tensor
        self.graphs[name], self.seed_of[name], self.expected[name] = graph, seed, expected

    def run(self) -> int:
        """Compiles and runs all; gives how many graphs there were. Raises `Mismatch`."""
        if not self.graphs:
            return 0
        try:
            run = {"kernels": self._run_kernels, "groups": self._run_groups}.get(self.options.target, self._run_model)
            results = run()
        except (HamkaasError, AssertionError, KeyError, ValueError, TypeError, RuntimeError) as error:
            if len(self.graphs) > 1:
                raise
            raise Mismatch(next(iter(self.seed_of.values())), f"{type(error).__name__}: {error}") from error
        for name, result in results.items():
            self._compare(name, result)
        return len(results)

    def _compare(self, name: str, results: list[list[Array]]) -> None:
        expected, graph, seed = self.expected[name], self.graphs[name], self.seed_of[name]
        if expected.difference(results) is None:
            return
        assert self.built is not None
        for runs in (6, 60):  # few are enough nearly always
            try:
                expected.varied += [
                    reference(self.built, name, graph, self.options, np.random.default_rng((seed, runs, number)))
                    for number in range(runs)
                ]
            except RuntimeFault:
                return  # the noise decides whether an index is right
            if (why := expected.difference(results)) is None:
                return
        raise Mismatch(seed, f"{why}\n{' '.join(graph.ops)}")

    def _run_model(self) -> dict[str, list[list[Array]]]:
        o = self.options
        results: dict[str, list[list[Array]]] = {}
        with hk.compile(
            self.outputs,
            target=o.target,  # pyright: ignore[reportArgumentType]
            weights=o.weights,
            activations=o.activations,
            cudnn=o.cudnn if o.target == "cuda" else "auto",
            schedule=o.schedule if o.target == "cuda" else "auto",
        ) as model:
            for name, graph in self.graphs.items():
                inputs = {spec.name: graph.inputs[spec.name] for spec in model.graphs[name].inputs}
                results[name] = [[np.array(x) for x in model.evaluate(inputs, name)] for _ in range(RUNS)]
        return results

    def _converted(self) -> ModuleOp:
        assert self.built is not None
        module = self.built.module.clone()
        HamkaasConvertWeightsPass(self.options.weights).apply(context(), module)
        HamkaasConvertActivationsPass(self.options.activations).apply(context(), module)
        return module

    def _run_groups(self) -> dict[str, list[list[Array]]]:
        """Regions for cuDNN, of all that it may compute, and groups, by what they mean."""
        assert self.built is not None
        o, module = self.options, self._converted()
        cudnn = CudnnOptions(policy=o.cudnn, tf32=True) if o.cudnn else None
        run_pipeline(context(), module, "cuda", "partitioned", options=CudaOptions(cudnn))
        module.verify()
        weights, results = bound_weights(module, self.built.weights), dict[str, list[list[Array]]]()
        for name, graph in self.graphs.items():
            states: dict[str, Array] = {}
            run = partial(interpreter.run_function, module, graph.inputs, weights, states, name)
            results[name] = [list(run()) for _ in range(RUNS)]
        return results

    def _run_kernels(self) -> dict[str, list[list[Array]]]:
        assert self.built is not None
        o, module = self.options, self._converted()
        with runs_of(2):
            run_pipeline(context(), module, "cuda", options=CudaOptions(schedule=o.schedule), arch=o.arch)
        module.verify()
        weights = bound_weights(module, self.built.weights)
        results: dict[str, list[list[Array]]] = {}
        for name, graph in self.graphs.items():
            states: dict[str, Array] = {}
            results[name] = [list(run_program(module, graph.inputs, weights, states, name)) for _ in range(RUNS)]
        return results


def bound_weights(module: ModuleOp, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of a module's weights, converted."""
    weights = [op.clone() for op in module.body.block.ops if isinstance(op, hamkaas.WeightOp)]
    artifact = build_artifact(ModuleOp(weights), "cuda", "", "", {})
    return {spec.name: array for spec, array in zip(artifact.weights, bind_weights(artifact, arrays), strict=True)}


def run(seeds: Sequence[int], options: Options, batch: int = 32) -> Iterator[int | Mismatch]:
    """Runs the graphs of some seeds, many as one model; yields how many ran, or what was wrong with one."""
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        try:
            yield Batch(some, options).run()
        except Exception:  # one by one, to find all that are wrong
            for seed in some:
                try:
                    yield Batch([seed], options).run()
                except Mismatch as mismatch:
                    yield mismatch


VARIANTS: tuple[Options, ...] = (
    Options("cpu"),
    Options("kernels"),
    Options("cpu", weights="i8"),
    Options("kernels", weights="i8"),
    Options("cpu", weights="f16", activations="f16"),
    Options("kernels", weights="bf16", activations="bf16"),
    Options("cpu", weights="bf16"),
    Options("kernels", weights="f16", activations="f16", arch="sm_80"),
    Options("kernels", schedule="persistent"),
    Options("groups", cudnn="all"),
    Options("groups", cudnn="profitable", weights="bf16", activations="bf16"),
)
"""What is run without a GPU, in turn."""

GPU_VARIANTS: tuple[Options, ...] = (
    Options("cuda"),
    Options("cuda", cudnn="auto"),
    Options("cuda", weights="bf16", activations="bf16", cudnn=True),
    Options("cuda", activations="tf32", cudnn=True),
    Options("cuda", weights="f16", activations="f16", cudnn="auto"),
    Options("cuda", weights="i8"),
    Options("cuda", schedule="persistent"),
    Options("cuda", weights="f16", schedule="auto"),
)
"""What is run on a GPU, in turn."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--batch", type=int, default=32, help="graphs of a model")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, and not on the CPU and the kernel interpreter")
    parser.add_argument("--only", type=int, help="number of a variant")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after as many")
    arguments = parser.parse_args()
    variants = GPU_VARIANTS if arguments.gpu else VARIANTS
    start, total, wrong = time.monotonic(), Counter[Options](), 0
    for number, first in enumerate(range(arguments.seed, arguments.seed + arguments.count, arguments.batch)):
        options = variants[(number if arguments.only is None else arguments.only) % len(variants)]
        for result in run(range(first, first + arguments.batch), options, arguments.batch):
            if isinstance(result, Mismatch):
                wrong += 1
                print(f"seed {result.seed} {options}: {result.what}", flush=True)
            else:
                total[options] += result
        if time.monotonic() - start > arguments.seconds:
            break
    for options, count in total.items():
        print(f"{count:7} graphs {options}")
    print(f"{sum(total.values())} graphs, {wrong} wrong, {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
