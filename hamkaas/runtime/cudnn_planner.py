"""Finds plans on the first GPU: builds, checks and times them, unless the answer is known from before."""

from collections.abc import Callable
from contextlib import ExitStack

from hamkaas import knobs
from hamkaas.artifact import CudnnGraph, CudnnPlan
from hamkaas.runtime.cache import DiskCache
from hamkaas.runtime.cuda import check, first_gpu
from hamkaas.runtime.cudnn import Device, build_plans, versions
from hamkaas.runtime.cudnn_plans import Decision, PlanStore, choose
from hamkaas.runtime.cudnn_reference import tolerance
from hamkaas.runtime.cudnn_trial import Bench
from hamkaas.runtime.device_array import driver


class Planner:
    """Decides which plan a graph runs with. Holds a stream and a handle of cuDNN until it is closed."""

    def __init__(self, progress: Callable[[str], None] | None = None) -> None:
        """`progress` is told of each graph whose plans have to be built.

        Raises `TargetError` where cuDNN is not installed, and `RuntimeFault` where the driver refuses.
        """
        self._progress = progress
        self._resources = ExitStack()
        versions()
        with ExitStack() as stack:
            context = stack.enter_context(first_gpu())
            self._stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            stack.callback(lambda: check(driver.cuStreamDestroy(self._stream)))
            self._device = Device.present(context.name, int(self._stream))
            stack.callback(self._device.close)
            self._resources = stack.pop_all()
        self.store = PlanStore(DiskCache(knobs.cache_dir()), versions(), self._device.key)
        """What has been decided; counts what was made anew and what was loaded."""

    def decide(self, graph: CudnnGraph) -> Decision:
        """The fastest right plan, or why there is none."""
        return self.store.decide(graph, self._build, self._try)

    def _build(self, graph: CudnnGraph) -> list[CudnnPlan]:
        if self._progress is not None:
            self._progress(f"compiling a cuDNN graph: {graph.label}")
        return build_plans(graph, self._device, knobs.CUDNN_PLANS.get())

    def _try(self, plans: list[CudnnPlan]) -> Decision:
        graph = plans[0].graph
        with ExitStack() as stack:
            return choose(plans, Bench(graph, self._device, self._stream, stack).attempt, tolerance(graph))

    def close(self) -> None:
        """Gives everything back."""
        self._resources.close()
