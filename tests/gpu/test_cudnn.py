"""Plans on a GPU: right ones are found for every region, and a second store finds them on disk."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cudnn_cases import llama2_specs

from hamkaas.artifact import CudnnGraph, CudnnPlan
from hamkaas.errors import TargetError
from hamkaas.runtime.cache import DiskCache
from hamkaas.runtime.cuda import check
from hamkaas.runtime.cudnn import Device, build_plans, versions
from hamkaas.runtime.cudnn_plans import Decision, PlanStore, choose
from hamkaas.runtime.cudnn_reference import tolerance
from hamkaas.runtime.cudnn_trial import Bench
from hamkaas.runtime.device_array import driver

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def stream(gpu: None) -> Iterator[Any]:
    """A stream of the first GPU, whose context is current."""
    device = check(driver.cuDeviceGet(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
    made = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    yield made
    check(driver.cuStreamDestroy(made))
    check(driver.cuDevicePrimaryCtxRelease(device))


@pytest.fixture(scope="module")
def device(stream: Any) -> Device:
    """That GPU for cuDNN; skips only where cuDNN is not installed."""
    try:
        versions()
    except TargetError as error:
        pytest.skip(str(error))
    return Device.present("the first GPU", int(stream))


@pytest.mark.parametrize("number", range(8))
def test_a_right_plan_is_found_and_kept(number: int, device: Device, stream: Any, tmp_path: Path) -> None:
    spec = llama2_specs()[number]

    def decide(plans: list[CudnnPlan]) -> Decision:
        with ExitStack() as stack:
            return choose(plans, Bench(spec, device, stream, stack).attempt, tolerance(spec))

    def build(spec: CudnnGraph) -> list[CudnnPlan]:
        return build_plans(spec, device)

    first, second = (PlanStore(DiskCache(tmp_path / "cache"), versions(), device.key) for _ in range(2))
    decision = first.decide(spec, build, decide)
    assert decision.plan is not None, decision.why
    assert second.decide(spec, build, decide) == decision
    assert (second.loaded, second.made) == (1, 0)
