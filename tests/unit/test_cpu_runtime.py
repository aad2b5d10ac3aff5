"""The CPU runtime on hand-made artifacts: steps, barriers, workers that park and come late, states, copies, faults."""
# pyright: reportPrivateUsage=false

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hamkaas.artifact import ALIGNMENT, Artifact, BufferRef, Copy, Kernel, Launch, Program, Space, TensorSpec
from hamkaas.errors import RuntimeFault
from hamkaas.runtime import cpu
from hamkaas.runtime.cpu import CpuRuntime, Schedule, choose_workers, schedule

N = 4096
BLOCKS = 16

# Kernels on N floats in BLOCKS blocks. `shift` reads what the blocks of other workers wrote, so that a missing barrier
# shows. `accumulate` is not idempotent, so that a piece that is done twice shows.
SOURCE = """
define void @increment(i64 %begin, i64 %end, ptr %args) {
entry:
  %y.at = getelementptr ptr, ptr %args, i64 1
  %x = load ptr, ptr %args
  %y = load ptr, ptr %y.at
  %first = mul i64 %begin, 256
  %last = mul i64 %end, 256
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %body, label %done
body:
  %from = getelementptr float, ptr %x, i64 %i
  %to = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %from, align 4
  %w = fadd float %v, 1.0
  store float %w, ptr %to, align 4
  %next = add i64 %i, 1
  br label %head
done:
  ret void
}

define void @shift(i64 %begin, i64 %end, ptr %args) {
entry:
  %y.at = getelementptr ptr, ptr %args, i64 1
  %x = load ptr, ptr %args
  %y = load ptr, ptr %y.at
  %first = mul i64 %begin, 256
  %last = mul i64 %end, 256
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %body, label %done
body:
  %away = add i64 %i, 1111
  %j = urem i64 %away, 4096
  %from = getelementptr float, ptr %x, i64 %j
  %to = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %from, align 4
  store float %v, ptr %to, align 4
  %next = add i64 %i, 1
  br label %head
done:
  ret void
}

define void @accumulate(i64 %begin, i64 %end, ptr %args) {
entry:
  %y.at = getelementptr ptr, ptr %args, i64 1
  %x = load ptr, ptr %args
  %y = load ptr, ptr %y.at
  %first = mul i64 %begin, 256
  %last = mul i64 %end, 256
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %body, label %done
body:
  %from = getelementptr float, ptr %x, i64 %i
  %to = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %from, align 4
  %w = load float, ptr %to, align 4
  %s = fadd float %v, %w
  store float %s, ptr %to, align 4
  %next = add i64 %i, 1
  br label %head
done:
  ret void
}

define void @fail(i64 %begin, i64 %end, ptr %args) {
  %status = load ptr, ptr %args
  store i64 2, ptr %status
  ret void
}
"""

KERNELS = (Kernel("increment", 2, 1), Kernel("shift", 2, 1), Kernel("accumulate", 2, 1), Kernel("fail", 1, 1))
LARGE = 1 << 20

X, Y = BufferRef(Space.INPUT), BufferRef(Space.OUTPUT)
WEIGHT, STATE = BufferRef(Space.WEIGHT), BufferRef(Space.STATE)
SPEC_X, SPEC_Y = TensorSpec("x", "float32", (N,)), TensorSpec("y", "float32", (N,))


def arena(number: int) -> BufferRef:
    """The `number`-th temporary."""
    return BufferRef(Space.ARENA, 0, 4 * N * number)


def launch(kernel: str, *args: BufferRef, cost: int = LARGE, barrier: bool = True) -> Launch:
    """A launch that several workers share, unless `cost` is small."""
    return Launch(kernel, BLOCKS, 1, args, barrier, cost)


def program(*steps: Launch | Copy, name: str = "main") -> Program:
    """A program from x to y."""
    return Program(name, (SPEC_X,), (SPEC_Y,), steps, faults=("first fault", "second fault"))


def artifact(*programs: Program, weights: int = 0, states: int = 0, source: str = SOURCE) -> Artifact:
    """An artifact of these programs."""
    spec = TensorSpec("t", "float32", (N,))
    return Artifact("cpu", "", source, KERNELS, (spec,) * weights, (spec,) * states, 16 * N, programs)


