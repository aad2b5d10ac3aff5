"""What only a device can tell: how the products of one row of a module are best shared out over its threads.

Each kernel with such products is compiled in a few shapes, and each is timed in its place: in the programs that launch
it, between the kernels that it overlaps with. A shape that makes these faster is kept, kernel after kernel. What was
decided is on disk.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Region, SSAValue

from hamkaas import knobs
from hamkaas.artifact import Artifact, Launch, Program
from hamkaas.codegen.cuda import MAX_SHARED_BYTES, shared_bytes
from hamkaas.dialects import hamkaas, kernel
from hamkaas.errors import CompileError
from hamkaas.remarks import remark
from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.schedules.elements import shape_of
from hamkaas.schedules.lower import lower_group
from hamkaas.schedules.vector_shape import VectorShape
from hamkaas.tune.digest import compiler_digest
from hamkaas.tune.timing import executes_plans, generate, reads_too_much, seconds_of_run

SHAPES = (
    VectorShape(128, 32, 2),
    VectorShape(128, 128, 2),
    VectorShape(256, 256, 2),
    VectorShape(256, 64, 2),
    VectorShape(128, 64, 4, in_flight=128),
)
"""What a kernel is tried with: of thirteen shapes on an H100, those that were best for some kernel of a llama."""

SHAPES_OF_BYTES = (
    VectorShape(128, 128, 2),
    VectorShape(256, 256, 2),
    VectorShape(256, 32, 1, staged=True, in_flight=32),
    VectorShape(256, 32, 2, staged=True),
    VectorShape(256, 64, 4, staged=True),
)
"""The same for weights of 8 bits, the only ones for which a vector is staged."""

LEAST_SHARE = 0.03
"""Share of a kernel in all elements of matrices that its program reads below which nothing is tried."""

GAIN = 0.995
"""A shape is kept if a run takes less than this much of the time: two timings of the same differ by a few per mille."""


@dataclass(frozen=True)
class Variant:
    """A kernel that does the same as that of a group, in another shape."""

    group: str
    shape: VectorShape
    launch: Launch
    """Its name, grid and block; the arguments are of no account."""


def choose_shapes(module: ModuleOp, arch: str, progress: Callable[[str], None] | None = None) -> tuple[str, ...]:
    """The shapes for a module at the stage 'partitioned' on the first GPU, as `hamkaas-assign-shapes` takes them.

    They are measured once for each module, device and version of the compiler. Leaves the module as it is.
    """
    from hamkaas.runtime.cuda import gpu_name  # only code that runs on a device may import its runtime

    tried = _tried(module)
    if not tried or reads_too_much(module):
        return ()
    disk = DiskCache(knobs.cache_dir())
    key = CacheKey.of("vector-shapes", module=str(module), compiler=compiler_digest(), device=gpu_name())
    if (known := disk.get(key)) is not None:
        return tuple(json.loads(known))
    artifact = generate(module, arch)
    groups = {group.sym_name.data for group, _ in tried}
    programs = [program for program in artifact.programs if _is_timed(program, groups)]
    chosen = _search(replace(artifact, programs=(), plans=()), programs, module, arch, progress) if programs else {}
    shapes = tuple(f"{variant.group}:{variant.shape}" for variant in chosen.values())
    disk.put(key, json.dumps(shapes).encode(), f"{len(shapes)} of {len(tried)} kernels are not as the rule has them")
    return shapes


def _search(
    artifact: Artifact,
    programs: Sequence[Program],
    module: ModuleOp,
    arch: str,
    progress: Callable[[str], None] | None,
) -> dict[str, Variant]:
    """The variants of groups of a module that make these programs over its artifact faster, as `descend` finds them."""
    from hamkaas.runtime.cuda import CudaRuntime
    from hamkaas.runtime.nvrtc import Cubin, compile_cubin

    if progress is not None:
        progress("timing kernels in several shapes")
    variants: list[Variant] = []
    with ThreadPoolExecutor() as pool:  # NVRTC runs outside of Python's lock
        by_rule = pool.submit(compile_cubin, artifact.source, arch)
        cubins: list[tuple[Artifact, Future[Cubin]]] = []
        for number in range(max(len(SHAPES), len(SHAPES_OF_BYTES))):
            one, some = compile_variants(module, arch, number)
            cubins.append((one, pool.submit(compile_cubin, one.source, arch, use_cache=False)))
            variants += some
    runtime = CudaRuntime(artifact, None, cubin=by_rule.result())

    def seconds(trial: Sequence[Program]) -> float:
        return sum(seconds_of_run(runtime, runtime.add(program)) for program in trial)

    try:
        for one, cubin in cubins:
            runtime.load(one.kernels, cubin.result().image)
        return descend(programs, variants, seconds)
    finally:
        runtime.close()


def descend(
    programs: Sequence[Program], variants: Sequence[Variant], seconds: Callable[[Sequence[Program]], float]
) -> dict[str, Variant]:
    """By group, the variant that makes programs faster than those that were chosen before.

    `seconds` is asked how long programs take. Groups for which no variant is faster are left out.
    """
    chosen: dict[str, Variant] = {}
    best = seconds(programs)
    for variant in sorted(variants, key=lambda variant: variant.group):
        trial = {**chosen, variant.group: variant}
        time = seconds([_with(program, trial) for program in programs])
        if time < GAIN * best:
            gain = f"{time * 1e6:.1f} us instead of {best * 1e6:.1f} us"
            remark("shapes", f"{variant.group} ({variant.launch.label})", f"is better as {variant.shape}: {gain}")
            chosen, best = trial, time
    return chosen


def _with(program: Program, chosen: Mapping[str, Variant]) -> Program:
    """A program with other kernels for some groups."""

    def swapped(step: Launch) -> Launch:
        launch = chosen[step.kernel].launch
        return replace(step, kernel=launch.kernel, grid=launch.grid, block=launch.block)

    steps = (swapped(step) if isinstance(step, Launch) and step.kernel in chosen else step for step in program.steps)
    return replace(program, steps=tuple(steps))


def _is_timed(program: Program, groups: AbstractSet[str]) -> bool:
    """Whether a program launches kernels of these groups, and is timed at all."""
    launches = (step.kernel for step in program.steps if isinstance(step, Launch))
    return not groups.isdisjoint(launches) and not executes_plans(program)


# What is tried


def _tried(module: ModuleOp) -> list[tuple[hamkaas.GroupOp, hamkaas.ExecuteOp]]:
    """The groups of products of one row that are worth it, each with one of its calls."""
    calls: dict[str, list[hamkaas.ExecuteOp]] = {}
    for op in module.walk():
        if isinstance(op, hamkaas.ExecuteOp):
            calls.setdefault(op.callee.root_reference.data, []).append(op)
    groups = [op for op in module.body.block.ops if isinstance(op, hamkaas.GroupOp) and op.sym_name.data in calls]
    read = {group: _elements(group) * len(calls[group.sym_name.data]) for group in groups}
    least = LEAST_SHARE * sum(read.values())
    return [(group, calls[group.sym_name.data][0]) for group in groups if read[group] and read[group] >= least]


def _elements(group: hamkaas.GroupOp) -> int:
    """Elements of the matrices of a group's products; 0 if one of these has several rows."""
    products = [op for op in group.body.block.ops if isinstance(op, hamkaas.MatmulOp)]
    if any(prod(shape_of(op.result)[:-1]) > 1 for op in products):
        return 0
    return sum(prod(shape_of(op.rhs)) for op in products)


