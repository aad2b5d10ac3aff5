"""START HERE: the way of a graph through the compiler, as a table.

    graph         whole tensors; weights and states are symbols
    partitioned   what cuDNN takes in graphs of its own, every other operation in a group that becomes one kernel;
                  equal graphs and groups only once
    kernels       what one thread block or CPU worker does, with loops, vectors and memory
    program       a straight line of launches over one arena

Each row of `stages` is one stage: the passes that lead to it, in order, and the operations that may be left after
them. Every stage prints, parses and verifies, and is an input of `hamkaas-opt`: a pass leaves what is already beyond
it unchanged, so a run may start from a dump of any stage.
"""

import difflib
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination
from xdsl.utils.exceptions import DiagnosticException

from hamkaas import knobs
from hamkaas.dialects.cudnn import CUDNN, ExecuteOp
from hamkaas.dialects.kernel import MAX_CLUSTER
from hamkaas.errors import CompileError, HamkaasError
from hamkaas.partition.policy import PolicyName
from hamkaas.passes.cudnn_assign_plans import CudnnAssignPlansPass
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.hamkaas_assign_shapes import HamkaasAssignShapesPass
from hamkaas.passes.hamkaas_dedup_groups import HamkaasDedupGroupsPass
from hamkaas.passes.hamkaas_merge_groups import HamkaasMergeGroupsPass
from hamkaas.passes.hamkaas_outline_groups import HamkaasOutlineGroupsPass
from hamkaas.passes.hamkaas_pack_weights import HamkaasPackWeightsPass
from hamkaas.passes.hamkaas_raise_attention import HamkaasRaiseAttentionPass
from hamkaas.passes.hamkaas_to_kernel import HamkaasToKernelPass
from hamkaas.passes.hamkaas_widen_scales import HamkaasWidenScalesPass
from hamkaas.passes.program_insert_barriers import ProgramInsertBarriersPass
from hamkaas.passes.program_overlap_launches import ProgramOverlapLaunchesPass
from hamkaas.passes.program_plan_memory import ProgramPlanMemoryPass
from hamkaas.passes.program_schedule import ProgramSchedulePass
from hamkaas.passes.program_to_persistent import ProgramToPersistentPass
from hamkaas.passes.verify_dominance import VerifyDominancePass
from hamkaas.schedules.lowering import Target


@dataclass(frozen=True)
class Stage:
    """A point on the way at which the IR is complete and of one kind."""

    name: str
    summary: str
    passes: tuple[ModulePass, ...]
    legal: tuple[str, ...]
    """Dialects, and single operations by their full name, that may be left."""


@dataclass(frozen=True)
class CudnnOptions:
    """What goes to cuDNN; see the passes for the meaning of each."""

    policy: PolicyName = "profitable"
    tf32: bool = False
    refused: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()

    @property
    def passes(self) -> tuple[ModulePass, ...]:
        """The passes that outline it."""
        outline = CudnnOutlinePass(self.policy, tf32=self.tf32, refused=self.refused)
        pack = HamkaasPackWeightsPass(self.refused)
        return (outline, pack, CudnnDedupPass(), CudnnAssignPlansPass(self.plans), CommonSubexpressionElimination())


KERNEL_BODIES = ("kernel", "scf", "arith", "math", "vector")
SYMBOLS = ("hamkaas.weight", "hamkaas.packed_weight", "hamkaas.state")
CUDNN_GRAPHS = tuple(op.name for op in CUDNN.operations if op is not ExecuteOp)

DEFAULT_ARCH = "sm_90"
"""The CUDA architecture that code is for where no other is named."""


Schedule: TypeAlias = Literal["graph", "persistent"]
"""How launches follow each other on CUDA: as nodes of a graph, or where possible as steps of one kernel that stays."""


@dataclass(frozen=True)
class CudaOptions:
    """What is to be chosen on CUDA."""

    cudnn: CudnnOptions | None = None
    """What goes to cuDNN; None for nothing."""
    shapes: tuple[str, ...] = ()
    """How products of one row are shared out: what `HamkaasAssignShapesPass` takes."""
    schedule: Schedule = "graph"
    """Before sm_90 there is one schedule, whatever is asked for."""


