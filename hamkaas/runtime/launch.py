"""Launches of kernels through the driver."""

import ctypes
from collections.abc import Sequence
from typing import Any

from hamkaas.runtime.device_array import check, driver


def enqueue_kernel(
    function: Any,
    grid: int,
    block: int,
    pointers: Sequence[int],
    stream: Any,
    *,
    overlap: bool = False,
    cooperative: bool = False,
) -> None:
    """Enqueues a kernel; its arguments are pointers only, its shared memory is static.

    With `overlap` it waits by itself for what is ahead of it (programmatic dependent launch). A `cooperative` launch
    starts all blocks together, or is a `RuntimeFault`.
    """
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.hStream = stream
    if overlap or cooperative:
        kinds, attribute = driver.CUlaunchAttributeID, driver.CUlaunchAttribute()
        if overlap:
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
        else:
            attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
            attribute.value.cooperative = 1
        config.attrs, config.numAttrs = [attribute], 1
    parameters = (tuple(pointers), (ctypes.c_void_p,) * len(pointers))
    check(driver.cuLaunchKernelEx(config, function, parameters, 0))
