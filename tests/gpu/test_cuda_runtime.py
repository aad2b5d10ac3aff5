"""What only the CUDA runtime does: device arrays, faults, shared states, closing."""

import numpy as np
import pytest

import hamkaas as hk

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]


def test_device_arrays_in_and_out() -> None:
    x, y = hk.InputTensor("x", "float32", [4, 8]), hk.InputTensor("y", "float32", [4, 8])
    with hk.compile(x * 2 + y, target="cuda") as model:
        a, b = torch.randn(4, 8, device="cuda"), torch.randn(4, 8)
        result = model(x=a, y=b.numpy())
        shared = torch.as_tensor(result, device="cuda")
        torch.testing.assert_close(shared.cpu(), a.cpu() * 2 + b)
        again = model(x=a + 1, y=b.numpy())
        torch.testing.assert_close(shared.cpu(), a.cpu() * 2 + b)  # the first result has memory of its own
        torch.testing.assert_close(torch.as_tensor(again, device="cuda").cpu(), (a.cpu() + 1) * 2 + b)
        torch.testing.assert_close(torch.from_dlpack(again).cpu(), (a.cpu() + 1) * 2 + b)


def test_device_array_that_is_not_contiguous() -> None:
    x = hk.InputTensor("x", "float32", [4, 8])
    with hk.compile(x.relu(), target="cuda") as model, pytest.raises(hk.InputError, match="contiguous"):
        model(x=torch.randn(8, 4, device="cuda").T)


def test_state_lives_until_reset() -> None:
    x = hk.InputTensor("x", "float32", [2])
    state = hk.BufferTensor("float32", [2])
    with hk.compile(state.replace(state * 1 + x, 0, 2), target="cuda") as model:
        one = np.ones(2, np.float32)
        assert [model(x=one)[0] for _ in range(3)] == [1, 2, 3]
        model.reset()
        assert model(x=one)[0] == 1


@pytest.mark.parametrize("times", [1, 2, 3, 9, 10, 11, 18, 27])
def test_runs_in_a_row_are_as_many_as_asked_for(times: int) -> None:
    x = hk.InputTensor("x", "float32", [2])
    state = hk.BufferTensor("float32", [2])
    counted = state.replace(state * 1 + x, 0, 2)
    with hk.compile([counted, counted * 2], target="cuda") as model:
        one = np.ones(2, np.float32)
        count, twice = model[next(iter(model.graphs))].evaluate({"x": one}, times=times)
        assert (count[0], twice[0]) == (times, 2 * times)
        assert model(x=one)[0][0] == times + 1


def test_fault_on_the_device_is_raised_and_cleared() -> None:
    x = hk.InputTensor("x", "float32", [4])
    table = hk.ConstantTensor(np.arange(6, dtype=np.float32).reshape(3, 2))
    with hk.compile(table.gather(x.argmax()), target="cuda") as model:
        np.testing.assert_array_equal(model(x=np.array([0, 1, 0, 0], np.float32)), [[2, 3]])
        with pytest.raises(hk.RuntimeFault, match=r"index of hamkaas\.gather"):
            model(x=np.array([0, 0, 0, 1], np.float32))
        np.testing.assert_array_equal(model(x=np.array([0, 0, 1, 0], np.float32)), [[4, 5]])


def test_named_graphs_share_weights_and_states() -> None:
    state = hk.BufferTensor("float32", [3])
    w = hk.ConstantTensor(np.full(3, 2, np.float32), "w")
    x = hk.InputTensor("x", "float32", [3])
    with hk.compile({"put": state.replace(x * w, 0, 3), "get": state * w}, target="cuda") as model:
        model["put"](x=np.ones(3, np.float32))
        np.testing.assert_array_equal(model["get"](), np.full(3, 4, np.float32))


def test_close_twice_and_use_after() -> None:
    model = hk.compile(hk.InputTensor("x", "float32", [4]).relu(), target="cuda")
    model.close()
    model.close()
    with pytest.raises(hk.HamkaasError, match="closed"):
        model(x=np.zeros(4, np.float32))


def test_failing_constructor_frees_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from hamkaas.runtime import cuda

    live: set[int] = set()

    def allocate(size: int):
        code, pointer = real_alloc(size)
        if int(code) == 0:
            live.add(int(pointer))
        return code, pointer

    def free(pointer: object):
        live.discard(int(pointer))  # type: ignore[call-overload]
        return real_free(pointer)

    real_alloc, real_free = cuda.driver.cuMemAlloc, cuda.driver.cuMemFree
    monkeypatch.setattr(cuda.driver, "cuMemAlloc", allocate)
    monkeypatch.setattr(cuda.driver, "cuMemFree", free)
    huge = [hk.BufferTensor("float32", [1 << 24, 64]) for _ in range(64)]  # 4 GiB each
    x = hk.InputTensor("x", "float32", [1, 64])
    with pytest.raises(hk.RuntimeFault, match="out of device memory: wanted"):
        hk.compile([state.replace(x, 0, 1)[:1] for state in huge], target="cuda")
    assert not live