@pytest.fixture(autouse=True)
def _caching(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of a session share a cache: most compile the same source."""
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "code"))


@pytest.fixture
def build() -> Iterator[Any]:
    """Makes runtimes that are closed after the test."""
    runtimes: list[CpuRuntime] = []

    def make(*args: Any, **kwargs: Any) -> CpuRuntime:
        runtimes.append(CpuRuntime(*args, **kwargs))
        return runtimes[-1]

    yield make
    for runtime in runtimes:
        runtime.close()


RNG = np.random.default_rng(0)


def vector() -> np.ndarray[Any, np.dtype[np.float32]]:
    """An input."""
    return RNG.integers(-1000, 1000, N).astype(np.float32)


def chain(length: int) -> Program:
    """increment and shift by turns, each reading what all workers wrote."""
    steps = [launch("increment", X, arena(0))]
    for i in range(length):
        steps.append(launch("shift", arena(0), arena(1)))
        steps.append(launch("increment", arena(1), arena(0) if i + 1 < length else Y))
    return program(*steps)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_steps_wait_for_each_other(build: Any, workers: int) -> None:
    runtime = build(artifact(chain(30)), [], workers=workers)
    assert runtime.num_workers == workers
    for _ in range(200):
        x = vector()
        (y,) = runtime.run(0, [x])
        np.testing.assert_array_equal(y, np.roll(x, -1111 * 30) + 31)


def test_every_piece_is_done_once(build: Any) -> None:
    """With more workers than cores some are always late: what they missed is done by others, and by nobody twice."""
    runtime = build(
        artifact(program(*[launch("accumulate", X, STATE)] * 20, Copy(STATE, Y, 4 * N)), states=1), [], workers=5
    )
    x = vector() % 10
    for i in range(1, 101):
        (y,) = runtime.run(0, [x])
        np.testing.assert_array_equal(y, x * 20 * i)


def test_workers_park_and_are_woken(build: Any) -> None:
    runtime = build(artifact(chain(5)), [], workers=3)
    for pause in (0, 0.001, 0.02, 0.0002, 0.0001, 0.05, 0):
        x = vector()
        time.sleep(pause)
        (y,) = runtime.run(0, [x])
        np.testing.assert_array_equal(y, np.roll(x, -1111 * 5) + 6)


def test_programs_of_different_size(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small program runs on the caller; workers that are late from a large one do not disturb it."""
    monkeypatch.setattr(cpu, "available_cores", lambda: 4)
    small = program(launch("increment", X, arena(2), cost=100), launch("increment", arena(2), Y, cost=100))
    runtime = build(artifact(chain(10), small), [])
    assert runtime.num_workers == 4
    for _ in range(300):
        x = vector()
        np.testing.assert_array_equal(runtime.run(1, [x])[0], x + 2)
        np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, -1111 * 10) + 11)
        np.testing.assert_array_equal(runtime.run(1, [x])[0], x + 2)


def test_small_steps_between_large_ones(build: Any) -> None:
    """Barriers that are left out between steps of worker 0 are made up for before the next shared step."""
    steps = [launch("increment", X, arena(0), cost=0)]
    for _ in range(10):
        steps.append(launch("shift", arena(0), arena(1)))
        steps.append(launch("increment", arena(1), arena(2), cost=0))
        steps.append(launch("increment", arena(2), arena(0), cost=0))
    runtime = build(artifact(program(*steps, Copy(arena(0), Y, 4 * N))), [], workers=2)
    for _ in range(200):
        x = vector()
        np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, -1111 * 10) + 21)


def test_offsets_into_inputs_and_outputs(build: Any) -> None:
    half = 2 * N  # bytes
    swap = program(
        Copy(BufferRef(Space.INPUT, 0, half), BufferRef(Space.OUTPUT, 0, 0), half),
        Copy(BufferRef(Space.INPUT, 0, 0), BufferRef(Space.OUTPUT, 0, half), half, barrier=False),
    )
    runtime = build(artifact(swap), [])
    x = vector()
    np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, N // 2))