def compile_variants(module: ModuleOp, arch: str, number: int) -> tuple[Artifact, list[Variant]]:
    """The kernels of a module's groups in the shape of this number, as far as their schedule can do that.

    The artifact's one program launches each of them with the weights that the module passes, and inputs else.
    """
    weights = [op for op in module.body.block.ops if isinstance(op, hamkaas.WeightOp)]
    kernels: dict[str, kernel.FuncOp] = {}
    shapes: dict[str, tuple[str, VectorShape]] = {}
    calls: list[tuple[hamkaas.ExecuteOp, str]] = []
    for group, call in _tried(module):
        of_bytes = any(isinstance(op, hamkaas.DequantizeOp) for op in group.body.block.ops)
        for shape in (SHAPES_OF_BYTES if of_bytes else SHAPES)[number : number + 1]:
            name = f"{group.sym_name.data}_{number}"
            if (function := _lower(group, name, shape)) is not None:
                kernels[name], shapes[name] = function, (group.sym_name.data, shape)
                calls.append((call, name))
    trial = ModuleOp([*(op.clone() for op in weights), *kernels.values(), _call_all(calls, weights)])
    artifact = generate(trial, arch)
    launches = [step for step in artifact.programs[0].steps if isinstance(step, Launch)]
    return artifact, [Variant(*shapes[launch.kernel], launch) for launch in launches]


def _lower(group: hamkaas.GroupOp, name: str, shape: VectorShape) -> kernel.FuncOp | None:
    """The kernel of a group in this shape."""
    copy = group.clone()
    copy.properties["sym_name"] = StringAttr(name)
    copy.attributes["vector_shape"] = StringAttr(str(shape))
    try:
        function = lower_group(copy, "cuda")
    except CompileError as error:
        remark("shapes", f"{name} as {shape}", f"is not tried: {error}")
        return None
    if (size := shared_bytes(function)) > MAX_SHARED_BYTES:
        remark("shapes", f"{name} as {shape}", f"is not tried: it takes {size} bytes of shared memory")
        return None
    return function


def _call_all(calls: Iterable[tuple[hamkaas.ExecuteOp, str]], weights: Sequence[hamkaas.WeightOp]) -> func.FuncOp:
    """A function that executes other kernels in these calls."""
    names = {op.sym_name.data for op in weights}
    block = Block()
    known: dict[SSAValue, SSAValue] = {}

    def value(operand: SSAValue) -> SSAValue:
        if operand not in known:
            get = operand.owner
            if isinstance(get, hamkaas.GetOp) and get.symbol.root_reference.data in names:
                block.add_op(copy := get.clone())
                known[operand] = copy.result
            else:
                known[operand] = block.insert_arg(operand.type, len(block.args))
        return known[operand]

    results: list[SSAValue] = []
    for call, name in calls:
        operands = [value(operand) for operand in call.inputs]
        copy = hamkaas.ExecuteOp(name, operands, [result.type for result in call.results])
        block.add_op(copy)
        results += copy.results
    block.add_op(func.ReturnOp(*results))
    types = ([arg.type for arg in block.args], [result.type for result in results])
    return func.FuncOp("trial", types, Region(block))
