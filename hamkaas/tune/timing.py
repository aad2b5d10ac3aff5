"""Times programs on a device, for `shapes` and `schedule`."""

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from hamkaas.artifact import Artifact, Execute, Program
from hamkaas.codegen.plan import spec_of
from hamkaas.compiler import generate_cuda
from hamkaas.dialects import hamkaas
from hamkaas.pipeline import RULES, CudaOptions, Replay, run_pipeline
from hamkaas.universe import context

if TYPE_CHECKING:
    from hamkaas.runtime.cuda import CudaRuntime

BATCH_SECONDS, MOST_RUNS, BATCHES = 2e-3, 20, 5
"""The time of a run is that of the fastest of some batches; a batch lasts about so long, but has two runs at least."""


MOST_BYTES = 4 << 30
"""Bytes of weights beyond which nothing is tried: a run is so long that reading them is nearly all of it.

On an H100 the search would gain 0.4 % for Llama-2-7B in f16 and 3 % in i8, and take ten times as long as the rest.
"""


def reads_too_much(module: ModuleOp) -> bool:
    """Whether it is not worth the search to share out the work of a module in other ways."""
    weights = [op for op in module.body.block.ops if isinstance(op, hamkaas.WeightOp)]
    return sum(spec_of("", op.type).nbytes for op in weights) > MOST_BYTES


def generate(module: ModuleOp, arch: str, options: CudaOptions = RULES) -> Artifact:
    """The code of a module at the stage 'partitioned', which stays as it is."""
    lowered = module.clone()
    run_pipeline(context(), lowered, "cuda", options=options, arch=arch, after="partitioned", replay=Replay(module))
    return generate_cuda(lowered, arch)


def executes_plans(program: Program) -> bool:
    """Whether a program runs cuDNN graphs, which take most of its time: it is not timed then."""
    return any(isinstance(step, Execute) for step in program.steps)


def seconds_of_run(runtime: "CudaRuntime", program: int) -> float:
    """Seconds that a run of a program takes on the device."""
    runtime.reset()
    runs = max(2, min(MOST_RUNS, int(BATCH_SECONDS / runtime.replay(program, 1))))
    return min(runtime.replay(program, runs) for _ in range(BATCHES))
