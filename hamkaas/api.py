"""Compile graphs and run them: `compile` and `Model`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from hamkaas import knobs
from hamkaas.artifact import Artifact, CudnnGraph, InputCheck, Program, SpanCheck, TensorSpec
from hamkaas.codegen.plan import print_plan
from hamkaas.compiled import Compiled, recall
from hamkaas.compiler import compile_artifact, compile_module, without_garbage_collection
from hamkaas.errors import CompileError, HamkaasError, InputError, TargetError
from hamkaas.frontend import BuiltModule, Tensor, build_module
from hamkaas.passes.hamkaas_convert_activations import Activations, HamkaasConvertActivationsPass
from hamkaas.passes.hamkaas_convert_weights import HamkaasConvertWeightsPass, Precision
from hamkaas.pipeline import RULES, CudaOptions, CudnnOptions, Replay, run_pipeline
from hamkaas.remarks import remark
from hamkaas.tune.cudnn import Choice, Decision, choose, own_microseconds
from hamkaas.tune.schedule import choose_schedule
from hamkaas.tune.shapes import choose_shapes
from hamkaas.universe import context
from hamkaas.weights import bind_weights

Target: TypeAlias = Literal["cpu", "cuda"]
Graphs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor | Sequence[Tensor]]
Cudnn: TypeAlias = Literal["auto"] | bool
"""Whether graphs go to cuDNN."""

Schedule: TypeAlias = Literal["auto", "graph", "persistent"]
"""How launches follow each other on CUDA."""

Progress: TypeAlias = Callable[[str], None]
"""Told what is being done when it takes long."""

MAIN = "main"
"""The name of a graph that was given without one."""


class Runtime(Protocol):
    """What runs an artifact: `hamkaas.runtime.cpu.CpuRuntime` or `hamkaas.runtime.cuda.CudaRuntime`."""

    def run(self, program: int, inputs: Sequence[Any], times: int = 1) -> list[Any]:
        """Runs one program on inputs of the right shapes and types, `times` times in a row; gives the last outputs."""
        ...

    def bandwidth(self, program: int) -> float | None:
        """See `Graph.bandwidth`."""
        ...

    def reset(self) -> None:
        """Zeroes the states."""
        ...

    def close(self) -> None:
        """Frees everything; may be called twice."""
        ...


def compile(
    graphs: Graphs,
    target: Target | None = None,
    *,
    weights: Precision = "f32",
    activations: Activations = "f32",
    cudnn: Cudnn = "auto",
    schedule: Schedule = "auto",
    progress: Progress | None = None,
) -> "Model":
    """Compiles one or several graphs into a model.

    `graphs` is an output tensor, several of them, or a mapping from names to either: named graphs share the weights
    and states that they have in common (one token and a chunk of tokens of one language model, say).
    `target` is "cpu" or "cuda"; None takes cuda if a driver answers, else cpu. `progress` is told of slow steps.
    `weights` is the precision of float32 matrices in products: "f32" as they are, "f16", "bf16", or "i8" with a scale
    for each 32 neighbours; sums are float32 with all of them.
    `activations` is what the left side of a product with several rows may be rounded to: "f16" or "bf16", where it
    meets weights of that type; "tf32" (10 bits of mantissa), if cuDNN computes the product; "f32": nothing is rounded.
    `cudnn`: "auto" gives those parts of a graph to cuDNN that it computes faster than our own kernels, as measured on
    the device; True all that are known to gain; False none. With "auto", a machine without cuDNN does without.
    `schedule` is how launches follow each other on CUDA: "graph" makes each a node of a graph; "persistent" makes those
    that can steps of one kernel, whose blocks stay on the device and wait for each other there; "auto" takes what is
    faster, as measured on the device. Before sm_90 all are the same.

    Raises `GraphError` where the graphs do not fit together, `TargetError` where the target is not to be had here, and
    `CompileError` where the compiler fails.
    """
    named = graphs if isinstance(graphs, Mapping) else {MAIN: graphs}
    target = choose_target(target)
    with without_garbage_collection():
        built, compiled = _generate(named, target, weights, activations, cudnn, schedule, progress)
    runtime = _load(compiled.artifact, bind_weights(compiled.artifact, built.weights), progress)
    return Model(built, compiled, runtime, [isinstance(g, Tensor) for g in named.values()])


def _generate(
    named: Mapping[str, Tensor | Sequence[Tensor]],
    target: Target,
    weights: Precision,
    activations: Activations,
    cudnn: Cudnn,
    schedule: Schedule,
    progress: Progress | None,
) -> tuple[BuiltModule, Compiled]:
    """The module of the graphs, and its code."""
    built = build_module(named)
    _check_choice("weights", weights, get_args(Precision))
    _check_choice("activations", activations, get_args(Activations))
    _check_choice("cudnn", cudnn, ("auto", True, False))
    _check_choice("schedule", schedule, get_args(Schedule))
    HamkaasConvertWeightsPass(weights).apply(context(), built.module)
    HamkaasConvertActivationsPass(activations).apply(context(), built.module)
    if target == "cpu":
        if cudnn is True:
            raise TargetError("cudnn=True is for target 'cuda', got target 'cpu'")
        if schedule == "persistent":
            raise TargetError(f"schedule={schedule!r} is for target 'cuda', got target 'cpu'")
        return built, recall(built.module, {"target": target}, lambda: Compiled(compile_artifact(built, target), RULES))
    from hamkaas.runtime.cuda import gpu_name  # see _load

    tf32 = activations == "tf32"
    asked = {"target": target, "device": gpu_name(), "cudnn": str(cudnn), "tf32": str(tf32), "schedule": schedule}
    return built, recall(built.module, asked, lambda: _generate_cuda(built, tf32, cudnn, schedule, progress))


def _generate_cuda(
    built: BuiltModule, tf32: bool, cudnn: Cudnn, schedule: Schedule, progress: Progress | None
) -> Compiled:
    """The code of a module for the first GPU, which is asked what is best."""
    from hamkaas.runtime.cuda import default_arch  # see _load

    arch, module, way = default_arch(), built.module.clone(), Replay(built.module)
    run_pipeline(context(), module, "cuda", until="graph", arch=arch, replay=way)
    choice = _ask_cudnn(module, cudnn, tf32, arch, progress) if cudnn else None
    had_none = choice is not None and not choice.plans and not choice.options.refused
    options = CudaOptions(
        cudnn=None if choice is None or had_none else choice.options,
        schedule="graph" if schedule == "auto" else schedule,
    )
    run_pipeline(context(), module, "cuda", "partitioned", options=options, arch=arch, after="graph", replay=way)
    if knobs.TUNE.get():
        options = replace(options, shapes=choose_shapes(module, arch, progress))
        if schedule == "auto":
            options = replace(options, schedule=choose_schedule(module, arch, options, progress))
    plans = () if choice is None else choice.plans
    artifact = compile_module(module, "cuda", arch, options, plans, after="partitioned", replay=way)
    return Compiled(artifact, options, depends_on_cudnn=bool(cudnn) and not had_none)


def _check_choice(what: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise CompileError(f"expected {what} to be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, got {value!r}")


def _ask_cudnn(module: ModuleOp, cudnn: Cudnn, tf32: bool, arch: str, progress: Progress | None) -> Choice | None:
    """What of a module goes to cuDNN on the first GPU; None where cuDNN is absent and was not demanded."""
    from hamkaas.runtime.cudnn_planner import Planner  # see _load

    with ExitStack() as stack:
        planner: Planner | None = None

        def ask() -> Planner:
            """Started at the first graph: most modules have none."""
            nonlocal planner
            if planner is None:
                planner = Planner(progress)
                stack.callback(planner.close)
            return planner

        def decide(graph: CudnnGraph) -> Decision:
            return ask().decide(graph)

        def own(graph: CudnnGraph) -> float:
            return own_microseconds(graph, arch, ask().store.device)

        try:
            return choose(module, CudnnOptions(tf32=tf32), decide, own if cudnn == "auto" else None)
        except TargetError as error:
            if cudnn is True:
                raise
            remark("cudnn", "all graphs", f"go to our own kernels: {error}")
            return None


def choose_target(target: str | None = None) -> Target:
    """The target that `compile` takes for this argument: "cuda" for None if a driver answers, else "cpu".

    Raises `TargetError` for one that does not exist, or is not to be had here.
    """
    if target == "cpu":
        return "cpu"
    if target not in (None, "cuda"):
        raise TargetError(f"expected target 'cpu' or 'cuda', got {target!r}")
    try:
        from hamkaas.runtime.cuda import driver_available  # the one place where a driver is looked for

        reason = driver_available()
    except ImportError as error:
        reason = f"cuda-python is not installed ({error})"
    if reason is None:
        return "cuda"
    if target is None:
        return "cpu"
    raise TargetError(f"target 'cuda' is not available: {reason}; target 'cpu' is")


def _load(artifact: Artifact, weights: Iterable[np.ndarray], progress: Progress | None) -> Runtime:
    # Imported here, so that building and lowering graphs needs neither a driver nor a JIT
    if artifact.target == "cpu":
        from hamkaas.runtime.cpu import CpuRuntime

        return CpuRuntime(artifact, weights, progress=progress)
    from hamkaas.runtime.cuda import CudaRuntime

    return CudaRuntime(artifact, weights, progress=progress)


class Model:
    """A compiled model with its weights and states. Call it with arrays by input name.

    `model(x=array)` runs a model of one graph, `model["step"](x=array)` one graph of several. A call gives the output
    array, or a tuple of them for a graph of several outputs. Inputs are anything with `__array__`, the buffer protocol
    or `__dlpack__`; host arrays in give numpy arrays out, a CUDA array in gives CUDA arrays out.

    A model holds threads or device memory until `close()`; as a context manager it closes itself.
    """

    def __init__(
        self,
        built: BuiltModule,
        compiled: Compiled,
        runtime: Runtime,
        single: Sequence[bool],
    ):
        self._built = built
        self.options = compiled.options
        """What was chosen for CUDA, by whoever asked for it or by the device."""
        self._runtime: Runtime | None = runtime
        self.artifact = artifact = compiled.artifact
        """What was compiled, as plain data."""
        self.graphs: dict[str, Graph] = {
            program.name: Graph(self, number, program, is_single)
            for number, (program, is_single) in enumerate(zip(artifact.programs, single, strict=True))
        }
        """The graphs by name."""

    def __getitem__(self, name: str) -> "Graph":
        try:
            return self.graphs[name]
        except KeyError:
            raise InputError(f"expected a graph named {' or '.join(map(repr, self.graphs))}, got {name!r}") from None

    def __call__(self, **inputs: Any) -> Any:
        """Runs a model of one graph."""
        return self.evaluate(inputs)

    def evaluate(self, inputs: Mapping[str, Any], graph: str | None = None) -> Any:
        """Runs a graph: the only one, or the one of this name.

        Raises `InputError` before anything runs if the inputs are not what the graph wants, and `RuntimeFault` if an
        index that was computed on the device turns out to be outside its tensor.
        """
        if graph is None:
            if len(self.graphs) > 1:
                raise InputError(f"expected the name of a graph ({', '.join(self.graphs)}) for a model of several")
            return next(iter(self.graphs.values())).evaluate(inputs)
        return self[graph].evaluate(inputs)

    def reset(self) -> None:
        """Sets all states to zero, as they are when a model is new."""
        self.runtime.reset()

    @property
    def runtime(self) -> Runtime:
        """What runs the model. Raises `HamkaasError` once the model is closed."""
        if self._runtime is None:
            raise HamkaasError("the model is closed")
        return self._runtime

    @property
    def target(self) -> str:
        """'cpu' or 'cuda'."""
        return self.artifact.target

    def ir(self, stage: str) -> str:
        """The IR after a stage of the pipeline: 'graph', 'partitioned', 'kernels' or 'program'.

        Raises `CompileError` for a stage that does not exist.
        """
        return str(self._module(stage))

    def _module(self, stage: str | None) -> Any:
        module = self._built.module.clone()
        target, arch = ("cuda", self.artifact.arch) if self.target == "cuda" else ("cpu", "")
        run_pipeline(context(), module, target, until=stage, options=self.options, arch=arch)
        return module

    @property
    def source(self) -> str:
        """The generated code: CUDA C++ or LLVM IR."""
        return self.artifact.source

    @property
    def memory_plan(self) -> str:
        """Weights, states, arena and every step of every graph with its buffers, as text."""
        return print_plan(self._module(None))

    def close(self) -> None:
        """Frees device memory and stops worker threads. The model cannot run afterwards; closing twice is fine."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Graph:
    """One graph of a model; called with its inputs by name."""

    def __init__(self, model: Model, number: int, program: Program, single: bool):
        self._model = model
        self._number = number
        self._program = program
        self._single = single
        self._specs = tuple((spec, spec.name, spec.shape, spec.numpy_dtype) for spec in program.inputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, element types and shapes of the inputs."""
        return self._program.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Element types and shapes of the outputs."""
        return self._program.outputs

    def __call__(self, **inputs: Any) -> Any:
        """Runs the graph; see `Model.evaluate`."""
        return self.evaluate(inputs)

    def evaluate(self, inputs: Mapping[str, Any], times: int = 1) -> Any:
        """Runs the graph; see `Model.evaluate`.

        `times` runs in a row have the same inputs and change nothing but states: they are enqueued at once, without a
        wait for the host in between, and the outputs are those of the last one.
        """
        runtime = self._model.runtime
        if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"expected a mapping from names to arrays, got {type(inputs).__name__}")
        arrays = [
            value
            if type(value := inputs.get(name)) is np.ndarray and value.shape == shape and value.dtype == dtype
            else self._convert(spec, inputs)
            for spec, name, shape, dtype in self._specs
        ]
        if len(inputs) != len(arrays):
            unknown = [name for name in inputs if name not in {spec.name for spec in self.inputs}]
            raise InputError(f"unexpected input {unknown[0]!r}; the inputs are {self._names()}")
        for check in self._program.checks:
            self._check(check, arrays)
        if times < 1:
            raise InputError(f"expected at least one run, got {times}")
        outputs = runtime.run(self._number, arrays, times)
        return outputs[0] if self._single else tuple(outputs)

    def bandwidth(self) -> float | None:
        """Bytes per second that the device can move, measured now: in a fraction of a second and in little memory.

        On the CPU the graph's workers read the model's weights, or 256 MB of them, and do nothing else; None for a
        model that has no weights. On CUDA it is what a copy within the memory of the device reads and writes together.
        """
        return self._model.runtime.bandwidth(self._number)

    def _names(self) -> str:
        return ", ".join(spec.name for spec in self.inputs) or "none"

    def _convert(self, spec: TensorSpec, inputs: Mapping[str, Any]) -> Any:
        from hamkaas.runtime.arrays import device_of, host_array  # see _load

        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r}; the inputs are {self._names()}")
        value = inputs[spec.name]
        on_device = device_of(value) == "cuda"
        if on_device and self._model.target == "cpu":
            raise InputError(f"input {spec.name!r}: expected a host array for target 'cpu', got a CUDA array")
        if not on_device:
            try:
                value = host_array(value)
            except InputError as error:
                raise InputError(f"input {spec.name!r}: {error}") from error
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if shape != spec.shape:
            raise InputError(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(shape)}")
        if dtype != spec.dtype:
            raise InputError(f"input {spec.name!r}: expected dtype {spec.dtype}, got {dtype}")
        return value

    def _check(self, check: InputCheck | SpanCheck, arrays: Sequence[Any]) -> None:
        if isinstance(check, InputCheck):
            array = arrays[check.input]
            if not isinstance(array, np.ndarray):
                return  # already on the device: the kernel looks for itself
            array = cast("np.ndarray[Any, Any]", array)
            low, high = (array.item(),) * 2 if array.size == 1 else (array.min(), array.max())
            if low < check.low or high > check.high:
                found = low if low < check.low else high
                name = self.inputs[check.input].name
                raise InputError(
                    f"input {name!r}: expected {check.what} between {check.low} and {check.high}, got {found}"
                )
            return
        begin, end = arrays[check.begin], arrays[check.end]
        if isinstance(begin, np.ndarray) and isinstance(end, np.ndarray) and end.item() - begin.item() != check.length:
            names = f"{self.inputs[check.begin].name!r} and {self.inputs[check.end].name!r}"
            raise InputError(f"inputs {names}: expected {check.length} {check.what}, got {end.item() - begin.item()}")
