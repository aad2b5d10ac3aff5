"""The choice among plans, and what is kept of it on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hamkaas.artifact import CudnnGraph, CudnnNode, CudnnPlan, CudnnTensor
from hamkaas.errors import TargetError
from hamkaas.remarks import collect
from hamkaas.runtime.cache import DiskCache
from hamkaas.runtime.cudnn import Unsupported, frontend
from hamkaas.runtime.cudnn_plans import Decision, PlanStore, Trial, choose

DENSE = CudnnTensor((1, 4, 8), (32, 8, 1), "float32")
SPEC = CudnnGraph("float32", "float32", (DENSE, DENSE), (0,), (1,), (CudnnNode("relu", (0,), 1),))
OTHER = CudnnGraph("float32", "float32", (DENSE, DENSE), (0,), (1,), (CudnnNode("silu", (0,), 1),))

PLANS = [CudnnPlan(SPEC, f"eng{number}", 256 * number, bytes([number]) * 9) for number in range(4)]


def tried(*trials: tuple[float, float] | Exception) -> Callable[[CudnnPlan], Trial]:
    """A device on which plan i does what trial i says."""

    def attempt(plan: CudnnPlan) -> Trial:
        trial = trials[PLANS.index(plan)]
        if isinstance(trial, Exception):
            raise trial
        return Trial(*trial)

    return attempt


def test_the_fastest_of_the_right_ones_wins() -> None:
    decision = choose(PLANS, tried((1e-4, 30), (1e-4, 20), (1e-4, 25), (0, 40)), 1e-3)
    assert decision == Decision(PLANS[1], "20.0 us, the best of 4", 20)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 2e-3])
def test_a_wrong_plan_never_wins(wrong: float) -> None:
    decision = choose(PLANS, tried((wrong, 1), (1e-4, 20), RuntimeError("no capture\nat all"), (wrong, 2)), 1e-3)
    assert decision.plan == PLANS[1]
    assert "eng2 fails: no capture" in decision.why


def test_nothing_is_better_than_wrong() -> None:
    decision = choose(PLANS[:2], tried((1, 1), RuntimeError("refused")), 1e-3)
    assert decision == Decision(None, "no plan is right: eng0 is wrong by 1.0e+00; eng1 fails: refused")


def never(*args: object) -> object:
    raise AssertionError("it was known")


def store(folder: Path, versions: tuple[str, str] = ("9.19.0", "1.28.0"), device: str = "H100") -> PlanStore:
    """A store as another process would open it."""
    return PlanStore(DiskCache(folder / "cache"), versions, device)


def test_a_second_process_builds_nothing(tmp_path: Path) -> None:
    first = store(tmp_path)
    decision = first.decide(SPEC, lambda spec: PLANS, lambda plans: Decision(plans[2], "3 us"))
    assert first.decide(SPEC, never, never) == decision  # type: ignore[arg-type]
    assert (first.made, first.loaded) == (1, 0)
    second = store(tmp_path)
    assert second.decide(SPEC, never, never) == decision  # type: ignore[arg-type]
    assert (second.made, second.loaded) == (0, 1)


@pytest.mark.parametrize(
    "change", [{"versions": ("9.20.0", "1.28.0")}, {"versions": ("9.19.0", "1.28.1")}, {"device": "A100"}]
)
def test_plans_of_others_are_not_used(tmp_path: Path, change: dict[str, object]) -> None:
    store(tmp_path).decide(SPEC, lambda spec: PLANS, lambda plans: Decision(plans[2], ""))
    other = store(tmp_path, **change)  # type: ignore[arg-type]
    assert other.decide(SPEC, lambda spec: PLANS, lambda plans: Decision(plans[0], "")).plan == PLANS[0]
    assert other.key(SPEC) != store(tmp_path).key(SPEC) != store(tmp_path).key(OTHER)


def test_what_is_unsupported_is_remembered_too(tmp_path: Path) -> None:
    def refuse(spec: CudnnGraph) -> list[CudnnPlan]:
        raise Unsupported("No valid engine configs")

    for build in (refuse, never):
        with collect() as remarks:
            assert store(tmp_path).decide(SPEC, build, never).plan is None  # type: ignore[arg-type]
        why = "goes to our own kernels: No valid engine configs"
        assert [str(one) for one in remarks] == [f"cudnn: graph {SPEC.fingerprint[:8]}: {why}"]


@pytest.mark.parametrize("data", [b"", b"plan", b"{}\n", b"[]\nplan", b'{"why": "", "name": "eng0", "workspace": 0}\n'])
def test_a_foreign_entry_is_ignored(tmp_path: Path, data: bytes) -> None:
    DiskCache(tmp_path / "cache").put(store(tmp_path).key(SPEC), data)
    with collect() as remarks:
        decision = store(tmp_path).decide(SPEC, lambda spec: PLANS, lambda plans: Decision(plans[0], ""))
    assert decision.plan == PLANS[0]
    assert "is ignored" in remarks[0].why
    assert store(tmp_path).decide(SPEC, never, never).plan == PLANS[0]  # type: ignore[arg-type]


def test_without_the_frontend_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    frontend.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cudnn", None)
    with pytest.raises(TargetError, match=r"^the frontend of cuDNN does not load: .*pip install 'hamkaas\[cudnn\]'\)$"):
        frontend()
