"""Persistent kernels on a device: their table of steps, their counters, and how many blocks stay."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hamkaas.artifact import BufferRef, Persistent
from hamkaas.errors import RuntimeFault
from hamkaas.runtime.device_array import check, driver
from hamkaas.runtime.launch import enqueue_kernel


class LoadedPersistent:
    """A persistent kernel that is ready to be launched, any number of times, one after the other."""

    def __init__(
        self, step: Persistent, function: Any, memory: Callable[[int], int], address: Callable[[BufferRef], int]
    ):
        """Fills the table and zeroes the counters on the device whose context is current.

        `memory` gives device memory of so many bytes, `address` the place of a buffer, which is the same in all runs.
        Raises `RuntimeFault` for a device that cannot run all blocks of such a kernel at the same time.
        """
        self._step = step
        self._function = function
        self.grid = min(_most_blocks(step, function), max(launch.grid for launch in step.launches))
        """Blocks that stay: as many as the device runs at the same time, or as the largest launch has."""
        table = table_of(step, address)
        self._table = memory(table.nbytes)
        check(driver.cuMemcpyHtoD(self._table, table.ctypes.data, table.nbytes))
        words = len(step.launches) + self.grid
        self._counters = memory(4 * words)
        check(driver.cuMemsetD32(self._counters, 0, words))
        check(driver.cuCtxSynchronize())  # the stream of the runs waits for no other

    def launch(self, stream: Any) -> None:
        """Enqueues it. As a cooperative launch the driver starts all blocks together, or refuses: they wait for each
        other, and would wait forever for one that cannot start."""
        pointers = (self._table, self._counters)
        enqueue_kernel(self._function, self.grid, self._step.block, pointers, stream, cooperative=True)


def table_of(step: Persistent, address: Callable[[BufferRef], int]) -> np.ndarray[Any, Any]:
    """The rows of the table as the code has them: the number of the stage, that of the blocks, and the pointers."""
    row = np.dtype([("stage", np.int32), ("grid", np.int32), ("buffers", np.uint64, (step.num_buffers,))])
    table = np.zeros(len(step.launches), row)
    numbers = {kernel: number for number, kernel in enumerate(step.stages)}
    for place, launch in zip(table, step.launches, strict=True):
        place["stage"], place["grid"] = numbers[launch.kernel], launch.grid
        place["buffers"][: len(launch.args)] = [address(ref) for ref in launch.args]
    return table


def _most_blocks(step: Persistent, function: Any) -> int:
    """Blocks that the device runs at the same time."""
    kinds = driver.CUdevice_attribute
    device = check(driver.cuCtxGetDevice())
    if not check(driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, device)):
        raise RuntimeFault(f"{_where(step)}: expected a device with cooperative launches, got one without")
    each = check(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, step.block, 0))
    if not each:
        raise RuntimeFault(
            f"{_where(step)}: expected a multiprocessor to hold a block of {step.block} threads, got none"
        )
    return int(each) * int(check(driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device)))


def _where(step: Persistent) -> str:
    return f"kernel {step.kernel} (schedule='graph' does without)"
