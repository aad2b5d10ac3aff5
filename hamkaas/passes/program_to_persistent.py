"""Runs launches in a row as one kernel whose blocks stay."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from hamkaas.codegen.cuda_persistent import MAX_REGISTERS, MAX_STAGE_BYTES, MAX_TABLE_BYTES, stage_bytes, table_bytes
from hamkaas.dialects import kernel, program
from hamkaas.remarks import remark


@dataclass(frozen=True)
class ProgramToPersistentPass(ModulePass):
    """Wrap each run of launches that one kernel can do without letting go of the device into a `program.persistent`.

    1. A launch fits if its kernel waits for the launches before it by itself (`program-overlap-launches`), and has no
       clusters, blocks of whole warps that fit into one of the persistent kernel, no more registers and shared memory
       than that has to give, and not too many threads in all.
    2. A run is as many launches as follow each other with barriers and checks of the host between them. Copies, cuDNN
       and launches that do not fit end it.
    3. A run that is too short stays as it is; one whose table of steps is too large becomes several.

    A kernel may be launched inside and outside. What is refused is a remark.

    ```
    program.launch @g0(%x, %t)          program.persistent @persistent0 block 256 {
    program.barrier                       program.launch @g0(%x, %t)
    program.launch @g1(%t, %y)    ->      program.barrier
    program.copy %y to %s                 program.launch @g1(%t, %y)
                                        }
                                        program.copy %y to %s
    ```
    """

    name = "program-to-persistent"

    min_launches: int = 8
    """The shortest run that is worth it: such a kernel starts and ends more slowly than others."""

    block: int = 256
    """Threads of a block of the persistent kernel, and the most that a kernel in it may have."""

    max_threads: int = 1 << 19
    """The most threads of a launch, in all its blocks. Beyond some rounds of the blocks that stay (512 threads on each
    multiprocessor), memory is what counts, and more threads at once keep more of it busy."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = {child.sym_name.data: child for child in op.body.block.ops if isinstance(child, kernel.FuncOp)}
        taken = {child.sym_name.data for child in op.walk() if isinstance(child, program.PersistentOp)} | set(kernels)
        names = (name for number in count() if (name := f"persistent{number}") not in taken)
        misfits = {name: why for name, one in kernels.items() if (why := self._misfit(one)) is not None}
        for function in [child for child in op.body.block.ops if isinstance(child, program.FuncOp)]:
            refused = dict.fromkeys(_misfits(function, misfits))
            for run in list(_runs(function, misfits)):
                if len(run) >= self.min_launches:
                    _wrap(run, program.PersistentOp(next(names), self.block))
                else:
                    why = f"expected a run of at least {self.min_launches} launches, got {len(run)}"
                    refused[_text(run[0]), why] = None
            for what, why in refused:  # equal ones once: layers repeat them
                remark(f"{self.name}: @{function.sym_name.data}", what, why)

    def _misfit(self, one: kernel.FuncOp) -> str | None:
        """Why launches of a kernel cannot be steps of a persistent one; None if they can."""
        grid, block = one.grid.value.data, one.block.value.data
        if one.constants is None:
            return "expected a kernel that waits for the launches before it"
        if (cluster := one.cluster.value.data) > 1:
            return f"expected no clusters, got clusters of {cluster} blocks"
        if block > self.block or block % 32:
            return f"expected a block that is a multiple of 32 up to {self.block}, got {block} threads"
        if one.min_blocks.value.data == 1:
            return f"expected at most {MAX_REGISTERS} registers a thread, got a kernel that may take all"
        if (size := stage_bytes(one)) > MAX_STAGE_BYTES:
            return f"expected at most {MAX_STAGE_BYTES} bytes of shared memory, got {size}"
        if grid * block > self.max_threads:
            return f"expected at most {self.max_threads} threads, got {grid} blocks of {block}"
        return None


_BETWEEN = (program.BarrierOp, program.CheckOp, program.CheckSpanOp)
"""What may stand between the launches of a run; what the host checks, it checks before anything runs."""


def _callee(launch: program.LaunchOp) -> str:
    return launch.callee.root_reference.data


def _runs(function: program.FuncOp, misfits: Mapping[str, str]) -> Iterator[list[program.LaunchOp]]:
    """The launches that may go together, in order."""
    run: list[program.LaunchOp] = []
    for op in function.body.block.ops:
        if isinstance(op, _BETWEEN):
            continue
        launch = op if isinstance(op, program.LaunchOp) and _callee(op) not in misfits else None
        if run and (launch is None or table_bytes([*run, launch]) > MAX_TABLE_BYTES):
            yield run
            run = []
        if launch is not None:
            run.append(launch)
    if run:
        yield run


def _misfits(function: program.FuncOp, misfits: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The steps that are in no run, and why."""
    for op in function.body.block.ops:
        if isinstance(op, program.LaunchOp) and _callee(op) in misfits:
            yield _text(op), misfits[_callee(op)]
        elif isinstance(op, program.CopyOp | program.ExecuteOp):
            yield _text(op), "expected a launch: it ends the run before it"


def _text(op: Operation) -> str:
    """A step, as remarks name it."""
    if isinstance(op, program.LaunchOp | program.ExecuteOp):
        return f"{op.name} @{op.callee.root_reference.data}"
    return op.name


def _wrap(run: list[program.LaunchOp], region: program.PersistentOp) -> None:
    """Moves a run, with the barriers inside of it, into a region where it began."""
    Rewriter.insert_op(region, InsertPoint.before(run[0]))
    op: Operation | None = run[0]
    while op is not None:
        following = op.next_op
        if isinstance(op, program.LaunchOp | program.BarrierOp):
            op.detach()
            region.body.block.add_op(op)
        op = None if op is run[-1] else following
