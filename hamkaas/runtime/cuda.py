"""Runs an artifact on an NVIDIA GPU through the driver API.

A program is captured once as a CUDA graph: uploads of its inputs from pinned memory, kernels and copies in order,
downloads of its outputs. A call writes the inputs into pinned memory, launches the graph and waits for it.
"""

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from hamkaas.artifact import (
    ALIGNMENT,
    Artifact,
    BufferRef,
    Copy,
    Execute,
    Kernel,
    Persistent,
    Program,
    Space,
    TensorSpec,
)
from hamkaas.errors import InputError, RuntimeFault
from hamkaas.runtime.arrays import device_of
from hamkaas.runtime.cuda_persistent import LoadedPersistent
from hamkaas.runtime.cudnn import Device, LoadedPlan
from hamkaas.runtime.device_array import DeviceArray, check, device_pointer, driver, text_of
from hamkaas.runtime.launch import enqueue_kernel
from hamkaas.runtime.nvrtc import Cubin, compile_cubin

UPLOAD_CHUNK = 32 << 20
"""Bytes of pinned memory through which weights are uploaded; there are two such pieces, used in turn."""

COPY_BYTES = 4 << 30
"""Size of the copies that measure the bandwidth, unless the device has little memory left."""

MAX_GRAPHS = 16
"""Instantiated graphs that are kept: one for each program and set of device arrays that it was called with."""

RUNS_TOGETHER = 8
"""Runs in a row that are one graph: between two graphs the device does nothing for some microseconds."""

DEFAULT_ARCH = "sm_90"


@cache
def driver_available() -> str | None:
    """None if a driver with a GPU answers, else the reason why not. Asked once."""
    try:
        (code,) = driver.cuInit(0)
    except Exception as error:  # the bindings raise their own kinds of errors where the library is missing
        return f"no CUDA driver ({str(error).splitlines()[0]})"
    if code != driver.CUresult.CUDA_SUCCESS:
        return f"the CUDA driver does not start ({code.name})"
    code, count = driver.cuDeviceGetCount()
    if code != driver.CUresult.CUDA_SUCCESS or not count:
        return "the CUDA driver finds no GPU"
    return None


