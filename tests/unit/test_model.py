"""`compile` and `Model`: inputs, states, several graphs, deep graphs, looking inside."""

from pathlib import Path

import numpy as np
import pytest
from graphs import assert_close

import hamkaas as hk
from hamkaas.api import Target
from hamkaas.compiler import compile_artifact
from hamkaas.frontend import build_module
from hamkaas.tools.hamkaas_opt import main


def double(target: str = "cpu") -> hk.Model:
    x = hk.InputTensor("x", "float32", [2, 3])
    return hk.compile(x * 2, target=target)  # type: ignore[arg-type]


class ArrayLike:
    def __init__(self, array: np.ndarray):
        self.array = array

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array


class DLPackOnly:
    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)  # type: ignore[arg-type]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [np.asarray, ArrayLike, DLPackOnly, memoryview, np.asfortranarray])
def test_kinds_of_inputs(wrap: type) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with double() as model:
        np.testing.assert_array_equal(model(x=wrap(array)), array * 2)


def test_wrong_inputs_leave_the_state_alone() -> None:
    state = hk.BufferTensor("float32", [1])
    x = hk.InputTensor("x", "float32", [1])
    begin = hk.InputTensor("begin", "int64", [1])
    end = hk.InputTensor("end", "int64", [1])
    good = {"x": np.ones(1, np.float32), "begin": np.array([0]), "end": np.array([1])}
    wrong = [
        ({"x": None}, r"missing input 'x'; the inputs are x, begin, end"),
        ({"y": np.zeros(1)}, r"unexpected input 'y'; the inputs are x, begin, end"),
        ({"x": np.ones(2, np.float32)}, r"input 'x': expected shape \[1\], got \[2\]"),
        ({"x": np.ones(1)}, r"input 'x': expected dtype float32, got float64"),
        ({"x": [1.0]}, r"input 'x': expected an array, got list"),
        ({"begin": np.array([1]), "end": np.array([2])}, r"input 'begin': expected bounds .* between 0 and 0, got 1"),
        ({"end": np.array([0])}, r"inputs 'begin' and 'end': expected 1 rows between begin and end .*, got 0"),
    ]
    with hk.compile(state.replace(state * 1 + x, begin, end), target="cpu") as model:
        model.evaluate(good)
        for change, message in wrong:
            inputs = {name: value for name, value in {**good, **change}.items() if value is not None}
            with pytest.raises(hk.InputError, match=message):
                model.evaluate(inputs)
        assert model.evaluate(good)[0] == 2


def test_calls_that_are_none() -> None:
    with double() as model:
        with pytest.raises(hk.InputError, match="expected a mapping from names to arrays, got list"):
            model.evaluate([np.ones((2, 3), np.float32)])  # type: ignore[arg-type]
        with pytest.raises(hk.CompileError, match=r"unknown stage '3' \(expected one of graph, "):
            model.ir(3)  # type: ignore[arg-type]


def test_knobs_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("many", "-3"):
        monkeypatch.setenv("HAMKAAS_WORKERS", value)
        with pytest.raises(ValueError, match=f"HAMKAAS_WORKERS: expected the number of CPU .*, got '{value}'"):
            double()


def test_state_and_reset() -> None:
    state = hk.BufferTensor("float32", [2])
    x = hk.InputTensor("x", "float32", [2])
    with hk.compile(state.replace(state * 1 + x, 0, 2), target="cpu") as model:
        one = np.ones(2, np.float32)
        assert [model(x=one)[0] for _ in range(3)] == [1, 2, 3]
        model.reset()
        assert model(x=one)[0] == 1


def test_the_old_value_of_a_state() -> None:
    state = hk.BufferTensor("float32", [2])
    x = hk.InputTensor("x", "float32", [1])
    outputs = (state + 0.0, state.replace(x, 0, 1), state * 10)
    with hk.compile(outputs, target="cpu") as model:
        model(x=np.array([1], np.float32))
        old, new, scaled = model(x=np.array([5], np.float32))
        assert (old[0], new[0], scaled[0]) == (1, 5, 10)


def test_named_graphs_share_weights_and_states() -> None:
    state = hk.BufferTensor("float32", [3])
    w = hk.ConstantTensor(np.full(3, 2, np.float32), "w")
    x = hk.InputTensor("x", "float32", [3])
    with hk.compile({"put": state.replace(x * w, 0, 3), "get": (state * w,)}, target="cpu") as model:
        assert len(model.artifact.weights) == len(model.artifact.states) == 1
        model["put"](x=np.ones(3, np.float32))
        (result,) = model["get"]()
        np.testing.assert_array_equal(result, np.full(3, 4, np.float32))
        with pytest.raises(hk.InputError, match="expected a graph named 'put' or 'get', got 'set'"):
            model["set"]
        with pytest.raises(hk.InputError, match="expected the name of a graph"):
            model(x=np.ones(3, np.float32))


