"""What is asked of the driver, with a driver that is a table."""

from types import SimpleNamespace
from typing import Any

import pytest

from hamkaas.runtime import cuda, launch


class Driver:
    """Answers as `cuda.bindings.driver` does: a code, then values."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=132,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=9,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=0,
    )

    def __init__(self, name: bytes):
        self.name = name
        self.held = 0

    def cuDeviceGet(self, number: int) -> tuple[int, int]:
        return 0, number

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, self.name

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, attribute

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, str]:
        self.held += 1
        return 0, "context"

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[int]:
        self.held -= 1
        return (0,)

    def cuCtxSetCurrent(self, context: Any) -> tuple[int]:
        return (0,)


@pytest.mark.parametrize("rest", [b"", b"\0" * 107, b"\0 \xff \0"], ids=["none", "NULs", "what was there"])
def test_the_name_of_a_gpu_ends_where_the_driver_ends_it(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(b"NVIDIA H100 80GB HBM3" + rest)
    monkeypatch.setattr(cuda, "driver", driver)
    monkeypatch.setattr(cuda, "driver_available", lambda: None)
    with cuda.first_gpu() as gpu:
        assert gpu.name == "NVIDIA H100 80GB HBM3, sm_90, 132 SMs"
        assert driver.held == 1
    assert driver.held == 0


@pytest.mark.parametrize("kind", ["overlap", "cooperative", None])
def test_a_launch(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    launched: list[tuple[Any, ...]] = []
    real = launch.driver

    def enqueue(config: Any, *others: Any) -> tuple[int]:
        launched.append((config, *others))
        return (real.CUresult.CUDA_SUCCESS,)

    monkeypatch.setattr(real, "cuLaunchKernelEx", enqueue)
    launch.enqueue_kernel("function", 7, 64, (0x100, 0x200), real.CUstream(5), **({kind: True} if kind else {}))
    ((config, function, (values, types), extra),) = launched
    assert (function, values, len(types), extra) == ("function", (0x100, 0x200), 2, 0)
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (7, 1, 1)
    assert (config.blockDimX, config.blockDimY, config.blockDimZ) == (64, 1, 1)
    assert int(config.hStream) == 5
    assert config.numAttrs == (kind is not None)
    if kind is not None:
        (attribute,) = config.attrs
        names = {"overlap": "PROGRAMMATIC_STREAM_SERIALIZATION", "cooperative": "COOPERATIVE"}
        assert attribute.id.name == f"CU_LAUNCH_ATTRIBUTE_{names[kind]}"
        value = attribute.value
        assert (value.programmaticStreamSerializationAllowed if kind == "overlap" else value.cooperative) == 1
