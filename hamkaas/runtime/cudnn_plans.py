"""Which plan a cuDNN graph runs with: the fastest of those that are right, found once and kept on disk.

What tries a plan on a device is passed in, so that the choice can be tested without one. What was decided is stored
under the graph's fingerprint, the versions of cuDNN and its frontend, and the device; also that there is no plan.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hamkaas.artifact import CudnnGraph, CudnnPlan
from hamkaas.remarks import remark
from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.runtime.cudnn import Unsupported


@dataclass(frozen=True)
class Trial:
    """What a plan did on a device."""

    error: float
    """The largest error of its outputs, relative to the reference; infinite where one is not finite."""
    microseconds: float


@dataclass(frozen=True)
class Decision:
    """The plan that a graph runs with, or why it has none."""

    plan: CudnnPlan | None
    why: str
    """For people: its time and how many others there were, or the reason."""
    microseconds: float = 0.0
    """The time of one execution."""

    def to_bytes(self) -> bytes:
        """As stored: a line of JSON, then the plan."""
        head: dict[str, Any] = {"why": self.why}
        if self.plan is None:
            return json.dumps(head).encode() + b"\n"
        head |= {"name": self.plan.name, "workspace": self.plan.workspace, "microseconds": self.microseconds}
        return json.dumps(head).encode() + b"\n" + self.plan.data

    @staticmethod
    def from_bytes(data: bytes, spec: CudnnGraph) -> "Decision":
        """The decision in an entry. Raises `ValueError`, `KeyError` or `TypeError` for what is none."""
        head, _, blob = data.partition(b"\n")
        fields: dict[str, Any] = dict(json.loads(head))
        why = str(fields["why"])
        if "name" not in fields:
            return Decision(None, why)
        if not blob:
            raise ValueError("expected a plan behind its head")
        plan = CudnnPlan(spec, str(fields["name"]), int(fields["workspace"]), blob)
        return Decision(plan, why, float(fields["microseconds"]))


def choose(plans: Iterable[CudnnPlan], attempt: Callable[[CudnnPlan], Trial], tolerance: float) -> Decision:
    """The fastest plan whose results are right. A plan that fails to run is as good as a wrong one."""
    right: list[tuple[float, CudnnPlan]] = []
    wrong: list[str] = []
    for plan in plans:
        try:
            trial = attempt(plan)
        except Exception as error:  # of the frontend's many kinds
            wrong.append(f"{plan.name} fails: {error}".splitlines()[0])
            continue
        if trial.error <= tolerance:
            right.append((trial.microseconds, plan))
        else:
            wrong.append(f"{plan.name} is wrong by {trial.error:.1e}")
    if not right:
        return Decision(None, f"no plan is right: {'; '.join(wrong)}")
    microseconds, best = min(right, key=lambda one: one[0])
    note = f", not {'; '.join(wrong)}" if wrong else ""
    return Decision(best, f"{microseconds:.1f} us, the best of {len(right)}{note}", microseconds)


class PlanStore:
    """Decisions by graph, in memory and on disk."""

    def __init__(self, disk: DiskCache, versions: tuple[str, str], device: str):
        """`device` tells apart what plans cannot be shared between (see `Device.key`)."""
        self._disk = disk
        self._about = {"cudnn": versions[0], "frontend": versions[1], "device": device}
        self.device = device
        self._known: dict[CudnnGraph, Decision] = {}
        self.loaded = 0
        """Decisions that were taken from disk."""
        self.made = 0
        """Decisions for which plans were built and tried."""

    def key(self, spec: CudnnGraph) -> CacheKey:
        """What a graph's entry depends on: the graph, the versions and the device."""
        return CacheKey.of("cudnn-plan", graph=spec.fingerprint, **self._about)

    def decide(
        self,
        spec: CudnnGraph,
        build: Callable[[CudnnGraph], list[CudnnPlan]],
        decide: Callable[[list[CudnnPlan]], Decision],
    ) -> Decision:
        """What is known about a graph, or else what `decide` says about the plans that `build` gives."""
        if (known := self._known.get(spec)) is not None:
            return known
        decision = self._read(spec)
        if decision is None:
            self.made += 1
            try:
                decision = decide(build(spec))
            except Unsupported as error:
                decision = Decision(None, str(error))
            self._disk.put(self.key(spec), decision.to_bytes(), f"{spec.label}: {decision.why}")
        self._known[spec] = decision
        if decision.plan is None:
            remark("cudnn", f"graph {spec.fingerprint[:8]}", f"goes to our own kernels: {decision.why}")
        return decision

    def _read(self, spec: CudnnGraph) -> Decision | None:
        data = self._disk.get(self.key(spec))
        if data is None:
            return None
        try:
            decision = Decision.from_bytes(data, spec)
        except (ValueError, TypeError, KeyError) as error:
            remark("cudnn", f"cache entry {self.key(spec).name[:8]}", f"is ignored: {error}")
            return None
        self.loaded += 1
        return decision