def test_fault_that_only_the_device_sees() -> None:
    x = hk.InputTensor("x", "float32", [4])
    table = hk.ConstantTensor(np.arange(6, dtype=np.float32).reshape(3, 2))
    state = hk.BufferTensor("float32", [3, 4])
    row = x.reshape(1, 4)
    graphs = {"look": table.gather(x.argmax()), "put": state.replace(row, x.argmax(), x.argmax())}
    with hk.compile(graphs, target="cpu") as model:
        np.testing.assert_array_equal(model["look"](x=np.array([0, 1, 0, 0], np.float32)), [[2, 3]])
        with pytest.raises(hk.RuntimeFault, match=r"index of hamkaas\.gather outside the table"):
            model["look"](x=np.array([0, 0, 0, 1], np.float32))
        np.testing.assert_array_equal(model["look"](x=np.array([0, 0, 1, 0], np.float32)), [[4, 5]])
        with pytest.raises(hk.RuntimeFault, match=r"bounds of hamkaas\.replace_slice"):
            model["put"](x=np.array([0, 1, 0, 0], np.float32))


def test_deep_chain_runs_in_bounded_kernels() -> None:
    x = hk.InputTensor("x", "float32", [9])
    y = x
    for number in range(10_000):
        y = (y * 0.5 if number % 2 else y + 1.0) if number % 50 else y.reshape(3, 3).permute(1, 0).reshape(9)
    with hk.compile(y, target="cpu") as model:
        array = np.arange(9, dtype=np.float32)
        expected = array
        for number in range(10_000):
            if number % 50:
                expected = expected * np.float32(0.5) if number % 2 else expected + np.float32(1)
            else:
                expected = expected.reshape(3, 3).T.reshape(9)
        assert_close(model(x=array), expected, 1e-5)
        assert len(model.artifact.kernels) < 60
        launches = len(model.artifact.programs[0].steps)
        assert launches >= 10_000 // 32


def test_views_of_views_of_views() -> None:
    x = y = hk.InputTensor("x", "float32", [4, 6])
    for _ in range(300):
        y = y.permute(1, 0).reshape(4, 6)
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = array
    for _ in range(300):
        expected = expected.T.reshape(4, 6)
    del x
    with hk.compile(y, target="cpu") as model:
        np.testing.assert_array_equal(model(x=array), expected)


def test_shifted_sums_do_not_explode() -> None:
    y = hk.InputTensor("x", "float32", [64])
    for _ in range(40):
        y = y[1:] + y[:-1]
    array = np.random.default_rng(0).random(64, np.float32)
    expected = array
    for _ in range(40):
        expected = expected[1:] + expected[:-1]
    with hk.compile(y * 1e-9, target="cpu") as model:
        assert_close(model(x=array), expected * np.float32(1e-9), 1e-5)


def test_looking_inside() -> None:
    with double() as model:
        assert "hamkaas.mul" in model.ir("graph")
        assert "hamkaas.group @g0" in model.ir("partitioned")
        assert "kernel.func @g0" in model.ir("kernels")
        assert "program.launch @g0" in model.ir("program")
        assert "define" in model.source
        assert "program main: 1 launches of 1 kernels" in model.memory_plan
        with pytest.raises(hk.CompileError, match="unknown stage 'kernel', did you mean 'kernels'"):
            model.ir("kernel")


@pytest.mark.parametrize(("target", "code", "printer"), [("cpu", "04-code.ll", "llvm"), ("cuda", "04-code.cu", "cuda")])
def test_dump_replays_to_the_same_code(
    target: Target, code: str, printer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "new" / "dump"
    monkeypatch.setenv("HAMKAAS_DUMP", str(dump))
    x, w = hk.InputTensor("x", "float32", [2, 4]), hk.ConstantTensor(np.ones((4, 40), np.float32), "w")
    artifact = compile_artifact(build_module({"main": (x @ w + 1).rms_norm(np.ones(40))}), target, "sm_90")
    stages = ["00-graph.mlir", "01-partitioned.mlir", "02-kernels.mlir", "03-program.mlir"]
    assert sorted(path.name for path in dump.iterdir()) == [*stages, code, "05-plan.txt"]
    assert (dump / code).read_text() == artifact.source
    assert "program main: 2 launches of 2 kernels" in (dump / "05-plan.txt").read_text()
    monkeypatch.delenv("HAMKAAS_DUMP")
    again = tmp_path / "again"
    pipeline = f"lower-to{{target={target}}}"
    assert main([str(dump / "01-partitioned.mlir"), "-p", pipeline, "-t", printer, "-o", str(again)]) == 0
    assert again.read_text() == artifact.source


def test_a_dump_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAMKAAS_DUMP", str(tmp_path / "file"))
    with pytest.raises(hk.CompileError, match=r"file/00-graph\.mlir: cannot be written: File exists$"):
        double()


def test_close() -> None:
    model = double()
    model.close()
    model.close()
    with pytest.raises(hk.HamkaasError, match="the model is closed"):
        model(x=np.zeros((2, 3), np.float32))


def test_targets_that_are_not_there() -> None:
    x = hk.InputTensor("x", "float32", [2])
    with pytest.raises(hk.TargetError, match="expected target 'cpu' or 'cuda', got 'tpu'"):
        hk.compile(x.relu(), target="tpu")  # type: ignore[arg-type]
    from hamkaas.runtime.cuda import driver_available

    if driver_available() is not None:
        with pytest.raises(hk.TargetError, match=r"target 'cuda' is not available: .*; target 'cpu' is"):
            hk.compile(x.relu(), target="cuda")
        with hk.compile(x.relu()) as model:
            assert model.target == "cpu"
