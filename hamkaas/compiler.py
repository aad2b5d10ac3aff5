"""From a graph to an artifact: the pipeline, then code generation. Needs no device."""

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from xdsl.dialects.builtin import ModuleOp

from hamkaas import knobs
from hamkaas.artifact import Artifact, CudnnPlan
from hamkaas.codegen.cuda_module import print_cuda, shared_sizes
from hamkaas.codegen.llvm import print_llvm
from hamkaas.codegen.plan import build_artifact, print_plan
from hamkaas.frontend import BuiltModule
from hamkaas.pipeline import DEFAULT_ARCH, RULES, CudaOptions, Replay, run_pipeline, write_dump
from hamkaas.schedules.lowering import Target
from hamkaas.universe import context


@contextmanager
def without_garbage_collection() -> Generator[None]:
    """Nothing that is made inside is looked at for garbage before the end.

    IR is full of cycles and nearly all of it is kept, so that a collection finds nothing and takes a quarter of the
    time of a compile.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compile_artifact(
    built: BuiltModule,
    target: Target,
    arch: str = DEFAULT_ARCH,
    options: CudaOptions = RULES,
    plans: Sequence[CudnnPlan] = (),
) -> Artifact:
    """Generates the code of a graph; see `compile_module`."""
    return compile_module(built.module.clone(), target, arch, options, plans, replay=Replay(built.module))


@without_garbage_collection()
def compile_module(
    module: ModuleOp,
    target: Target,
    arch: str = DEFAULT_ARCH,
    options: CudaOptions = RULES,
    plans: Sequence[CudnnPlan] = (),
    *,
    after: str | None = None,
    replay: Replay | None = None,
) -> Artifact:
    """Generates the code of a module, and changes it. It may be at the end of a stage: `after`, and the `replay` to it.

    `arch`, such as "sm_90", and what follows are for CUDA. `plans` has what a device chose for the graphs that go to
    cuDNN. `HAMKAAS_DUMP` names a folder that gets the IR of each stage, the code and the plan.
    """
    run_pipeline(context(), module, target, options=options, arch=arch, after=after, replay=replay)
    artifact = _generate_cpu(module) if target == "cpu" else generate_cuda(module, arch, plans)
    if knobs.DUMP.get() is not None:
        write_dump("04-code.ll" if target == "cpu" else "04-code.cu", artifact.source)
        write_dump("05-plan.txt", print_plan(module))
    return artifact


def _generate_cpu(module: ModuleOp) -> Artifact:
    return build_artifact(module, "cpu", "", print_llvm(module), {})


def generate_cuda(module: ModuleOp, arch: str, plans: Sequence[CudnnPlan] = ()) -> Artifact:
    """The code of a module at the last stage for a CUDA architecture; `plans` are those of its cuDNN graphs."""
    return build_artifact(module, "cuda", arch, print_cuda(module), shared_sizes(module), plans)
