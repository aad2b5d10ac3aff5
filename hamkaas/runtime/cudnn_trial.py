"""Runs plans on the GPU of the current context: are they right, and how long do they take?"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamkaas.artifact import CUDNN_ALIGNMENT, CudnnGraph, CudnnPlan
from hamkaas.runtime.cuda import check
from hamkaas.runtime.cudnn import Device, LoadedPlan
from hamkaas.runtime.cudnn_plans import Trial
from hamkaas.runtime.cudnn_reference import error, evaluate, random_inputs, seen
from hamkaas.runtime.device_array import driver

RUNS = 20
"""Executions that are timed together."""

COLD_BYTES = 128 << 20
"""Inputs are copied until they take so much memory, and used in turn: a model's weights are not in a cache either."""


class Bench:
    """Memory on the device with random inputs of one graph, and what its outputs must be."""

    def __init__(self, spec: CudnnGraph, device: Device, stream: Any, stack: ExitStack):
        """`stack` frees the memory."""
        self._spec = spec
        self._device = device
        self._stream = stream
        self._stack = stack
        inputs = random_inputs(spec)
        self._expected = evaluate(spec, inputs)
        outputs = [np.empty(spec.tensors[n].span, spec.tensors[n].numpy_dtype) for n in spec.outputs]
        self._results: Sequence[NDArray[Any]] = outputs
        size = sum(array.nbytes for array in inputs)
        copies = max(1, min(RUNS, -(-COLD_BYTES // size)))
        self._outputs = [self._memory(array.nbytes) for array in outputs]
        self._inputs = [[self._upload(array) for array in inputs] for _ in range(copies)]
        # a model gives addresses at any multiple of CUDNN_ALIGNMENT, so that is where results are looked at
        self._shifted_outputs = [self._memory(array.nbytes, CUDNN_ALIGNMENT) for array in outputs]
        self._shifted_inputs = [self._upload(array, CUDNN_ALIGNMENT) for array in inputs]

    def _memory(self, size: int, offset: int = 0) -> int:
        pointer = check(driver.cuMemAlloc(max(size, 1) + offset))
        self._stack.callback(lambda: check(driver.cuMemFree(pointer)))
        return int(pointer) + offset

    def _upload(self, array: NDArray[Any], offset: int = 0) -> int:
        pointer = self._memory(array.nbytes, offset)
        check(driver.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
        return pointer

    def attempt(self, plan: CudnnPlan) -> Trial:
        """Runs a plan: first for its results, over memory full of NaN, then captured as it will be, for its time.

        Raises an exception of the frontend's or `RuntimeFault` if it does not run or cannot be captured.
        """
        loaded = LoadedPlan(plan, self._device)
        with ExitStack() as stack:
            workspace = int(check(driver.cuMemAlloc(max(plan.workspace, 1))))
            stack.callback(lambda: check(driver.cuMemFree(workspace)))
            for pointer, array in zip(self._shifted_outputs, self._results, strict=True):
                check(driver.cuMemsetD8(pointer, 0xFF, array.nbytes))
            loaded.execute([*self._shifted_inputs, *self._shifted_outputs], workspace)
            check(driver.cuStreamSynchronize(self._stream))
            largest = self._error()
            graph = self._capture(loaded, workspace, stack)
            return Trial(largest, self._time(graph, stack))

    def _capture(self, loaded: LoadedPlan, workspace: int, stack: ExitStack) -> Any:
        """`RUNS` executions as one CUDA graph: a call costs the host more than a small kernel takes."""
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            for run in range(RUNS):
                loaded.execute([*self._inputs[run % len(self._inputs)], *self._outputs], workspace)
        finally:
            ended = driver.cuStreamEndCapture(self._stream)  # also after a failure, which would leave it capturing
        captured = check(ended)
        stack.callback(lambda: check(driver.cuGraphDestroy(captured)))
        graph = check(driver.cuGraphInstantiate(captured, 0))
        stack.callback(lambda: check(driver.cuGraphExecDestroy(graph)))
        return graph

    def _time(self, graph: Any, stack: ExitStack) -> float:
        """Microseconds of one execution."""
        start, end = (check(driver.cuEventCreate(0)) for _ in range(2))
        stack.callback(lambda: [check(driver.cuEventDestroy(event)) for event in (start, end)])
        check(driver.cuGraphLaunch(graph, self._stream))
        check(driver.cuEventRecord(start, self._stream))
        check(driver.cuGraphLaunch(graph, self._stream))
        check(driver.cuEventRecord(end, self._stream))
        check(driver.cuEventSynchronize(end))
        return 1e3 * float(check(driver.cuEventElapsedTime(start, end))) / RUNS

    def _error(self) -> float:
        errors: list[float] = []
        for number, pointer, array, expected in zip(
            self._spec.outputs, self._shifted_outputs, self._results, self._expected, strict=True
        ):
            check(driver.cuMemcpyDtoH(array.ctypes.data, pointer, array.nbytes))
            errors.append(error(seen(array, self._spec.tensors[number]), expected))
        return max(errors)
