"""The device under test: its name, its driver, and how fast it reads its memory."""

import ctypes
import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

READ_BYTES = 4 << 30
"""What is read to measure a GPU: far more than its caches hold."""

BLOCKS, THREADS, LOADS = 1024, 256, 8
"""Of the kernel that reads; all together they read 32 MiB at a time."""

READ = f"""
extern "C" __global__ void read_all(const uint4* at, const uint4* end, unsigned* never) {{
    const unsigned stride = {BLOCKS * THREADS};
    unsigned seen = 0;
    for (at += blockIdx.x * {THREADS} + threadIdx.x; at < end; at += {LOADS} * stride) {{
        uint4 x[{LOADS}];
        #pragma unroll
        for (int i = 0; i < {LOADS}; ++i) x[i] = at[i * stride];
        #pragma unroll
        for (int i = 0; i < {LOADS}; ++i) seen |= x[i].x | x[i].y | x[i].z | x[i].w;
    }}
    if (seen != 0) *never = seen;  // all is zero, which the compiler does not know
}}
"""
"""CUDA text where the compiler has IR for every kernel: what its kernels are measured by should not be one of them.

A change of the compiler that slowed down both would not show.
"""


def describe(target: str) -> dict[str, str]:
    """Name of the device and version of its driver ("none" for a CPU)."""
    if target == "cpu":
        name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return {"device": f"{name[1] if name else 'CPU'}, {os.cpu_count()} cores", "driver": "none"}
    from hamkaas.runtime.cuda import check, driver, first_gpu  # loads the driver

    with first_gpu() as gpu:
        version = f"CUDA {check(driver.cuDriverGetVersion()) / 1000:.1f}"
        try:
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            version = f"{found.stdout.split()[0]}, {version}"
        except (OSError, subprocess.CalledProcessError, IndexError):
            pass  # the version of CUDA has to do
        return {"device": gpu.name, "driver": version}


def gpu_read_bandwidth() -> float:
    """Bytes per second at which a kernel reads 4 GiB of the first GPU's memory and does nothing else; best of five."""
    from hamkaas.runtime.cuda import check, default_arch, driver, first_gpu  # loads the driver
    from hamkaas.runtime.nvrtc import compile_cubin

    with first_gpu(), ExitStack() as stack:
        cubin = ctypes.create_string_buffer(compile_cubin(READ, default_arch()).image)
        module = check(driver.cuModuleLoadData(ctypes.addressof(cubin)))
        stack.callback(lambda: check(driver.cuModuleUnload(module)))
        function = check(driver.cuModuleGetFunction(module, b"read_all"))
        memory = int(check(driver.cuMemAlloc(READ_BYTES)))
        stack.callback(lambda: check(driver.cuMemFree(memory)))
        check(driver.cuMemsetD8(memory, 0, READ_BYTES))
        events = [check(driver.cuEventCreate(0)) for _ in range(2)]
        arguments = ((memory, memory + READ_BYTES, memory), (ctypes.c_void_p,) * 3)
        seconds: list[float] = []
        for _ in range(5):
            check(driver.cuEventRecord(events[0], 0))
            check(driver.cuLaunchKernel(function, BLOCKS, 1, 1, THREADS, 1, 1, 0, 0, arguments, 0))
            check(driver.cuEventRecord(events[1], 0))
            check(driver.cuEventSynchronize(events[1]))
            seconds.append(check(driver.cuEventElapsedTime(*events)) / 1e3)
        for event in events:
            check(driver.cuEventDestroy(event))
        return READ_BYTES / min(seconds)
