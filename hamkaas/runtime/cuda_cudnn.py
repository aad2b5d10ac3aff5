"""The plans of cuDNN that an artifact executes, those that do not need each other side by side."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from hamkaas.artifact import CudnnPlan, Execute, Step
from hamkaas.runtime.cudnn import Device, LoadedPlan
from hamkaas.runtime.device_array import check, driver

LANES = 3
"""Executions that may run at the same time: a product for each of query, key and value is where this pays."""


class LoadedPlans:
    """Plans that are ready to be enqueued into a stream, or beside it."""

    def __init__(self, plans: Sequence[CudnnPlan], gpu: str, stream: Any, stack: ExitStack):
        """`gpu` is the name of the device whose context is current; `stack` frees what is taken."""
        self._stream = stream
        self._lanes: list[tuple[Any, Device]] = []
        for number in range(LANES):
            if number:
                stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
                stack.callback(driver.cuStreamDestroy, stream)
            device = Device.present(gpu, int(stream))
            stack.callback(device.close)
            self._lanes.append((stream, device))
        timing_off = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self._events: list[Any] = []
        for _ in range(LANES):
            self._events.append(check(driver.cuEventCreate(timing_off)))
            stack.callback(driver.cuEventDestroy, self._events[-1])
        self._plans = [LoadedPlan(plan, self._lanes[0][1]) for plan in plans]

    def warm_up(self, plan: int, pointers: Sequence[int], workspace: int) -> None:
        """Runs a plan once in each lane, and waits: some cannot be captured before that."""
        for stream, device in self._lanes:
            self._plans[plan].execute(device, pointers, workspace)
            check(driver.cuStreamSynchronize(stream))

    def enqueue(self, executions: Sequence[tuple[int, Sequence[int], int]]) -> None:
        """Enqueues executions that do not need each other, as (plan, pointers, workspace).

        What is in the stream is before all of them, and what comes into it is after.
        """
        for first in range(0, len(executions), LANES):
            self._side_by_side(executions[first : first + LANES])

    def _side_by_side(self, executions: Sequence[tuple[int, Sequence[int], int]]) -> None:
        lanes = list(zip(executions, self._lanes, self._events, strict=False))
        if len(lanes) > 1:
            check(driver.cuEventRecord(self._events[0], self._stream))
        for (plan, pointers, workspace), (stream, device), event in lanes[1:]:
            check(driver.cuStreamWaitEvent(stream, self._events[0], 0))
            self._plans[plan].execute(device, pointers, workspace)
            check(driver.cuEventRecord(event, stream))
        (plan, pointers, workspace), (_, device), _ = lanes[0]
        self._plans[plan].execute(device, pointers, workspace)
        for _, _, event in lanes[1:]:
            check(driver.cuStreamWaitEvent(self._stream, event, 0))


def rows(steps: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps of a program in order: executions that do not need each other together, all others one by one."""
    row: list[Step] = []
    for step in steps:
        if row and not (isinstance(step, Execute) and isinstance(row[-1], Execute) and not step.barrier):
            yield tuple(row)
            row = []
        row.append(step)
    if row:
        yield tuple(row)
