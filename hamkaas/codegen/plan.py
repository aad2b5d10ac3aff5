"""Program IR to the launch plan of an artifact, and to text for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue

from hamkaas.artifact import (
    Artifact,
    BufferRef,
    Copy,
    CudnnGraph,
    CudnnPlan,
    Execute,
    InputCheck,
    Kernel,
    Launch,
    Persistent,
    Program,
    Space,
    SpanCheck,
    Step,
    TensorSpec,
)
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn, hamkaas, kernel, program

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "i64": "int64"}
"""IR element types by the names that arrays have."""


def spec_of(name: str, type: Attribute) -> TensorSpec:
    """The specification of a tensor or buffer of this type."""
    assert hamkaas.is_tensor(type) or kernel.is_memref(type)
    return TensorSpec(name, DTYPES[str(type.element_type)], tuple(type.get_shape()))


def build_artifact(
    module: ModuleOp,
    target: str,
    arch: str,
    source: str,
    shared_bytes: Mapping[str, int],
    plans: Sequence[CudnnPlan] = (),
) -> Artifact:
    """The artifact of a module at the last stage; `source` is its kernels as printed for the target.

    `plans` has one for each of its cuDNN graphs, in any order; without, the artifact is for reading.
    """
    ops = list(module.body.block.ops)
    packed = [op for op in ops if isinstance(op, hamkaas.PackedWeightOp)]
    weights = tuple(spec_of(op.sym_name.data, op.type) for op in _in_order(ops, packed))
    states = tuple(spec_of(op.sym_name.data, op.type) for op in ops if isinstance(op, hamkaas.StateOp))
    kernels = {op.sym_name.data: op for op in ops if isinstance(op, kernel.FuncOp)}
    graphs = {op.sym_name.data: build_graph(op) for op in ops if isinstance(op, cudnn.GraphOp)}
    planner = _Planner(kernels, graphs, weights, states, packed)
    programs = tuple(planner.plan(op) for op in ops if isinstance(op, program.FuncOp))
    return Artifact(
        target=target,
        arch=arch,
        source=source,
        kernels=tuple(_entry_points(module, shared_bytes)),
        weights=weights,
        states=states,
        arena_bytes=planner.arena_bytes,
        programs=programs,
        scaled=tuple((w.sym_name.data, w.scales) for w in ops if isinstance(w, hamkaas.WeightOp) and w.scales),
        plans=tuple(plan for graph in graphs.values() for plan in plans if plan.graph == graph),
    )


def _in_order(ops: Sequence[Operation], packed: Sequence[hamkaas.PackedWeightOp]) -> list[hamkaas.WeightOp]:
    """The weights as they lie in memory: those that are packed behind the first of them."""
    weights = {op.sym_name.data: op for op in ops if isinstance(op, hamkaas.WeightOp)}
    together = {part: op.parts for op in packed for part in op.parts}
    names = dict.fromkeys(part for name in weights for part in together.get(name, (name,)))
    return [weights[name] for name in names]


def persistent_regions(module: ModuleOp) -> list[program.PersistentOp]:
    """The persistent kernels of all programs of a module."""
    functions = [op for op in module.body.block.ops if isinstance(op, program.FuncOp)]
    return [op for function in functions for op in function.body.block.ops if isinstance(op, program.PersistentOp)]


def entry_kernels(module: ModuleOp) -> list[kernel.FuncOp]:
    """The kernels that are launched by themselves: all but those that only persistent kernels launch."""
    ops = list(module.body.block.ops)
    steps = [step for op in ops if isinstance(op, program.FuncOp) for step in op.body.block.ops]
    launched = {step.callee.root_reference.data for step in steps if isinstance(step, program.LaunchOp)}
    stages = {one.callee.root_reference.data for region in persistent_regions(module) for one in region.launches}
    return [op for op in ops if isinstance(op, kernel.FuncOp) and op.sym_name.data not in stages - launched]


def _entry_points(module: ModuleOp, shared_bytes: Mapping[str, int]) -> Iterator[Kernel]:
    for op in entry_kernels(module):
        name = op.sym_name.data
        yield Kernel(name, len(op.function_type.inputs), op.block.value.data, shared_bytes.get(name, 0))
    for region in persistent_regions(module):
        name = region.sym_name.data
        yield Kernel(name, 2, region.block.value.data, shared_bytes.get(name, 0))


class _Planner:
    def __init__(
        self,
        kernels: dict[str, kernel.FuncOp],
        graphs: dict[str, CudnnGraph],
        weights: tuple[TensorSpec, ...],
        states: tuple[TensorSpec, ...],
        packed: Sequence[hamkaas.PackedWeightOp],
    ):
        self.kernels = kernels
        self.graphs = graphs
        self.places = {
            **{spec.name: BufferRef(Space.WEIGHT, number) for number, spec in enumerate(weights)},
            **{spec.name: BufferRef(Space.STATE, number) for number, spec in enumerate(states)},
        }
        self.places |= {op.sym_name.data: self.places[op.parts[0]] for op in packed}
        self.arena_bytes = 0

    def plan(self, function: program.FuncOp) -> Program:
        """One program."""
        inputs: list[TensorSpec] = []
        outputs: dict[int, TensorSpec] = {}
        refs: dict[SSAValue, BufferRef] = {}
        steps: list[Step] = []
        checks: list[InputCheck | SpanCheck] = []
        barrier = False
        for op in function.body.block.ops:
            match op:
                case program.InputOp():
                    refs[op.memref] = BufferRef(Space.INPUT, len(inputs))
                    inputs.append(spec_of(op.input_name.data, op.memref.type))
                case program.OutputOp():
                    position = op.position.value.data
                    refs[op.memref] = BufferRef(Space.OUTPUT, position)
                    outputs[position] = spec_of(op.memref.name_hint or f"output_{position}", op.memref.type)
                case program.SymbolOp():
                    refs[op.memref] = self.places[op.symbol.root_reference.data]
                case program.TempOp():
                    assert op.offset is not None, "memory is planned before code is generated"
                    offset = op.offset.value.data
                    refs[op.memref] = BufferRef(Space.ARENA, 0, offset)
                    self.arena_bytes = max(self.arena_bytes, offset + spec_of("", op.memref.type).nbytes)
                case program.StatusOp():
                    refs[op.memref] = BufferRef(Space.STATUS)
                case program.CheckOp():
                    place = refs[op.input].index
                    checks.append(InputCheck(place, op.low.value.data, op.high.value.data, op.what.data))
                case program.CheckSpanOp():
                    what = "rows between begin and end of hamkaas.replace_slice"
                    checks.append(SpanCheck(refs[op.begin].index, refs[op.end].index, op.length.value.data, what))
                case program.BarrierOp():
                    barrier = True
                case program.PersistentOp():
                    steps.append(self._persistent(op, refs, barrier))
                    barrier = False
                case program.LaunchOp() | program.ExecuteOp() | program.CopyOp():
                    after_launch = bool(steps) and isinstance(steps[-1], Launch)
                    steps.append(self._step(op, refs, barrier, after_launch))
                    barrier = False
                case _:
                    raise AssertionError(f"{op.name} is not a step of a program")
        ordered = tuple(outputs[position] for position in range(len(outputs)))
        return Program(function.sym_name.data, tuple(inputs), ordered, tuple(steps), tuple(checks), kernel.FAULTS)

    def _step(
        self, op: Operation, refs: dict[SSAValue, BufferRef], barrier: bool, after_launch: bool
    ) -> Launch | Execute | Copy:
        if isinstance(op, program.CopyOp):
            return Copy(refs[op.source], refs[op.target], spec_of("", op.source.type).nbytes, barrier)
        if isinstance(op, program.ExecuteOp):
            return self._execute(op, refs, barrier)
        assert isinstance(op, program.LaunchOp)
        return self._launch(op, refs, barrier, after_launch)

    def _launch(
        self, op: program.LaunchOp, refs: dict[SSAValue, BufferRef], barrier: bool, after_launch: bool
    ) -> Launch:
        callee = self.kernels[op.callee.root_reference.data]
        return Launch(
            kernel=callee.sym_name.data,
            grid=callee.grid.value.data,
            block=callee.block.value.data,
            args=tuple(refs[arg] for arg in op.args),
            barrier=barrier,
            overlap=after_launch and callee.constants is not None,
            cost=sum(spec_of("", arg.type).nbytes for arg in op.args),
            label=callee.label.data,
        )

    def _persistent(self, op: program.PersistentOp, refs: dict[SSAValue, BufferRef], barrier: bool) -> Persistent:
        launches: list[Launch] = []
        inner_barrier = False
        for step in op.body.block.ops:
            if isinstance(step, program.LaunchOp):
                launches.append(self._launch(step, refs, inner_barrier, bool(launches)))
            inner_barrier = isinstance(step, program.BarrierOp)
        return Persistent(op.sym_name.data, op.block.value.data, tuple(launches), barrier)

    def _execute(self, op: program.ExecuteOp, refs: dict[SSAValue, BufferRef], barrier: bool) -> Execute:
        name = op.callee.root_reference.data
        graph = self.graphs[name]
        args = [refs[arg] for arg in op.args]
        workspace = args.pop() if len(args) > len(graph.inputs) + len(graph.outputs) else None
        for number, offset in enumerate(op.offsets):
            item = spec_of("", op.args[number].type).numpy_dtype.itemsize
            args[number] = replace(args[number], offset=args[number].offset + offset * item)
        return Execute(list(self.graphs).index(name), tuple(args), workspace, barrier, graph.label)


def print_plan(module: ModuleOp) -> str:
    """The launch plan of a module at the last stage, as a table for people."""
    artifact = build_artifact(module, "", "", "", {})
    lines: list[str] = []
    for title, specs in (("weights", artifact.weights), ("states", artifact.states)):
        total = sum(spec.nbytes for spec in specs)
        lines.append(f"{title}: {len(specs)}, {total:,} bytes")
    lines.append(f"arena: {artifact.arena_bytes:,} bytes")
    for plan in artifact.programs:
        persistent = [step for step in plan.steps if isinstance(step, Persistent)]
        launches = [step for step in plan.steps if isinstance(step, Launch)]
        launches += [launch for one in persistent for launch in one.launches]
        kernels = len({step.kernel for step in launches})
        executions = [step.plan for step in plan.steps if isinstance(step, Execute)]
        of_graphs = f", {len(executions)} executions of {len(set(executions))} cuDNN graphs" if executions else ""
        lines += ["", f"program {plan.name}: {len(launches)} launches of {kernels} kernels{of_graphs}"]
        for kind, specs in (("input", plan.inputs), ("output", plan.outputs)):
            lines += [f"  {kind} {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in specs]
        lines += [f"  check {_check_text(check, plan)}" for check in plan.checks]
        for step in plan.steps:
            lines.append(_step_text(step, artifact, plan))
            if isinstance(step, Persistent):
                lines += [f"  {_step_text(launch, artifact, plan)}" for launch in step.launches]
    return "\n".join(lines) + "\n"


def _check_text(check: InputCheck | SpanCheck, plan: Program) -> str:
    if isinstance(check, InputCheck):
        return f"{plan.inputs[check.input].name} in [{check.low}, {check.high}]: {check.what}"
    return f"{plan.inputs[check.end].name} - {plan.inputs[check.begin].name} = {check.length}: {check.what}"


def _step_text(step: Step, artifact: Artifact, plan: Program) -> str:
    mark = "|" if step.barrier else " "
    if isinstance(step, Copy):
        source, target = _place_text(step.source, artifact, plan), _place_text(step.target, artifact, plan)
        return f"  {mark} copy {source} -> {target} ({step.nbytes:,} bytes)"
    if isinstance(step, Persistent):
        return f"  {mark} {step.kernel}: blocks of {step.block} threads that stay"
    args = ", ".join(_place_text(arg, artifact, plan) for arg in step.args)
    if isinstance(step, Execute):
        return f"  {mark} c{step.plan:<4} {'cuDNN':>6} {'':<6} {step.label:<40} ({args})"
    return f"  {mark} {step.kernel:<5} {step.grid:>6} x {step.block:<4} {step.label:<40} ({args})"


def _place_text(ref: BufferRef, artifact: Artifact, plan: Program) -> str:
    match ref.space:
        case Space.ARENA:
            return f"arena+{ref.offset}"
        case Space.WEIGHT:
            return artifact.weights[ref.index].name
        case Space.STATE:
            return artifact.states[ref.index].name
        case Space.INPUT:
            return plan.inputs[ref.index].name
        case Space.OUTPUT:
            return f"output {ref.index}"
        case Space.STATUS:
            return "status"
