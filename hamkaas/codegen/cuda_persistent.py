"""`program.persistent` to CUDA C++: one kernel whose blocks stay, and do the work of one launch after the other.

A kernel that is launched inside becomes a device function, a stage, that does the work of one of its blocks. The
persistent kernel walks over a table of steps (which stage, how many blocks, on which buffers), which the runtime fills.

Blocks of 256 threads stay on the device. One does as many blocks of a stage at a time as their threads fit into its
own: each has a slot with a barrier and a piece of shared memory of its own. Slots take blocks by their number, those of
all blocks' first slots first, so that a small stage is spread over the whole device.

How a step waits for the one before:

    Each step has a counter. When a block has done its part of a step, it adds 1 (release); when the counter has as many
    as there are blocks with a part of the step, the step has ended. A slot waits for the end of the step before in its
    first block of work, where the kernel has its `kernel.wait_dependency` (acquire); blocks that have no part of a step
    pass it by. Each slot with work waits before its block adds 1, so that the end of a step implies that of all before.

    Counters are never cleared: after n runs, each stands at n times its number, modulo 2^32. Which run this is, each
    block knows by itself: it counts its runs, in a word that nobody else touches. (Were counters cleared in the next
    run, a block whose only work is in the last step could come there first, and find what the last run left.)

    No block waits for one that has not started: the runtime launches as many as the device runs at the same time, and
    the driver refuses if it cannot.
"""

from collections.abc import Mapping, Sequence

from xdsl.dialects import arith, scf
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from hamkaas.codegen.cuda import MAX_SHARED_BYTES, KernelPrinter, buffer_bytes
from hamkaas.dialects import kernel, program

MAX_REGISTERS = 128
"""Of a thread: room for many weights."""

RESIDENT_THREADS = 65536 // MAX_REGISTERS
"""Threads of a persistent kernel on each multiprocessor: as many as have registers."""

MAX_TABLE_BYTES = MAX_SHARED_BYTES // 2
"""Every block copies the table of steps into its shared memory: what a step needs is then there when it begins."""

MAX_STAGE_BYTES = MAX_SHARED_BYTES - MAX_TABLE_BYTES
"""Shared memory that is left for the stages."""

_ALIGNMENT = 16
"""Bytes: where a buffer in shared memory starts."""

PRELUDE = """\
// A launch: which stage, how many blocks, and on which buffers
template <int count>
struct Step {
  int stage;
  int grid;
  unsigned long long buffers[count];
};

// A buffer of a step: said to be in global memory, which the compiler cannot know of a pointer that comes from memory
template <typename T>
__device__ __forceinline__ T* global(unsigned long long place) {
  return static_cast<T*>(__cvta_global_to_generic(place));
}

// Some threads of a persistent kernel, which do the work of one block at a time, and what that has to wait for
struct Slot {
  int number;
  bool waits;  // as long as it has not seen the step before end
  unsigned expected;
  const unsigned* counter;
};

// A barrier for the threads of a slot; barrier 0 is that of all
template <int threads>
__device__ __forceinline__ void meet(const Slot& slot) {
  asm volatile("bar.sync %0, %1;" ::"r"(slot.number + 1), "n"(threads) : "memory");
}

// Waits until all blocks have done their part of the step before; what they wrote is seen from here on
template <int threads>
__device__ __forceinline__ void wait_for_step(Slot& slot) {
  if (!slot.waits) return;
  slot.waits = false;
  if (threadIdx.x % threads == 0) {
    unsigned found;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(slot.counter) : "memory");
    } while (found != slot.expected);
  }
  meet<threads>(slot);
}

// Tells that this block has done its part of a step; a barrier of its threads stands before
__device__ __forceinline__ void end_part(unsigned* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
"""


def stage_bytes(func: kernel.FuncOp) -> int:
    """Bytes of shared memory that a slot needs for a kernel."""
    return sum(_aligned(op) for op in func.body.walk() if isinstance(op, kernel.AllocOp))