def test_states_persist_until_reset(build: Any) -> None:
    counting = program(launch("accumulate", X, STATE), Copy(STATE, Y, 4 * N))
    runtime = build(artifact(counting, states=1), [], workers=2)
    ones = np.ones(N, np.float32)
    for i in range(1, 5):
        np.testing.assert_array_equal(runtime.run(0, [ones])[0], i)
    runtime.reset()
    np.testing.assert_array_equal(runtime.run(0, [ones])[0], 1)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("sizes", [[100, 0, 3], [20_000, 7], [1, 3 << 20, 64]])
def test_bandwidth(build: Any, workers: int, sizes: list[int]) -> None:
    runtime = build(artifact(chain(3)), [np.ones(size, np.float32) for size in sizes], workers=workers)
    for _ in range(3):
        found = runtime.bandwidth(0)
        assert 1e8 < found < 1e13
        x = vector()
        np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, -1111 * 3) + 4)


def test_every_weight_is_read_once_for_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [np.ones(size, np.uint8) for size in (1000, 0, 200_000, 255, 512)]
    blocks = list(cpu._blocks_to_read(weights))
    assert [size for _, size in blocks] == [512, 65536, 65536, 65536, 200_000 // 256 * 256 - 3 * 65536, 768]
    assert blocks[0][0] == weights[4].ctypes.data
    assert [at - weights[2].ctypes.data for at, _ in blocks[1:5]] == [0, 65536, 2 * 65536, 3 * 65536]
    monkeypatch.setattr(cpu, "BYTES_TO_READ", 1 << 17)
    assert sum(size for _, size in cpu._blocks_to_read(weights)) == 1 << 17


def test_bandwidth_of_a_model_without_weights(build: Any) -> None:
    assert build(artifact(chain(1)), []).bandwidth(0) is None


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps: only Linux has it")
def test_weights_that_are_copied_are_not_in_memory_twice(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.ones(N + 7, np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r", offset=28, shape=(N,))
    assert mapped.sum() == N
    runtime = build(artifact(program(launch("increment", WEIGHT, Y)), weights=1), [mapped])
    lines = Path("/proc/self/smaps").read_text().split(str(path))[1].splitlines()
    resident = next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))
    assert resident <= 2 * 4096  # what it shares with neighbours
    np.testing.assert_array_equal(runtime.run(0, [vector()])[0], 2)
    assert mapped[0] == 1


def test_large_weights_are_used_where_they_lie(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight in a mapped file, read-only and at a multiple of 4 only: later changes of the file show."""
    monkeypatch.setattr(cpu, "MAX_COPIED_BYTES", 4 * N - 1)
    path = tmp_path / "weights"
    np.arange(N + 7, dtype=np.float32).tofile(path)
    weight = np.memmap(path, np.float32, "r", offset=28, shape=(N,))
    runtime = build(artifact(program(launch("increment", WEIGHT, Y)), weights=1), [weight])
    np.testing.assert_array_equal(runtime.run(0, [vector()])[0], np.arange(8, N + 8))
    np.memmap(path, np.float32, "r+")[:] = 5
    np.testing.assert_array_equal(runtime.run(0, [vector()])[0], 6)


def test_other_weights_are_copied_side_by_side(build: Any, tmp_path: Path) -> None:
    """The second of two weights in a mapped file: later changes of the file do not show."""
    path = tmp_path / "weights"
    np.arange(N + 7, dtype=np.float32).tofile(path)
    weight = np.memmap(path, np.float32, "r", offset=28, shape=(N,))
    second = BufferRef(Space.WEIGHT, 1)
    runtime = build(artifact(program(launch("increment", second, Y)), weights=2), [weight, weight])
    np.memmap(path, np.float32, "r+")[:] = 5
    np.testing.assert_array_equal(runtime.run(0, [vector()])[0], np.arange(8, N + 8))


def test_settled_weights_keep_their_values() -> None:
    """Of all sizes and dtypes, some of them not contiguous; they start at cache lines."""
    weights = [
        np.arange(12, dtype=np.int8).reshape(4, 3).T,
        np.arange(300, dtype=np.float32).reshape(3, 100)[:, ::2],
        np.arange(5).astype(ml_dtypes.bfloat16),
    ]
    specs = [TensorSpec(str(number), weight.dtype.name, weight.shape) for number, weight in enumerate(weights)]
    settled = cpu._settle(specs, iter(weights))
    for weight, copy in zip(weights, settled, strict=True):
        assert copy.dtype == weight.dtype
        np.testing.assert_array_equal(copy, weight)
        assert copy.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("offset", [0, 4], ids=["aligned", "not aligned"])
def test_constants_that_lie_well_are_not_copied(is_constant: bool, offset: int) -> None:
    memory = np.zeros(4 * N + 2 * ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + offset
    weight = memory[start : start + 4 * N].view(np.float32)
    weight.flags.writeable = not is_constant
    other = np.ones(N, np.float32)
    settled = cpu._settle([TensorSpec(name, "float32", (N,)) for name in "abc"], [other, weight, other])
    assert np.shares_memory(settled[1], memory) == (is_constant and not offset)
    if is_constant and not offset:  # it leaves no gap between the others
        assert settled[2].ctypes.data - settled[0].ctypes.data == 4 * N
    for array, value in zip(settled, (1, 0, 1), strict=True):
        np.testing.assert_array_equal(array, value)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps: only Linux has it")
def test_states_take_no_memory_until_they_are_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = resident()
    large = Artifact("cpu", "", SOURCE, KERNELS, (), (TensorSpec("k", "float32", (1 << 27,)),), 0, ())
    runtime = CpuRuntime(large, [])
    assert resident() - before < (1 << 28) // 4096
    assert runtime._states[0][:: 1 << 20].max() == 0
    runtime.close()


@pytest.mark.parametrize("kind", ["strided", "read-only", "bfloat16"])
def test_inputs_of_all_kinds(build: Any, kind: str) -> None:
    values = vector() % 64
    if kind == "strided":
        x = np.repeat(values, 2)[::2]
        assert not x.flags.c_contiguous
    elif kind == "read-only":
        x = values.copy()
        x.flags.writeable = False
    else:
        x = values.astype(ml_dtypes.bfloat16)
    spec = TensorSpec("x", x.dtype.name, (N,))
    copy = Program("main", (spec,), (spec,), (Copy(X, Y, x.itemsize * N),))
    (y,) = build(artifact(copy), []).run(0, [x])
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), values)


def test_outputs_are_new_arrays(build: Any) -> None:
    runtime = build(artifact(program(launch("increment", X, Y))), [], workers=2)
    outputs = [runtime.run(0, [np.full(N, i, np.float32)])[0] for i in range(20)]
    for i, y in enumerate(outputs):
        np.testing.assert_array_equal(y, i + 1)


def test_fault(build: Any) -> None:
    failing = program(launch("increment", X, Y), Launch("fail", 1, 1, (BufferRef(Space.STATUS),)), name="bad")
    runtime = build(artifact(failing, program(launch("increment", X, Y))), [], workers=2)
    for _ in range(2):
        with pytest.raises(RuntimeFault, match=r"^program 'bad': second fault$"):
            runtime.run(0, [vector()])
        runtime.run(1, [vector()])


def test_closing(build: Any) -> None:
    """While workers spin, and while they are parked; twice; what runs afterwards is an error."""
    for pause in (0, 0.02):
        runtime = build(artifact(chain(2)), [], workers=3)
        runtime.run(0, [vector()])
        time.sleep(pause)
        start = time.perf_counter()
        runtime.close()
        runtime.close()
        assert time.perf_counter() - start < 2
        with pytest.raises(RuntimeFault, match="the model is closed"):
            runtime.run(0, [vector()])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hamkaas")]


def test_a_dropped_runtime_ends_its_threads() -> None:
    runtime = CpuRuntime(artifact(chain(2)), [], workers=2)
    runtime.run(0, [vector()])
    gone = weakref.ref(runtime)
    del runtime
    gc.collect()
    assert gone() is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hamkaas")]


def test_two_runtimes_at_once(build: Any) -> None:
    runtimes = [build(artifact(chain(3)), [], workers=2) for _ in range(2)]
    for _ in range(50):
        for runtime in runtimes:
            x = vector()
            np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, -3333) + 4)


def test_callers_take_turns(build: Any) -> None:
    runtime = build(artifact(chain(3)), [], workers=2)
    wrong: list[int] = []

    def call(seed: int) -> None:
        x = np.full(N, seed, np.float32)
        for _ in range(100):
            if not np.array_equal(runtime.run(0, [x])[0], x + 4):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("moment", ["before waking", "while waking"])
def test_an_interrupt_while_workers_are_woken(build: Any, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The run is brought to its end, since others are in it already, and then the interrupt goes on."""
    runtime = build(artifact(chain(3)), [], workers=3)
    pool = runtime._pool
    mailboxes = pool._memory.view(np.int64).reshape(-1, cpu._LINE)[3:, 0]
    while not (mailboxes == 2).all():  # not all are parked
        time.sleep(0.01)
    once = pool._wake_and_work

    def interrupted() -> None:
        monkeypatch.undo()
        if moment == "while waking":
            pool._wake_ups[1].release()
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_wake_and_work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(0, [vector()])
    assert pool._wake_and_work == once
    for _ in range(20):
        x = vector()
        time.sleep(0.001)
        np.testing.assert_array_equal(runtime.run(0, [x])[0], np.roll(x, -3333) + 4)


def test_code_is_cached(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCE + "\n; another source"
    compiled: list[str] = []
    compile_ = cpu._Code._compile

    def count(text: str, *args: str) -> bytes:
        compiled.append(text)
        return compile_(text, *args)

    monkeypatch.setattr(cpu._Code, "_compile", staticmethod(count))
    for _ in range(2):
        x = vector()
        np.testing.assert_array_equal(
            build(artifact(chain(1), source=source), []).run(0, [x])[0], np.roll(x, -1111) + 2
        )
    assert len(compiled) == 1
    monkeypatch.setenv("HAMKAAS_CACHE", "0")
    build(artifact(chain(1), source=source), [])
    assert len(compiled) == 2


def test_the_interpreter_ends_without_close(tmp_path: Path) -> None:
    """Workers that spin or are parked do not keep a program from ending."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from tests.unit import test_cpu_runtime as t
runtime = t.CpuRuntime(t.artifact(t.chain(3)), [], workers=3)
runtime.run(0, [t.vector()])
"""
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=root)


def test_choosing_workers(monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    step = launch("increment", X, Y, cost=1 << 20)
    assert choose_workers(program(), 8) == 1
    assert choose_workers(program(launch("increment", X, Y, cost=1000)), 8) == 1
    assert choose_workers(program(*[step] * 3), 8) == 3
    assert choose_workers(program(*[step] * 30), 8) == 8
    monkeypatch.setenv("HAMKAAS_WORKERS", "2")
    assert build(artifact(program(launch("increment", X, Y, cost=1000))), []).num_workers == 2


@pytest.mark.parametrize(
    ("costs", "barriers", "expected"),
    [
        # two large steps that depend on each other
        ("LL", (0, 1), [False, True]),
        # two large ones that do not: one at a time all the same
        ("LL", (0, 0), [False, True]),
        # small ones in a row are all worker 0's; the large one after them waits for all
        ("SSL", (0, 1, 0), [False, False, True]),
        # a small one that depends on a large one, and one that does not
        ("LSS", (0, 1, 1), [False, True, False]),
        ("LSS", (0, 0, 1), [False, False, True]),
    ],
)
def test_schedule(costs: str, barriers: Sequence[int], expected: list[bool]) -> None:
    steps = [
        launch("increment", X, Y, cost=LARGE if cost == "L" else 0, barrier=bool(barrier))
        for cost, barrier in zip(costs, barriers, strict=True)
    ]
    assert [step.barrier for step in schedule(steps, 2)] == expected
    assert [step.barrier for step in schedule(steps, 1)] == [False] * len(steps)


def test_pieces() -> None:
    """As many as the blocks allow, and not too small."""
    costs = {100: (1, 1), 40 << 10: (2, 1), 200 << 10: (2, 3), 1 << 30: (2, 8)}
    for cost, (workers, pieces) in costs.items():
        (who,) = schedule([launch("increment", X, Y, cost=cost, barrier=False)], 2)
        assert who == Schedule(workers, pieces, False)
    (who,) = schedule([Launch("increment", 3, 1, (X, Y), cost=1 << 30)], 8)
    assert (who.workers, who.pieces) == (3, 1)