RULES = CudaOptions()
"""Nothing is chosen: all goes by rule."""


def stages(target: Target, options: CudaOptions = RULES, arch: str = DEFAULT_ARCH) -> tuple[Stage, ...]:
    """The stages for a target, in order. `options` and `arch` are for CUDA."""
    has_clusters = target == "cuda" and _is_since(90, arch)  # and launches that wait by themselves
    stays = has_clusters and options.schedule == "persistent"
    cluster = MAX_CLUSTER if has_clusters and not stays else 1
    assign = (HamkaasAssignShapesPass(options.shapes),) if target == "cuda" else ()
    overlap = (ProgramOverlapLaunchesPass(), CommonSubexpressionElimination()) if has_clusters else ()
    persistent = (ProgramToPersistentPass(),) if stays else ()
    return (
        Stage(
            "graph",
            "whole tensors, simplified",
            (
                VerifyDominancePass(),
                *((HamkaasWidenScalesPass(),) if target == "cpu" else ()),
                CanonicalizePass(),
                HamkaasRaiseAttentionPass(),
                CommonSubexpressionElimination(),
            ),
            ("builtin", "func", "hamkaas"),
        ),
        Stage(
            "partitioned",
            "what cuDNN takes, and groups of operations that become one kernel each, equal ones only once",
            (
                *(options.cudnn.passes if options.cudnn is not None else ()),
                HamkaasOutlineGroupsPass(copy_norms=target == "cuda"),
                HamkaasMergeGroupsPass(),
                HamkaasDedupGroupsPass(),
            ),
            ("builtin", "func", "hamkaas", "cudnn"),
        ),
        Stage(
            "kernels",
            f"what one block does on {target}",
            (*assign, HamkaasToKernelPass(target, cluster), CanonicalizePass(), CommonSubexpressionElimination()),
            ("builtin", "func", *SYMBOLS, "hamkaas.get", "hamkaas.set", "hamkaas.execute", "cudnn", *KERNEL_BODIES),
        ),
        Stage(
            "program",
            "launches in order, over planned memory",
            (ProgramSchedulePass(), ProgramPlanMemoryPass(), ProgramInsertBarriersPass(), *overlap, *persistent),
            ("builtin", *SYMBOLS, "program", *CUDNN_GRAPHS, *KERNEL_BODIES),
        ),
    )


def _is_since(number: int, arch: str) -> bool:
    """Whether a CUDA architecture, such as sm_90 or sm_90a, is the one of this number or a later one."""
    found = re.match(r"sm_(\d+)", arch)
    return found is not None and int(found[1]) >= number


STAGE_NAMES = tuple(stage.name for stage in stages("cpu"))


@dataclass
class Replay:
    """How to come by the IR that a pass was given: a copy before each would take half of the time of a compile."""

    start: ModuleOp
    """Stays as it is."""
    done: list[ModulePass] = field(default_factory=list[ModulePass])

    def module(self, ctx: Context) -> ModuleOp:
        """The IR after all passes that are done."""
        module = self.start.clone()
        for one in self.done:
            one.apply(ctx, module)
        return module