def _aligned(op: kernel.AllocOp) -> int:
    return -(-buffer_bytes(op) // _ALIGNMENT) * _ALIGNMENT


def table_bytes(launches: Sequence[program.LaunchOp]) -> int:
    """Bytes of a table of steps: two numbers, and as many pointers as the launch with the most has."""
    return len(launches) * (8 + 8 * max(len(launch.args) for launch in launches))


def stage_names(region: program.PersistentOp) -> tuple[str, ...]:
    """The kernels of a region, by their number in the table: in the order of their first launches."""
    return tuple(dict.fromkeys(launch.callee.root_reference.data for launch in region.launches))


def num_slots(func: kernel.FuncOp, block: int) -> int:
    """How many blocks of a kernel one block of so many threads does at a time."""
    fitting = block // func.block.value.data
    return max(1, min(fitting, MAX_STAGE_BYTES // size)) if (size := stage_bytes(func)) else fitting


def region_bytes(region: program.PersistentOp, kernels: Mapping[str, kernel.FuncOp]) -> int:
    """Bytes of shared memory of a block of a persistent kernel."""
    return _memory_bytes(region, kernels) + table_bytes(region.launches)


def _memory_bytes(region: program.PersistentOp, kernels: Mapping[str, kernel.FuncOp]) -> int:
    stages = [kernels[name] for name in stage_names(region)]
    return max(num_slots(stage, region.block.value.data) * stage_bytes(stage) for stage in stages)


def print_stage(func: kernel.FuncOp, helpers: dict[str, str]) -> str:
    """The device function that does the work of one block of a kernel; `helpers` gets what is printed before."""
    return _StagePrinter(func, helpers).text()


def print_persistent(region: program.PersistentOp, kernels: Mapping[str, kernel.FuncOp]) -> str:
    """The kernel of a region, whose stages are printed before it."""
    name, block, count = region.sym_name.data, region.block.value.data, len(region.launches)
    step = f"Step<{max(len(launch.args) for launch in region.launches)}>"
    memory = _memory_bytes(region, kernels)
    cases = [line for number, stage in enumerate(stage_names(region)) for line in _case(number, kernels[stage], block)]
    buffer = [f"  __shared__ __align__({_ALIGNMENT}) unsigned char memory[{memory}];"] if memory else []
    return "\n".join(
        [
            f"// {count} launches of {len(stage_names(region))} kernels, by blocks that stay",
            f'extern "C" __global__ void __launch_bounds__({block}, {max(1, RESIDENT_THREADS // block)}) {name}(',
            f"    const {step}* table,",
            "    unsigned* counters) {  // of the steps; then, for each block, how often it has run",
            f"  __shared__ {step} steps[{count}];",
            *buffer,
            f"  for (unsigned i = threadIdx.x; i < sizeof(steps) / 8; i += {block}) {{",
            "    reinterpret_cast<uint2*>(steps)[i] = reinterpret_cast<const uint2*>(table)[i];",
            "  }",
            f"  const unsigned run = counters[{count} + blockIdx.x] + 1;",
            "  __syncthreads();",
            f"  for (int number = 0; number < {count}; ++number) {{",
            f"    const {step}& step = steps[number];",
            "    const int first = blockIdx.x, grid = step.grid, width = gridDim.x;",
            "    if (first >= grid) continue;",
            "    Slot slot{0, number > 0};  // the order of the stream is before the first step",
            "    if (slot.waits) {",
            "      slot.expected = run * min(steps[number - 1].grid, width);",
            "      slot.counter = &counters[number - 1];",
            "    }",
            "    switch (step.stage) {",
            *cases,
            "    }",
            "    __syncthreads();",
            "    if (threadIdx.x == 0) end_part(&counters[number]);",
            "  }",
            f"  if (threadIdx.x == 0) counters[{count} + blockIdx.x] = run;",
            "}",
            "",
        ]
    )


def _case(number: int, func: kernel.FuncOp, block: int) -> list[str]:
    """What a persistent kernel does in a step of this stage."""
    threads, slots, size = func.block.value.data, num_slots(func, block), stage_bytes(func)
    start, stride = ("first", "width") if slots == 1 else ("first + slot.number * width", f"{slots} * width")
    guard = "block < grid" if slots * threads == block else f"slot.number < {slots} && block < grid"
    lines = [f"      case {number}:"]
    if threads < block:
        lines.append(f"        slot.number = threadIdx.x / {threads};")
    memory = "nullptr" if not size else f"memory + slot.number * {size}" if slots > 1 else "memory"
    types = [type for _, type in KernelPrinter(func, {}).pointers()]
    casts = [f"global<{type.removesuffix('*')}>(step.buffers[{i}])" for i, type in enumerate(types)]
    arguments = ["slot", "block", memory, *casts]
    return [
        *lines,
        f"        for (int block = {start}, next; {guard}; block = next) {{",
        f"          next = block + {stride};",
        f"          {_stage_name(func)}(",
        *(f"              {argument}," for argument in arguments[:-1]),
        f"              {arguments[-1]});",
        f"          if (next < grid) meet<{threads}>(slot);  // the next block has the same shared memory",
        "        }",
        "        break;",
    ]


def _stage_name(func: kernel.FuncOp) -> str:
    return f"{func.sym_name.data}_stage"


class _StagePrinter(KernelPrinter):
    """A kernel as a function of the number of the block whose work it does."""

    block_id = "block_number"

    def __init__(self, func: kernel.FuncOp, helpers: dict[str, str]):
        super().__init__(func, helpers)
        self.threads = func.block.value.data
        self.thread_id = f"static_cast<int>(threadIdx.x % {self.threads})"
        self.taken |= {"block_number", "slot", "memory", "meet", "wait_for_step"}
        self.used = 0
        """Bytes of shared memory that have an owner."""
        self.waits_at_entry = waits_at_entry(func)

    def text(self) -> str:
        """The function's definition."""
        args = [f"{type} {self.name(arg)}" for arg, type in self.pointers()]
        if self.waits_at_entry:
            self.print_wait()
        self.block(self.func.body.block)
        if not self.waits_at_entry and not _is_passed_by_all(self.func):
            self.print_wait()
        label, grid = self.func.label.data or "kernel", self.func.grid.value.data
        parameters = ["Slot& slot", "const int block_number", "unsigned char* memory", *args]
        head = [
            f"// {label}: one of {grid} blocks of {self.threads} threads",
            # No pointer is restrict: what one stage writes, the next one reads, in one and the same kernel
            f"__device__ __forceinline__ void {_stage_name(self.func)}(",
            ",\n".join(f"    {one}" for one in parameters) + ") {",
        ]
        return "\n".join([*head, *self.lines, "}\n"])

    def print_wait(self) -> None:
        """Waits for the step before, unless this was done."""
        self.line(f"wait_for_step<{self.threads}>(slot);")

    def barrier(self) -> None:
        self.line(f"meet<{self.threads}>(slot);")

    def launch_dependents(self) -> None:
        """Nothing: the blocks of the next step are there already."""

    def wait_dependency(self) -> None:
        if not self.waits_at_entry:
            self.print_wait()

    def alloc(self, op: kernel.AllocOp) -> None:
        """A part of the slot's memory."""
        op.memref.name_hint = op.memref.name_hint or "shared"
        type = self.type(op.memref.type.element_type)
        place = f"memory + {self.used}" if self.used else "memory"
        self.line(f"{type}* const {self.name(op.memref)} = reinterpret_cast<{type}*>({place});")
        self.used += _aligned(op)


# where all threads of a block come by


def waits_at_entry(func: kernel.FuncOp) -> bool:
    """Whether a stage must wait before all else: where one of the kernel's waits stands, not all threads may come."""
    waits = [op for op in func.body.walk() if isinstance(op, kernel.WaitDependencyOp)]
    return not all(_is_passed_together(op) for op in waits)


def _is_passed_by_all(func: kernel.FuncOp) -> bool:
    """Whether every block comes to a wait, whatever its number."""
    return any(isinstance(op, kernel.WaitDependencyOp) for op in func.body.block.ops)


def _is_passed_together(op: Operation) -> bool:
    """Whether either all threads of a block come to an operation, and equally often, or none."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, kernel.FuncOp):
        decisive = parent.operands[:1] if isinstance(parent, scf.IfOp) else parent.operands
        if isinstance(parent, scf.ForOp):
            decisive = (parent.lb, parent.ub, parent.step)
        if not all(map(is_uniform, decisive)):
            return False
        parent = parent.parent_op()
    return True


def is_uniform(value: SSAValue) -> bool:
    """Whether a value is surely the same for all threads of a block: of constants, its number and loop counters."""
    owner = value.owner
    if isinstance(owner, Block):
        loop = owner.parent_op()
        is_counter = isinstance(value, BlockArgument) and value.index == 0
        return isinstance(loop, scf.ForOp) and is_counter and all(map(is_uniform, (loop.lb, loop.ub, loop.step)))
    if isinstance(owner, kernel.BlockIdOp | arith.ConstantOp):
        return True
    return owner.dialect_name() == "arith" and all(map(is_uniform, owner.operands))
