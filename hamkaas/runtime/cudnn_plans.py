"""Which plan a cuDNN graph runs with: the fastest of those that are right, found once and kept on disk.

What tries a plan on a device is passed in, so that the choice can be tested without one. What was decided is stored
under the graph's fingerprint, the versions of cuDNN and its frontend, and the device; also that there is no plan.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hamkaas.artifact import CudnnGraph
from hamkaas.remarks import remark
from hamkaas.runtime.cache import DiskCache, cache_key
from hamkaas.runtime.cudnn import Plan, Unsupported


@dataclass(frozen=True)
class Trial:
    """What a plan did on a device."""

    error: float
    """The largest error of its outputs, relative to the reference; infinite where one is not finite."""
    microseconds: float


@dataclass(frozen=True)
class Decision:
    """The plan that a graph runs with, or why it has none."""

    plan: Plan | None
    why: str
    """For people: its time and how many others there were, or the reason."""

    def to_bytes(self) -> bytes:
        """As stored: a line of JSON, then the plan."""
        if self.plan is None:
            return json.dumps({"why": self.why}).encode() + b"\n"
        head = {"why": self.why, "name": self.plan.name, "workspace": self.plan.workspace}
        return json.dumps(head).encode() + b"\n" + self.plan.data

    @staticmethod
    def from_bytes(data: bytes) -> "Decision":
        """The decision in an entry. Raises `ValueError`, `KeyError` or `TypeError` for what is none."""
        head, _, blob = data.partition(b"\n")
        fields: dict[str, Any] = dict(json.loads(head))
        why = str(fields["why"])
        if "name" not in fields:
            return Decision(None, why)
        if not blob:
            raise ValueError("expected a plan behind its head")
        return Decision(Plan(str(fields["name"]), int(fields["workspace"]), blob), why)


def choose(plans: Iterable[Plan], attempt: Callable[[Plan], Trial], tolerance: float) -> Decision:
    """The fastest plan whose results are right. A plan that fails to run is as good as a wrong one."""
    right: list[tuple[float, Plan]] = []
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
    return Decision(best, f"{microseconds:.1f} us, the best of {len(right)}{note}")


class PlanStore:
    """Decisions by graph, in memory and on disk."""

    def __init__(self, disk: DiskCache, versions: tuple[str, str], device: str):
        """`device` tells apart what plans cannot be shared between (see `Device.key`)."""
        self._disk = disk
        self._about = (*versions, device)
        self._known: dict[CudnnGraph, Decision] = {}
        self.loaded = 0
        """Decisions that were taken from disk."""
        self.made = 0
        """Decisions for which plans were built and tried."""

    def key(self, spec: CudnnGraph) -> str:
        """The name of a graph's entry: it changes with the graph, the versions and the device."""
        return cache_key("cudnn-plan", spec.fingerprint, *self._about)

    def decide(
        self, spec: CudnnGraph, build: Callable[[CudnnGraph], list[Plan]], decide: Callable[[list[Plan]], Decision]
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
            self._disk.put(self.key(spec), decision.to_bytes())
        self._known[spec] = decision
        if decision.plan is None:
            remark("cudnn", f"graph {spec.fingerprint[:8]}", f"goes to our own kernels: {decision.why}")
        return decision

    def _read(self, spec: CudnnGraph) -> Decision | None:
        data = self._disk.get(self.key(spec))
        if data is None:
            return None
        try:
            decision = Decision.from_bytes(data)
        except (ValueError, TypeError, KeyError) as error:
            remark("cudnn", f"cache entry {self.key(spec)[:8]}", f"is ignored: {error}")
            return None
        self.loaded += 1
        return decision
