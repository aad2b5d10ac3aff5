"""Times programs on a device, for `shapes` and `schedule`."""

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from hamkaas.artifact import Artifact
from hamkaas.codegen.plan import spec_of
from hamkaas.compiler import generate_cuda
from hamkaas.dialects import hamkaas
from hamkaas.pipeline import RULES, CudaOptions, run_pipeline
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
    """The code of a module at the stage 'partitioned'; changes the module."""
    run_pipeline(context(), module, "cuda", options=options, arch=arch, after="partitioned")
    return generate_cuda(module, arch)


def seconds_of_run(runtime: "CudaRuntime", program: int) -> float:
    """Seconds that a run of a program takes on the device."""
    runtime.reset()
    runs = max(2, min(MOST_RUNS, int(BATCH_SECONDS / runtime.replay(program, 1))))
    return min(runtime.replay(program, runs) for _ in range(BATCHES))