def run_pipeline(
    ctx: Context,
    module: ModuleOp,
    target: Target,
    until: str | None = None,
    after_pass: Callable[[ModulePass, ModuleOp], None] | None = None,
    options: CudaOptions = RULES,
    arch: str = DEFAULT_ARCH,
    after: str | None = None,
    replay: Replay | None = None,
) -> None:
    """Lowers a module to the last stage, or to the one named `until`, in place.

    A module that has been through the stage named `after` goes on from there, with the `replay` of the way to it.
    `options` and `arch`, the architecture, are for CUDA. `after_pass` is called after each pass.
    Raises `CompileError` for a stage that does not exist, a pass that fails (with a file that replays it) and an
    operation that a stage should not have left. `HAMKAAS_DUMP` names a folder that gets the IR of each stage.
    """
    if until is not None and until not in STAGE_NAMES:
        raise CompileError(unknown("stage", until, STAGE_NAMES))
    table = stages(target, options, arch)
    first = 0 if after is None else STAGE_NAMES.index(after) + 1
    way = replay or Replay(module.clone())
    for number, stage in list(enumerate(table))[first:]:
        for one in stage.passes:
            run_pass(ctx, module, one, lambda: way.module(ctx))
            way.done.append(one)
            if after_pass is not None:
                after_pass(one, module)
        check_legal(table[number:], module)
        if knobs.DUMP.get() is not None:
            write_dump(f"{number:02}-{stage.name}.mlir", f"{module!s}\n")
        if stage.name == until:
            return


def write_dump(name: str, text: str) -> None:
    """Writes a file into the folder that `HAMKAAS_DUMP` names, if it names one."""
    if (folder := knobs.DUMP.get()) is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    except OSError as error:
        raise CompileError(f"{folder / name}: cannot be written: {error.strerror}") from error


def check_legal(stages: tuple[Stage, ...], module: ModuleOp) -> None:
    """Raises `CompileError` if an operation is left that neither the first of these stages allows nor a later one."""
    legal = {name for stage in stages for name in stage.legal}
    for op in module.walk():
        if op.dialect_name() not in legal and op.name not in legal:
            raise CompileError(f"stage '{stages[0].name}' left an illegal operation: {op.name}")


def unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    """A message for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f", did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{name}'{hint} (expected one of {', '.join(known)})"


def run_pass(
    ctx: Context,
    module: ModuleOp,
    one: ModulePass,
    before: Callable[[], ModuleOp] | None = None,
    verify: Callable[[ModuleOp], None] | None = None,
) -> None:
    """Runs one pass, and `verify` on what it leaves.

    If either fails, raises `CompileError` with a command that replays the pass on a file of the IR before it, which
    `before` gives; without it, a copy is made beforehand.
    """
    copy = module.clone() if before is None and _is_ours(one) else module
    try:
        one.apply(ctx, module)
        if verify is not None:
            verify(module)
    except HamkaasError:
        raise
    except Exception as error:
        replay = shlex.quote(str(write_replay(before() if before is not None else copy, one)))
        spec = shlex.quote(str(one.pipeline_pass_spec()))
        message = f"pass '{one.name}' failed: {_reason(error)}\nreplay: hamkaas-opt {replay} -p {spec}"
        raise CompileError(message) from error


def _reason(error: Exception) -> str:
    """The text of an error; of one that was not made for people, its kind too."""
    return str(error) if isinstance(error, DiagnosticException) else f"{type(error).__name__}: {error}".rstrip(": ")


def _is_ours(one: ModulePass) -> bool:
    """xDSL's own passes are trusted not to fail: the copy for a replay is not worth its time."""
    return type(one).__module__.startswith("hamkaas")


def write_replay(module: ModuleOp, one: ModulePass) -> Path:
    """Writes the IR before a failing pass to a file that `hamkaas-opt` can run it on; gives the file."""
    folder = knobs.DUMP.get() or Path(tempfile.mkdtemp(prefix="hamkaas-"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{one.name}.mlir"
    path.write_text(f"// RUN: hamkaas-opt %s -p '{one.pipeline_pass_spec()}'\n{module!s}\n")
    return path


@dataclass(frozen=True)
class LowerToPass(ModulePass):
    """Run the default pipeline up to a stage: `lower-to{stage=kernels target=cuda}`."""

    name = "lower-to"

    stage: str = "program"
    """The last stage to reach."""

    target: Target = "cpu"
    """The target to lower for."""

    arch: str = DEFAULT_ARCH
    """The CUDA architecture to lower for: what is new in one may be an operation of the kernels."""

    schedule: Schedule = "graph"
    """How launches follow each other on CUDA."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        run_pipeline(ctx, op, self.target, self.stage, options=CudaOptions(schedule=self.schedule), arch=self.arch)
