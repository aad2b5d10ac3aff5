"""What only a device can tell: which cuDNN graphs of a module pay, and with which plans.

A trial outlines the graphs; the device decides about each. Those that it refuses are not outlined in the next trial, in
which others may look different for it, until it takes all that are left. Equal graphs are asked about once, and what
was decided is on disk (`runtime.cudnn_plans`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from hamkaas import knobs
from hamkaas.artifact import CudnnGraph, CudnnPlan, CudnnTensor
from hamkaas.codegen.cudnn import build_graph
from hamkaas.compiler import compile_artifact
from hamkaas.dialects import hamkaas
from hamkaas.dialects.cudnn import GraphOp
from hamkaas.frontend import ConstantTensor, InputTensor, Tensor, build_module
from hamkaas.pipeline import CudnnOptions
from hamkaas.remarks import collect, remark
from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.schedules.elements import shape_of
from hamkaas.tune.digest import compiler_digest
from hamkaas.universe import context
from hamkaas.weights import bind_weights

COLD_BYTES = 128 << 20
"""Our own kernels are timed on so many bytes of inputs, as plans are: a model's weights are in no cache."""

MOST_COPIES = 20
"""Copies of a graph that are timed together, at most."""


class Decision(Protocol):
    """What a planner says about a graph: `hamkaas.runtime.cudnn_plans.Decision`."""

    @property
    def plan(self) -> CudnnPlan | None:
        """The plan, if there is one."""
        ...

    @property
    def microseconds(self) -> float:
        """Its time."""
        ...


@dataclass(frozen=True)
class Choice:
    """What goes to cuDNN, and how it runs there."""

    options: CudnnOptions
    plans: tuple[CudnnPlan, ...]


def choose(
    module: ModuleOp,
    options: CudnnOptions,
    decide: Callable[[CudnnGraph], Decision],
    own_microseconds: Callable[[CudnnGraph], float] | None,
) -> Choice:
    """The graphs that a device takes, and their plans.

    `decide` finds the plan of a graph. With `own_microseconds`, the time of our own kernels for the same, a graph must
    be faster than these. The module is at the stage 'graph', and stays as it is.
    """
    if not _may_gain(module):
        return Choice(options, ())
    while True:
        trial = module.clone()
        with collect():  # what a trial remarks, the run proper remarks too
            for one in options.passes:
                one.apply(context(), trial)
        specs = [build_graph(op) for op in trial.body.block.ops if isinstance(op, GraphOp)]
        plans = {spec: _plan_if_worth_it(spec, decide(spec), own_microseconds) for spec in specs}
        if None not in plans.values():
            taken = tuple(plan for plan in plans.values() if plan is not None)
            named = tuple(f"{plan.graph.fingerprint}:{plan.name}:{plan.workspace}" for plan in taken)
            return Choice(replace(options, plans=named), taken)
        refused = tuple(spec.fingerprint for spec, plan in plans.items() if plan is None)
        assert not set(refused) <= set(options.refused), "a graph that was refused is made again"
        options = replace(options, refused=(*options.refused, *refused))


def _may_gain(module: ModuleOp) -> bool:
    """Whether there is an operation on several rows that cuDNN may be good at."""

    def has_rows(op: Operation) -> bool:
        match op:
            case hamkaas.MatmulOp() | hamkaas.RmsNormOp():
                return prod(shape_of(op.result)[:-1]) > 1
            case hamkaas.AttentionOp():
                return len(shape_of(op.result)) == 3
            case _:
                return False

    return any(map(has_rows, module.walk()))


def _plan_if_worth_it(
    spec: CudnnGraph, decision: Decision, own_microseconds: Callable[[CudnnGraph], float] | None
) -> CudnnPlan | None:
    if decision.plan is None or own_microseconds is None:
        return decision.plan
    if (own := own_microseconds(spec)) < decision.microseconds:
        times = f"{own:.1f} us against {decision.microseconds:.1f} us of {decision.plan.name}"
        remark("cudnn", f"graph {spec.fingerprint[:8]} ({spec.label})", f"goes to our own kernels: {times}")
        return None
    return decision.plan


# What our own kernels take for the same


def own_microseconds(spec: CudnnGraph, arch: str, device: str) -> float:
    """The time of a graph with kernels of our own on the first GPU, measured once for each version of the compiler.

    `arch` and `device` tell GPUs apart.
    """
    disk = DiskCache(knobs.cache_dir())
    key = CacheKey.of("kernel-time", graph=spec.fingerprint, compiler=compiler_digest(), device=device)
    if (known := disk.get(key)) is not None:
        return float(known)
    microseconds = _measure(spec, arch)
    disk.put(key, str(microseconds).encode(), f"{spec.label}: {microseconds:.1f} us with our own kernels")
    return microseconds


