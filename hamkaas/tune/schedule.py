"""What only a device can tell: whether launches are faster as nodes of a graph or as steps of a persistent kernel.

Both are compiled, and the programs in which they differ are timed. What was decided is on disk.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp

from hamkaas import knobs
from hamkaas.artifact import Artifact, Persistent
from hamkaas.dialects import hamkaas
from hamkaas.passes.program_to_persistent import ProgramToPersistentPass
from hamkaas.pipeline import CudaOptions, Schedule
from hamkaas.remarks import remark
from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.tune.digest import compiler_digest
from hamkaas.tune.timing import executes_plans, generate, reads_too_much, seconds_of_run

if TYPE_CHECKING:
    from hamkaas.runtime.nvrtc import Cubin


def choose_schedule(
    module: ModuleOp, arch: str, options: CudaOptions, progress: Callable[[str], None] | None = None
) -> Schedule:
    """The faster schedule for a module at the stage 'partitioned' on the first GPU, with these options else.

    They are measured once for each module, device and version of the compiler. Leaves the module as it is.
    """
    from hamkaas.runtime.cuda import gpu_name  # only code that runs on a device may import its runtime
    from hamkaas.runtime.nvrtc import compile_cubin

    if not _may_gain(module) or reads_too_much(module):
        return "graph"
    disk = DiskCache(knobs.cache_dir())
    key = CacheKey.of(
        "schedule", module=str(module), options=repr(options), compiler=compiler_digest(), device=gpu_name()
    )
    if (known := disk.get(key)) is not None:
        return "persistent" if known == b"persistent" else "graph"
    persistent = generate(module, arch, replace(options, schedule="persistent"))
    numbers = [
        number
        for number, program in enumerate(persistent.programs)
        if any(isinstance(step, Persistent) for step in program.steps) and not executes_plans(program)
    ]
    if not numbers:
        return "graph"
    if progress is not None:
        progress("timing a persistent kernel against a graph")
    with ThreadPoolExecutor() as pool:  # NVRTC runs outside of Python's lock
        cubin_of_persistent = pool.submit(compile_cubin, persistent.source, arch)
        graph = generate(module, arch, replace(options, schedule="graph"))
        cubin_of_graph = pool.submit(compile_cubin, graph.source, arch)
    of_persistent = _seconds(persistent, numbers, cubin_of_persistent.result())
    of_graph = _seconds(graph, numbers, cubin_of_graph.result())
    chosen: Schedule = "persistent" if of_persistent < of_graph else "graph"
    times = f"{of_persistent * 1e6:.1f} us as a persistent kernel, {of_graph * 1e6:.1f} us as a graph"
    remark("schedule", ", ".join(persistent.programs[number].name for number in numbers), times)
    disk.put(key, chosen.encode(), times)
    return chosen


def _may_gain(module: ModuleOp) -> bool:
    """Whether a function has enough launches."""
    functions = [op for op in module.body.block.ops if isinstance(op, func.FuncOp)]
    most = max(sum(isinstance(op, hamkaas.ExecuteOp) for op in function.walk()) for function in functions)
    return most >= ProgramToPersistentPass.min_launches


def _seconds(artifact: Artifact, numbers: list[int], cubin: "Cubin") -> float:
    """Seconds of a run of each of these programs, together."""
    from hamkaas.runtime.cuda import CudaRuntime

    programs = tuple(artifact.programs[number] for number in numbers)
    runtime = CudaRuntime(replace(artifact, programs=programs, plans=()), None, cubin=cubin)
    try:
        return sum(seconds_of_run(runtime, number) for number in range(len(programs)))
    finally:
        runtime.close()
