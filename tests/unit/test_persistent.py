"""Launches as steps of one kernel that stays: what becomes of whole models, without a GPU."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import Case, Maker, assert_close, cases, runs_of
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

import hamkaas as hk
from hamkaas.artifact import Artifact, BufferRef, Copy, Launch, Persistent, Space
from hamkaas.codegen.cuda_persistent import waits_at_entry
from hamkaas.codegen.plan import print_plan
from hamkaas.compiler import compile_artifact
from hamkaas.dialects import kernel, program
from hamkaas.frontend import build_module
from hamkaas.interpreters.program import run_program
from hamkaas.models.llama2 import Config, Transformer, load_checkpoint
from hamkaas.passes.program_to_persistent import ProgramToPersistentPass
from hamkaas.pipeline import CudaOptions, run_pipeline
from hamkaas.runtime import cuda_persistent
from hamkaas.runtime.cuda_persistent import LoadedPersistent, table_of
from hamkaas.runtime.nvrtc import compile_cubin, compile_ptx, resources
from hamkaas.universe import context

ARCH = "sm_90"
PERSISTENT = CudaOptions(schedule="persistent")


def lowered(graphs: dict[str, Any], arch: str = ARCH) -> ModuleOp:
    module = build_module(graphs).module.clone()
    run_pipeline(context(), module, "cuda", arch=arch, options=PERSISTENT)
    return module


def decode(models: Path) -> dict[str, Any]:
    """Decoding with a real model, with the choice of tokens on the device."""
    checkpoint = load_checkpoint(models / "stories260K.bin")
    return Transformer(checkpoint.config, checkpoint.weights).decode()


def artifact_of(config: Config) -> Artifact:
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.weight_shapes()}
    graphs = build_module(Transformer(config, weights).decode())
    return compile_artifact(graphs, "cuda", ARCH, PERSISTENT)


# whole models


def test_a_step_of_a_small_model_is_one_kernel(models: Path) -> None:
    artifact = compile_artifact(build_module(decode(models)), "cuda", ARCH, PERSISTENT)
    step, *copies = artifact.programs[1].steps
    assert isinstance(step, Persistent)
    assert all(isinstance(copy, Copy) for copy in copies)
    assert len(step.launches) == 28  # position; five for each of five layers; logits; token
    # the other program's kernel, and this one: stages are no entry points
    assert [one.name for one in artifact.kernels] == ["g0", "persistent0"]
    found = {one.name: one for one in resources(compile_cubin(artifact.source, ARCH, use_cache=False).log)}
    assert found.keys() == {"g0", "persistent0"}
    assert found["persistent0"].shared_bytes == artifact.kernels[1].shared_bytes


@pytest.mark.parametrize(
    "config",
    [
        Config(64, 172, 5, 8, 4, 512, 512, True),
        Config(288, 768, 6, 6, 6, 32000, 256, True),
        Config(768, 2048, 2, 12, 12, 32000, 1024, True),
        Config(36, 172, 2, 3, 1, 33, 17, False),
    ],
    ids=["260K", "15M", "110M", "odd"],
)
def test_nothing_is_spilled_and_two_blocks_fit(config: Config) -> None:
    source = artifact_of(config).source
    kernels = {one.name: one for one in resources(compile_cubin(source, ARCH, use_cache=False).log)}
    one = kernels["persistent0"]
    assert (one.spill_stores, one.spill_loads, one.stack) == (0, 0, 0)
    assert one.registers <= 128
    ptx = compile_ptx(source, ARCH)
    body = ptx[ptx.index(".entry persistent0") :]
    assert "ld.global.nc" not in body  # such loads may be moved ahead of the waits
    assert "ld.global.v4" in body  # the compiler knows that buffers are in global memory
    assert "\tld.v4" not in body


def test_the_plan_shows_the_launches(models: Path) -> None:
    text = print_plan(lowered(decode(models)))
    assert "program next: 28 launches of 10 kernels\n" in text
    lines = text[text.index("program next") :].splitlines()
    first = lines.index("    persistent0: blocks of 256 threads that stay")
    assert lines[first + 1].startswith("      g2         1 x 128 ")
    assert lines[first + 2].startswith("    | g1        64 x 128  rms_norm matmul complex_mul")
    assert lines[first + 29].startswith("  | copy tokens -> output 0")


def test_passes_leave_what_is_done_as_it_is(models: Path) -> None:
    module = lowered(decode(models))
    text = str(module)
    run_pipeline(context(), module, "cuda", arch=ARCH, options=PERSISTENT)
    assert str(module) == text


def test_before_sm_90_the_schedule_changes_nothing(models: Path) -> None:
    built = build_module(decode(models))
    assert compile_artifact(built, "cuda", "sm_80", PERSISTENT) == compile_artifact(built, "cuda", "sm_80")


# any graph


def test_the_interpreter_runs_persistent_kernels() -> None:
    m = Maker(3)
    sizes = (24, 40, 8, 24, 33)
    x = m.real(1, sizes[0])
    for n, k in pairwise(sizes):
        x = ((x @ m.real(n, k)) * 0.3).silu()
    case = m.case(x.rms_norm(m.real(33)), x.argmax(), x + x)
    built = build_module({"main": case.outputs})
    with runs_of(1):
        module = lowered({"main": case.outputs})
    regions = [op for op in module.walk() if isinstance(op, program.PersistentOp)]
    assert sum(len(region.launches) for region in regions) >= len(sizes)
    for result, expected in zip(run_program(module, case.inputs, built.weights, {}), case.expected(), strict=True):
        assert_close(result, expected, case.tolerance)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in list(cases())[::5]])
def test_stages_become_machine_code(make: Callable[[], Case]) -> None:
    with runs_of(1):
        artifact = compile_artifact(build_module({"main": make().outputs}), "cuda", ARCH, PERSISTENT)
    assert compile_cubin(artifact.source, ARCH).image.startswith(b"\x7fELF")


# where stages wait

WAITS = [
    ("kernel.wait_dependency", False),
    ("scf.if %block_is_one {{ {} }}", False),
    ("scf.if %thread_is_one {{ {} }}", True),
    ("scf.if %loaded {{ {} }}", True),  # the same for all, but who knows
    ("scf.for %i = %zero to %block step %one {{ {} }}", False),
    ("scf.for %i = %zero to %thread step %one {{ {} }}", True),
    ("scf.for %i = %zero to %two step %one {{ %c = arith.cmpi eq, %i, %block : index scf.if %c {{ {} }} }}", False),
    ("scf.for %i = %thread to %two step %one {{ %c = arith.cmpi eq, %i, %one : index scf.if %c {{ {} }} }}", True),
    ("scf.if %thread_is_one {{ scf.if %block_is_one {{ {} }} }}", True),
]


@pytest.mark.parametrize(("around", "expected"), WAITS)
def test_a_stage_waits_at_its_entry_where_not_all_threads_come_by(around: str, expected: bool) -> None:
    text = f"""kernel.func @f(%m: memref<1xi1>)
        attributes {{grid = 2 : i64, block = 32 : i64, inputs = 1 : i64, results = array<i64>}} {{
      %zero = arith.constant 0 : index
      %one = arith.constant 1 : index
      %two = arith.addi %one, %one : index
      %block = kernel.block_id
      %thread = kernel.thread_id
      %block_is_one = arith.cmpi eq, %block, %one : index
      %thread_is_one = arith.cmpi eq, %thread, %one : index
      %loaded = kernel.load %m[%zero] : memref<1xi1> -> i1
      {around.format("kernel.wait_dependency")}
      kernel.return
    }}"""
    (func,) = Parser(context(), text).parse_module().body.block.ops
    assert isinstance(func, kernel.FuncOp)
    assert waits_at_entry(func) == expected


def test_a_long_run_becomes_several() -> None:
    body = "program.launch @f(%x, %x, %x, %x) : memref<1xf32>, memref<1xf32>, memref<1xf32>, memref<1xf32>\n"
    arguments = ", ".join(f"%a{number}: memref<1xf32>" for number in range(4))
    text = f"""kernel.func @f({arguments}) attributes {{grid = 1 : i64, block = 32 : i64, inputs = 4 : i64,
        results = array<i64>, constants = array<i64>}} {{ kernel.return }}
      program.func @main {{ %x = program.temp at 0 : memref<1xf32>
        {body * 1300} }}"""
    module = Parser(context(), text).parse_module()
    ProgramToPersistentPass().apply(context(), module)
    module.verify()
    regions = [op for op in module.walk() if isinstance(op, program.PersistentOp)]
    assert [region.sym_name.data for region in regions] == ["persistent0", "persistent1", "persistent2"]
    assert [len(region.launches) for region in regions] == [614, 614, 72]  # 40 bytes each, of 24 KB


# the runtime's part

STEP = Persistent(
    "persistent0",
    256,
    (
        Launch("b", 7, 128, (BufferRef(Space.ARENA, 0, 256), BufferRef(Space.STATUS))),
        Launch("a", 1, 32, (BufferRef(Space.ARENA, 0, 512), BufferRef(Space.STATUS), BufferRef(Space.ARENA))),
        Launch("b", 7, 128, (BufferRef(Space.ARENA, 0, 0), BufferRef(Space.STATUS))),
    ),
)


def place(ref: BufferRef) -> int:
    return 0x1000 if ref.space is Space.STATUS else 0x20000 + ref.offset


def test_the_table() -> None:
    words = table_of(STEP, place).view(np.uint32).reshape(3, 8)
    assert words[:, :2].tolist() == [[0, 7], [1, 1], [0, 7]]  # stages are numbered as they come
    assert words[:, 2::2].tolist() == [[0x20100, 0x1000, 0], [0x20200, 0x1000, 0x20000], [0x20000, 0x1000, 0]]
    assert not words[:, 3::2].any()


class FakeDriver:
    """A device of ten multiprocessors that holds so many blocks on each."""

    def __init__(self, each: int, cooperates: int):
        kinds = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH=cooperates, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=10
        )
        self.CUdevice_attribute = kinds
        self.each = each
        self.zeroed = 0

    def cuCtxGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cuDeviceGetAttribute(self, kind: int, device: int) -> tuple[int, int]:
        return 0, kind

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function: object, block: int, shared: int) -> tuple[int, int]:
        return 0, self.each

    def cuMemcpyHtoD(self, target: int, source: int, size: int) -> tuple[int]:
        return (0,)

    def cuMemsetD32(self, target: int, value: int, count: int) -> tuple[int]:
        self.zeroed = count
        return (0,)

    def cuCtxSynchronize(self) -> tuple[int]:
        return (0,)


def load(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> LoadedPersistent:
    monkeypatch.setattr(cuda_persistent, "driver", driver)
    return LoadedPersistent(STEP, "function", lambda size: 0x100, place)


def test_as_many_blocks_stay_as_run_together_or_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, driver := FakeDriver(2, 1)).grid == 7
    assert driver.zeroed == 3 + 7  # a counter for each step, and for each block
    many = Persistent("p", 256, (*STEP.launches, Launch("a", 1000, 32, ())))
    assert LoadedPersistent(many, "function", lambda size: 0x100, place).grid == 20


@pytest.mark.parametrize(
    ("each", "cooperates", "message"),
    [
        (2, 0, "expected a device with cooperative launches, got one without"),
        (0, 1, "expected a multiprocessor to hold a block of 256 threads, got none"),
    ],
)
def test_a_device_that_cannot(monkeypatch: pytest.MonkeyPatch, each: int, cooperates: int, message: str) -> None:
    with pytest.raises(hk.RuntimeFault, match=rf"kernel persistent0 \(schedule='graph' does without\): {message}"):
        load(monkeypatch, FakeDriver(each, cooperates))


# asking for it


def test_schedules_that_are_not_there() -> None:
    x = hk.InputTensor("x", "float32", [4])
    with pytest.raises(hk.CompileError, match="expected schedule to be 'auto', 'graph' or 'persistent', got 'fast'"):
        hk.compile(x.relu(), target="cpu", schedule="fast")  # type: ignore[arg-type]
    with pytest.raises(hk.TargetError, match="schedule='persistent' is for target 'cuda', got target 'cpu'"):
        hk.compile(x.relu(), target="cpu", schedule="persistent")