def _measure(spec: CudnnGraph, arch: str) -> float:
    # Only code that runs on a device may import the runtime of one
    from hamkaas.runtime.cuda import CudaRuntime
    from hamkaas.runtime.cudnn_reference import random_inputs

    size = sum(spec.tensors[number].nbytes for number in spec.inputs)
    copies = max(1, min(MOST_COPIES, -(-COLD_BYTES // size)))
    built = build_module({"main": [output for copy in range(copies) for output in as_tensors(spec, f"copy{copy}_")]})
    artifact = compile_artifact(built, "cuda", arch)
    runtime = CudaRuntime(artifact, bind_weights(artifact, built.weights))
    try:
        arrays = dict(zip(spec.inputs, random_inputs(spec), strict=True))
        by_name = {_input_name(number): arrays[number] for number in spec.inputs}
        inputs = [by_name[one.name.partition("_")[2]] for one in artifact.programs[0].inputs]
        shaped = [
            np.asarray(array, one.numpy_dtype).reshape(one.shape)
            for array, one in zip(inputs, artifact.programs[0].inputs, strict=True)
        ]
        runtime.run(0, shaped)
        return min(runtime.replay(0, 2) for _ in range(3)) * 1e6 / copies
    finally:
        runtime.close()


def as_tensors(spec: CudnnGraph, prefix: str = "") -> list[Tensor]:
    """The outputs of a graph as tensors of the frontend, over inputs named `prefix`t0, t1, ... by their numbers.

    Inputs and outputs lie in memory as those of the graph do; what is in between is float32.
    """
    values: dict[int, Tensor] = {}
    for number in spec.inputs:
        values[number] = _input(spec.tensors[number], prefix + _input_name(number))
    for node in spec.nodes:
        x, *others = [values[number] for number in node.inputs]
        match node.kind, others:
            case "matmul", [w]:
                batch = max(x.shape[0], w.shape[0])
                y = _repeated(x, batch) @ _repeated(w, batch)
            case "add" | "mul", [other]:
                a, b = (x, other) if x.shape == spec.tensors[node.output].dims else (other, x)
                a, b = a.cast("float32"), b.cast("float32")
                y = a + b if node.kind == "add" else a * b
            case "relu", []:
                y = x.relu()
            case "silu", []:
                y = x.cast("float32").silu()
            case "cast", []:
                y = x
            case "rmsnorm", [w]:
                y = x.cast("float32").rms_norm(w.reshape(w.shape[-1]), node.number)
            case "sum_of_squares", []:
                wide = x.cast("float32")
                ones = np.ones((x.shape[0], x.shape[-1], 1), np.float32)
                y = (wide * wide) @ ones
            case "sdpa", [keys, cached, length, *_]:
                order = (1, 0, 2)  # [heads, queries, d] and back; the same memory
                q, k, v = (t.permute(*order) for t in (x, keys, cached))
                y = q.attention(k, v, length, node.number).permute(*order)
            case _:
                raise AssertionError(f"{node.kind} of {len(node.inputs)} operands")
        values[node.output] = y.cast(spec.tensors[node.output].dtype)
    return [values[number].permute(*_memory_order(spec.tensors[number])) for number in spec.outputs]


def _input_name(number: int) -> str:
    return f"t{number}"


def _input(tensor: CudnnTensor, name: str) -> Tensor:
    """An input whose memory, seen through a permute, is the tensor; gaps between rows are left out."""
    if tensor.dtype == "int32":
        return InputTensor(name, "int64", [1])
    axes = _memory_order(tensor)
    dense = InputTensor(name, tensor.dtype, [tensor.dims[axis] for axis in axes])
    return dense.permute(*[axes.index(axis) for axis in range(len(axes))])


def _memory_order(tensor: CudnnTensor) -> list[int]:
    """The axes, the one with the longest steps first."""
    return sorted(range(len(tensor.dims)), key=lambda axis: (-tensor.strides[axis], axis))


def _repeated(x: Tensor, batch: int) -> Tensor:
    """A batch of one, as often as it is wanted."""
    return x if x.shape[0] == batch else x.gather(ConstantTensor(np.zeros(batch, np.int64)))