def default_arch() -> str:
    """The architecture of the first GPU, or `sm_90` where there is none."""
    if driver_available() is not None:
        return DEFAULT_ARCH
    device = check(driver.cuDeviceGet(0))
    kinds = driver.CUdevice_attribute
    major = check(driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device))
    minor = check(driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
    return f"sm_{major}{minor}"


@dataclass(frozen=True)
class Gpu:
    """A GPU whose primary context is current."""

    context: Any
    name: str
    """See `gpu_name`."""


def gpu_name() -> str:
    """Tells apart GPUs that do not run the same code at the same speed: 'NVIDIA H100 80GB HBM3, sm_90, 132 SMs'."""
    driver_available()  # starts the driver
    device = check(driver.cuDeviceGet(0))
    kind = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    name = text_of(check(driver.cuDeviceGetName(128, device)))
    return f"{name}, {default_arch()}, {check(driver.cuDeviceGetAttribute(kind, device))} SMs"


@contextmanager
def first_gpu() -> Generator[Gpu]:
    """The first GPU, with its primary context held and current. Raises `RuntimeFault` if the driver refuses."""
    driver_available()  # starts the driver
    device = check(driver.cuDeviceGet(0))
    context = check(driver.cuDevicePrimaryCtxRetain(device))
    try:
        check(driver.cuCtxSetCurrent(context))
        yield Gpu(context, gpu_name())
    finally:
        check(driver.cuDevicePrimaryCtxRelease(device))


def _event(stack: ExitStack) -> Any:
    """A new event; `stack` destroys it."""
    event = check(driver.cuEventCreate(0))
    stack.callback(lambda: check(driver.cuEventDestroy(event)))
    return event


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _offsets(specs: Sequence[TensorSpec]) -> tuple[list[int], int]:
    """Where each tensor starts in one block of memory, and the block's size."""
    offsets: list[int] = []
    total = 0
    for spec in specs:
        offsets.append(total)
        total += _aligned(spec.nbytes)
    return offsets, total


class CudaRuntime:
    """An artifact in the memory of the first GPU, ready to run.

    Calls are serialized by a lock. `close` frees everything; nothing is freed before, and nothing by itself.
    """

    def __init__(
        self,
        artifact: Artifact,
        weights: Iterable[np.ndarray[Any, Any]] | None,
        *,
        progress: Callable[[str], None] | None = None,
        cubin: Cubin | None = None,
    ):
        """Compiles the code (or takes it from the cache), uploads the weights and zeroes the states.

        Without weights they are zeros: whoever wants to know only how long something takes need not upload any.
        `cubin` is the compiled code, where that is there already.

        Raises `RuntimeFault` if the driver refuses, for want of memory say; what was taken until then is freed.
        """
        say: Callable[[str], None] = progress or (lambda what: None)
        self._artifact = artifact
        self._lock = threading.RLock()
        self._graphs: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._resources = ExitStack()
        with ExitStack() as stack:
            gpu = stack.enter_context(first_gpu())
            self._context = gpu.context
            self._stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            stack.callback(lambda: check(driver.cuStreamDestroy(self._stream)))
            self._load_kernels(stack, cubin, say)
            self._load_plans(stack, gpu.name)
            self._allocate(stack)
            self._load_persistent(stack)
            if weights is not None:
                say(f"uploading {sum(spec.nbytes for spec in artifact.weights):,} bytes of weights")
                self._upload(weights)
            else:
                check(driver.cuMemsetD8Async(self._weights, 0, max(self._weight_bytes, 1), self._stream))
            self.reset()
            stack.callback(self._drop_graphs)
            self._resources = stack.pop_all()

    # set-up

    def _load_kernels(self, stack: ExitStack, cubin: Cubin | None, say: Callable[[str], None]) -> None:
        self._functions: dict[str, Any] = {}
        if self._artifact.kernels:
            cubin = cubin or compile_cubin(self._artifact.source, self._artifact.arch, progress=say)
            self._load_module(stack, self._artifact.kernels, cubin.image)

    def _load_module(self, stack: ExitStack, kernels: Sequence[Kernel], cubin: bytes) -> None:
        image = ctypes.create_string_buffer(cubin)
        module = check(driver.cuModuleLoadData(ctypes.addressof(image)))
        stack.callback(lambda: check(driver.cuModuleUnload(module)))
        for kernel in kernels:
            self._functions[kernel.name] = check(driver.cuModuleGetFunction(module, kernel.name.encode()))

    def load(self, kernels: Sequence[Kernel], cubin: bytes) -> None:
        """Makes more kernels known, which programs that are added may launch."""
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            self._load_module(self._resources, kernels, cubin)

    def _load_plans(self, stack: ExitStack, gpu: str) -> None:
        """Makes the plans of cuDNN ready and runs each once: some cannot be captured before that."""
        self._plans: list[LoadedPlan] = []
        if not self._artifact.plans:
            return
        device = Device.present(gpu, int(self._stream))
        stack.callback(device.close)
        self._plans = [LoadedPlan(plan, device) for plan in self._artifact.plans]
        for plan, loaded in zip(self._artifact.plans, self._plans, strict=True):
            with ExitStack() as scratch:
                pointers = [self._device_memory(scratch, size) for size in plan.graph.argument_bytes]
                for pointer, size in zip(pointers, plan.graph.argument_bytes, strict=True):
                    check(driver.cuMemsetD8Async(pointer, 0, size, self._stream))
                loaded.execute(pointers, self._device_memory(scratch, plan.workspace))
                check(driver.cuStreamSynchronize(self._stream))

    def _device_memory(self, stack: ExitStack, size: int) -> int:
        size = max(size, ALIGNMENT)
        code, pointer = driver.cuMemAlloc(size)
        if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = check(driver.cuMemGetInfo())
            raise RuntimeFault(f"out of device memory: wanted {size:,} bytes, {free:,} of {total:,} are free")
        check((code,))
        stack.callback(lambda: check(driver.cuMemFree(pointer)))
        return int(pointer)

    def _pinned_memory(self, stack: ExitStack, size: int) -> tuple[int, np.ndarray[Any, Any]]:
        """Host memory that the GPU can read and write by itself: its address, and as bytes."""
        size = max(size, ALIGNMENT)
        pointer = check(driver.cuMemHostAlloc(size, 0))
        stack.callback(lambda: check(driver.cuMemFreeHost(pointer)))
        return int(pointer), np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(int(pointer))), np.uint8)

    def _allocate(self, stack: ExitStack) -> None:
        artifact = self._artifact
        self._weight_offsets, self._weight_bytes = _offsets(artifact.weights)
        self._state_offsets, self._state_bytes = _offsets(artifact.states)
        self._weights = self._device_memory(stack, self._weight_bytes)
        self._states = self._device_memory(stack, self._state_bytes)
        self._arena = self._device_memory(stack, artifact.arena_bytes)
        self._status = self._device_memory(stack, 8)
        self._staging = [self._stage(stack, program) for program in artifact.programs]

    def _stage(self, stack: ExitStack, program: Program) -> "_Staging":
        """Memory for the inputs and outputs of a program, and the status."""
        tensors = [*program.inputs, *program.outputs, TensorSpec("status", "int64", (1,))]
        offsets, size = _offsets(tensors)
        pinned, view = self._pinned_memory(stack, size)
        arrays = [
            view[offset : offset + spec.nbytes].view(spec.numpy_dtype).reshape(spec.shape)
            for offset, spec in zip(offsets, tensors, strict=True)
        ]
        return _Staging(self._device_memory(stack, size), pinned, offsets, arrays, len(program.inputs))

    def add(self, program: Program) -> int:
        """Makes another program over the same kernels, weights and states ready to run; gives its number."""
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            self._staging.append(self._stage(self._resources, program))
            self._artifact = replace(self._artifact, programs=(*self._artifact.programs, program))
            return len(self._staging) - 1

    def _load_persistent(self, stack: ExitStack) -> None:
        """Fills the tables of the persistent kernels, by their names."""
        self._persistent: dict[str, LoadedPersistent] = {}
        for program, staging in zip(self._artifact.programs, self._staging, strict=True):
            inputs = [staging.device_input(number) for number in range(len(program.inputs))]
            for step in program.steps:
                if isinstance(step, Persistent):
                    self._persistent[step.kernel] = LoadedPersistent(
                        step,
                        self._functions[step.kernel],
                        lambda size: self._device_memory(stack, size),
                        lambda ref, staging=staging, inputs=inputs: self._address(ref, staging, inputs),
                    )

    def _upload(self, weights: Iterable[np.ndarray[Any, Any]]) -> None:
        """Copies weights through two pinned pieces in turn, so that reading a file and uploading overlap."""
        with ExitStack() as stack:
            pieces = [self._pinned_memory(stack, UPLOAD_CHUNK) for _ in range(2)]
            events = [_event(stack) for _ in range(2)]
            turn = 0
            for spec, offset, array in zip(self._artifact.weights, self._weight_offsets, weights, strict=True):
                data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                assert data.nbytes == spec.nbytes, "weights have the size that the artifact says"
                for start in range(0, data.nbytes, UPLOAD_CHUNK):
                    part = data[start : start + UPLOAD_CHUNK]
                    pointer, view = pieces[turn]
                    check(driver.cuEventSynchronize(events[turn]))
                    np.copyto(view[: part.nbytes], part)
                    target = self._weights + offset + start
                    check(driver.cuMemcpyHtoDAsync(target, pointer, part.nbytes, self._stream))
                    check(driver.cuEventRecord(events[turn], self._stream))
                    turn = 1 - turn
            check(driver.cuStreamSynchronize(self._stream))

    # graphs

    def _drop_graphs(self) -> None:
        for graph in self._graphs.values():
            check(driver.cuGraphExecDestroy(graph))
        self._graphs.clear()

    def _graph(
        self, number: int, external: tuple[int | None, ...], is_first: bool, is_last: bool, runs: int = 1
    ) -> Any:
        """The instantiated graph of some runs of a program with these device pointers as inputs.

        None stands for what the host uploads. Of all runs in a row the first one uploads, and the last one downloads.
        """
        key = (number, external, is_first, is_last, runs)
        if (graph := self._graphs.get(key)) is not None:
            self._graphs.move_to_end(key)
            return graph
        check(driver.cuStreamBeginCapture(self._stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            for _ in range(runs):
                self._enqueue(number, external, is_first, is_last)
        except BaseException:
            driver.cuStreamEndCapture(self._stream)
            raise
        captured = check(driver.cuStreamEndCapture(self._stream))
        try:
            graph = check(driver.cuGraphInstantiate(captured, 0))
        finally:
            check(driver.cuGraphDestroy(captured))
        self._graphs[key] = graph
        if len(self._graphs) > MAX_GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            check(driver.cuGraphExecDestroy(oldest))
        return graph

    def _enqueue(self, number: int, external: tuple[int | None, ...], is_first: bool, is_last: bool) -> None:
        """Puts one run of a program into the stream."""
        program, staging = self._artifact.programs[number], self._staging[number]
        # the buffers of a persistent kernel stay the same: what the caller has elsewhere comes to where it expects it
        stays = any(isinstance(step, Persistent) for step in program.steps)
        places = [None] * len(external) if stays else external
        inputs = [staging.device_input(i) if place is None else place for i, place in enumerate(places)]
        for i, (spec, pointer) in enumerate(zip(program.inputs, external, strict=True)):
            if pointer is None and is_first:
                source = staging.pinned_input(i)
                check(driver.cuMemcpyHtoDAsync(inputs[i], source, spec.nbytes, self._stream))
            elif pointer is not None and stays:
                check(driver.cuMemcpyDtoDAsync(inputs[i], pointer, spec.nbytes, self._stream))
        for step in program.steps:
            if isinstance(step, Copy) and step.target.space is Space.OUTPUT and not is_last:
                continue  # nobody reads it
            if isinstance(step, Copy):
                source, target = (self._address(ref, staging, inputs) for ref in (step.source, step.target))
                check(driver.cuMemcpyDtoDAsync(target, source, step.nbytes, self._stream))
            elif isinstance(step, Execute):
                workspace = 0 if step.workspace is None else self._address(step.workspace, staging, inputs)
                self._plans[step.plan].execute([self._address(ref, staging, inputs) for ref in step.args], workspace)
            elif isinstance(step, Persistent):
                self._persistent[step.kernel].launch(self._stream)
            else:
                args = [self._address(ref, staging, inputs) for ref in step.args]
                function = self._functions[step.kernel]
                enqueue_kernel(function, step.grid, step.block, args, self._stream, overlap=step.overlap)
        if not is_last:
            return
        if all(pointer is None for pointer in external):  # else the outputs stay on the device
            for i, spec in enumerate(program.outputs):
                target, source = staging.pinned_output(i), staging.device_output(i)
                check(driver.cuMemcpyDtoHAsync(target, source, spec.nbytes, self._stream))
        check(driver.cuMemcpyDtoHAsync(staging.pinned_output(len(program.outputs)), self._status, 8, self._stream))

    def _address(self, ref: BufferRef, staging: "_Staging", inputs: Sequence[int]) -> int:
        match ref.space:
            case Space.ARENA:
                return self._arena + ref.offset
            case Space.WEIGHT:
                return self._weights + self._weight_offsets[ref.index] + ref.offset
            case Space.STATE:
                return self._states + self._state_offsets[ref.index] + ref.offset
            case Space.INPUT:
                return inputs[ref.index] + ref.offset
            case Space.OUTPUT:
                return staging.device_output(ref.index) + ref.offset
            case Space.STATUS:
                return self._status

    # running

    def run(self, program: int, inputs: Sequence[Any], times: int = 1) -> list[Any]:
        """Runs a program, several times in a row if asked to, and waits for the end; gives the last outputs.

        The inputs have the right shapes and dtypes; they are uploaded once. Numpy arrays in give numpy arrays out. A
        CUDA array in is read where it lies, and makes all outputs CUDA arrays with memory of their own. Raises
        `RuntimeFault` if the device reports an error, or a kernel a wrong index.
        """
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            staging = self._staging[program]
            external = tuple(self._place(array, i, staging) for i, array in enumerate(inputs))
            on_device = any(pointer is not None for pointer in external)
            for graph in self._graphs_of(program, external, times):
                check(driver.cuGraphLaunch(graph, self._stream))
            plan = self._artifact.programs[program]
            outputs = self._copy_outputs(plan, staging) if on_device else []
            check(driver.cuStreamSynchronize(self._stream))
            self._check_status(plan, staging)
            if on_device:
                return outputs
            return [array.copy() for array in staging.output_arrays]

    def _graphs_of(self, program: int, external: tuple[int | None, ...], times: int) -> Iterator[Any]:
        """The graphs of `times` runs in a row, in order."""
        uploads = None in external
        if times == 1:
            yield self._graph(program, external, uploads, True)
            return
        if uploads:
            yield self._graph(program, external, True, False)
        together, alone = divmod(times - 1 - uploads, RUNS_TOGETHER)
        for _ in range(together):
            yield self._graph(program, external, False, False, RUNS_TOGETHER)
        for _ in range(alone):
            yield self._graph(program, external, False, False)
        yield self._graph(program, external, False, True)

    def replay(self, program: int, times: int) -> float:
        """Runs a program again on its last inputs, without the host in between; gives seconds per run.

        The time is the device's, between events around all runs; nothing is uploaded or downloaded.
        """
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            graph = self._graph(program, (None,) * len(self._artifact.programs[program].inputs), False, False)
            with ExitStack() as stack:
                events = [_event(stack) for _ in range(2)]
                check(driver.cuEventRecord(events[0], self._stream))
                for _ in range(times):
                    check(driver.cuGraphLaunch(graph, self._stream))
                check(driver.cuEventRecord(events[1], self._stream))
                check(driver.cuEventSynchronize(events[1]))
                return check(driver.cuEventElapsedTime(*events)) / 1e3 / times

    def bandwidth(self, program: int) -> float | None:
        """Bytes per second that a copy within the device's memory reads and writes together; the best of five.

        The copy is of 4 GB, or of a quarter of the memory that is left.
        """
        with self._lock, ExitStack() as stack:
            check(driver.cuCtxSetCurrent(self._context))
            free, _ = check(driver.cuMemGetInfo())
            size = min(COPY_BYTES, int(free) // 4)
            source, target = (self._device_memory(stack, size) for _ in range(2))
            events = [_event(stack) for _ in range(2)]
            seconds: list[float] = []
            for _ in range(5):
                check(driver.cuEventRecord(events[0], self._stream))
                check(driver.cuMemcpyDtoDAsync(target, source, size, self._stream))
                check(driver.cuEventRecord(events[1], self._stream))
                check(driver.cuEventSynchronize(events[1]))
                seconds.append(check(driver.cuEventElapsedTime(*events)) / 1e3)
            return 2 * size / min(seconds)

    def _place(self, array: Any, number: int, staging: "_Staging") -> int | None:
        """Brings a host array into pinned memory (None), or gives the pointer of a device array."""
        if device_of(array) != "cuda":
            np.copyto(staging.arrays[number], array)
            return None
        pointer = device_pointer(array, int(self._stream))
        if pointer % 16:  # vectors are read 16 bytes at a time
            raise InputError(f"expected a CUDA array that starts at a multiple of 16 bytes, got address {pointer:#x}")
        return pointer

    def _copy_outputs(self, program: Program, staging: "_Staging") -> list[Any]:
        arrays: list[Any] = []
        for i, spec in enumerate(program.outputs):
            array = DeviceArray.empty(spec, self._context)
            source = staging.device_output(i)
            check(driver.cuMemcpyDtoDAsync(array.pointer, source, spec.nbytes, self._stream))
            arrays.append(array)
        return arrays

    def _check_status(self, program: Program, staging: "_Staging") -> None:
        code = int(staging.arrays[-1][0])
        if not code:
            return
        check(driver.cuMemsetD8(self._status, 0, 8))
        raise RuntimeFault(f"graph '{program.name}': {program.faults[code - 1]}")

    def synchronize(self) -> None:
        """Waits for everything that was enqueued."""
        with self._lock:
            check(driver.cuStreamSynchronize(self._stream))

    def reset(self) -> None:
        """Zeroes the states."""
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            check(driver.cuMemsetD8Async(self._states, 0, max(self._state_bytes, 1), self._stream))
            check(driver.cuMemsetD8Async(self._status, 0, 8, self._stream))
            check(driver.cuStreamSynchronize(self._stream))

    def close(self) -> None:
        """Frees everything; may be called twice."""
        with self._lock:
            check(driver.cuCtxSetCurrent(self._context))
            self._resources.close()


class _Staging:
    """Where the inputs and outputs of a program pass through: the same layout on the device and in pinned memory."""

    def __init__(
        self, device: int, pinned: int, offsets: Sequence[int], arrays: list[np.ndarray[Any, Any]], num_inputs: int
    ):
        self.device = device
        self.pinned = pinned
        self.offsets = offsets
        self.arrays = arrays
        """Views of the pinned memory: the inputs, the outputs, the status."""
        self.num_inputs = num_inputs

    @property
    def output_arrays(self) -> list[np.ndarray[Any, Any]]:
        return self.arrays[self.num_inputs : -1]

    def device_input(self, number: int) -> int:
        return self.device + self.offsets[number]

    def pinned_input(self, number: int) -> int:
        return self.pinned + self.offsets[number]

    def device_output(self, number: int) -> int:
        return self.device + self.offsets[self.num_inputs + number]

    def pinned_output(self, number: int) -> int:
        """The status comes after the last output."""
        return self.pinned + self.offsets[self.num_inputs + number]
