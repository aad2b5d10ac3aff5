"""Graphs that are right, and messages for those that are not."""

import pickle
import re
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects import func
from xdsl.parser import Parser

import hamkaas as hk
from hamkaas.dialects import hamkaas
from hamkaas.frontend import build_module
from hamkaas.universe import context

F32 = "float32"


def x(*shape: int, name: str = "x") -> hk.Tensor:
    return hk.InputTensor(name, F32, shape)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_dtypes(dtype: object) -> None:
    tensor = hk.InputTensor("x", dtype, [2, 3])  # type: ignore[arg-type]
    assert tensor.shape == (2, 3)
    assert tensor.dtype == np.float32


def test_bfloat16() -> None:
    assert hk.ConstantTensor(np.zeros(3, ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: x(2, 3) + x(3, 2), r"hamkaas.add of \(tensor<2x3xf32>, tensor<3x2xf32>\): expected each axis of rhs"),
        (lambda: x(2, 3) @ x(2, 3), r"hamkaas.matmul of .*: expected lhs and rhs to agree on the inner axis"),
        (lambda: x(2, 3).reshape(7), r"hamkaas.reshape of \(tensor<2x3xf32>\): expected as many elements"),
        (lambda: x(2, 3).permute(0, 0), r"hamkaas.permute of .*: expected axes to be a permutation"),
        (lambda: x(4)[2:2], r"hamkaas.slice of .*: expected 0 <= begin < end <= 4, got begin 2 and end 2"),
        (lambda: x(4)[::2], r"hamkaas.slice of .*: expected a slice with step 1"),
        (lambda: x(4).replace(x(1), 4, 5), r"hamkaas.replace_slice of .*: expected end between 0 and 4, got 5"),
        (lambda: x(4).sliced_softmax(5), r"hamkaas.sliced_softmax of .*: expected a prefix between 0 and 4, got 5"),
        (lambda: x(2, 3).rms_norm(x(2)), r"hamkaas.rms_norm of .*: expected a weight for the last axis"),
        (lambda: x(2, 3).complex_hadamard_product(x(2, 3)), r"hamkaas.complex_mul of .*: expected a last axis of 2"),
        (lambda: hk.InputTensor("i", "int64", [2]) * 2, r"hamkaas.mul of \(tensor<2xi64>, .*: expected lhs of f32"),
        (lambda: hk.InputTensor("i", "int64", [2]).reshape(1, 2), r"expected an input of data, got indices"),
        (lambda: hk.InputTensor("x", "float64", [2]), r"expected a dtype of float32, .*, got float64"),
        (lambda: hk.InputTensor("x", "no such", [2]), r"expected a dtype of float32, .*, got no such"),
        (lambda: hk.InputTensor("x", F32, [2, 0]), r"input 'x': expected a static shape with no empty axis"),
        (lambda: hk.InputTensor("x", F32, []), r"input 'x': expected a tensor of rank 1 to 3"),
        (lambda: hk.InputTensor("x", F32, [1, 2, 3, 4]), r"input 'x': expected a tensor of rank 1 to 3"),
        (lambda: hk.InputTensor("not a name", F32, [1]), r"expected an input name that is an identifier"),
        (lambda: hk.BufferTensor("int32", [1]), r"expected a dtype of float32, .*, got int32"),
        (lambda: hk.BufferTensor(None, [1]), r"expected a dtype of float32, .*, got None"),  # type: ignore[arg-type]
        (lambda: x(4, 6).reshape(-1, -1), r"expected a shape with one -1 that the others divide, got \[-1, -1\]"),
        (lambda: x(4, 6).reshape(-1, 5), r"expected a shape with one -1 that the others divide, got \[-1, 5\]"),
        (lambda: x(4).reshape(2.5, 2), r"hamkaas.reshape of .*: expected integers, got \(2.5, 2\)"),  # type: ignore[arg-type]
        (lambda: x(4).reshape("22"), r"expected integers, got '22'"),  # type: ignore[arg-type]
        (lambda: x(4).permute(None), r"hamkaas.permute of .*: expected integers, got None"),  # type: ignore[arg-type]
        (lambda: x(4)[0], r"expected a slice with step 1, such as x\[2:5\], got 0"),  # type: ignore[index]
        (lambda: x(4)[0.5:2], r"hamkaas.slice of .*: expected bounds that are integers, got 0.5 and 2"),  # type: ignore[misc]
        (lambda: hk.InputTensor("x", F32, [2.5]), r"input 'x': expected a shape of integers, got \[2.5\]"),  # type: ignore[list-item]
        (lambda: hk.InputTensor("x", F32, "23"), r"input 'x': expected a shape of integers, got '23'"),  # type: ignore[arg-type]
        (lambda: hk.InputTensor("x", F32, None), r"input 'x': expected a shape of integers, got None"),  # type: ignore[arg-type]
        (lambda: hk.InputTensor("x", F32, [1 << 16, 1 << 15]), r"input 'x': expected at most 2147483647 elements"),
        (lambda: hk.InputTensor(3, F32, [2]), r"expected an input name that is an identifier, got 3"),  # type: ignore[arg-type]
        (lambda: hk.ConstantTensor([[1, 2], [3]]), r"constant: expected an array of one shape: "),
        (lambda: hk.ConstantTensor(np.ones(2), ""), r"expected a name that is text, and not empty, got ''"),
        (lambda: hk.BufferTensor(F32, [2], 5), r"expected a name that is text, and not empty, got 5"),  # type: ignore[arg-type]
        (lambda: hk.ConstantTensor([1.0, 1e300]), r"expected numbers that float32 can hold, got 1e\+300"),
        (lambda: x(2) + np.array([1.0, 1e300]), r"expected numbers that float32 can hold, got 1e\+300"),
        (lambda: x(2) + np.array([1j, 2]), r"expected an array of real numbers, got complex128"),
        (lambda: x(2) * 1e300, r"expected a number that float32 can hold, got 1e\+300"),
        (lambda: x(2).cast("float16") + 65505, r"expected a number that float16 can hold, got 65505"),
        (lambda: x(2) * 10**400, r"expected a number that float32 can hold, got 1000000.*\.\.\..*000$"),
        (lambda: x(4).replace(x(1), 0.5, 1.5), r"expected an integer or an int64 tensor as an index, got 0.5"),  # type: ignore[arg-type]
        (lambda: x(4).replace(x(1), "0", "1"), r"expected an integer or an int64 tensor as an index, got '0'"),  # type: ignore[arg-type]
        (lambda: x(4).rms_norm(x(4), "small"), r"hamkaas.rms_norm of .*: expected eps to be a number, got 'small'"),  # type: ignore[arg-type]
        (lambda: x(4, 2).gather([0.5]), r"hamkaas.gather of .*: expected an index of integers, got \[0.5\]"),  # type: ignore[list-item]
        (lambda: hk.sample(x(9), 0.5, 0.9, 0.1), r"hamkaas.sample: expected tensors, got float"),  # type: ignore[arg-type]
        (lambda: x(2, 8).attention(x(4, 2, 8), x(4, 2, 8), 4, "a"), r"expected a scale that is a number, got 'a'"),  # type: ignore[arg-type]
        (lambda: x(2, 8).attention(np.ones((4, 2, 8)), x(4, 2, 8), 4), r"hamkaas.attention: expected tensors, got nda"),  # type: ignore[arg-type]
        (lambda: build_module({"a": None}), r"graph 'a': expected a tensor or several .*, got NoneType"),  # type: ignore[dict-item]
        (lambda: build_module({"a": [x(2), 3]}), r"graph 'a': expected tensors as outputs, got int"),  # type: ignore[list-item]
        (lambda: build_module({1: x(2)}), r"expected a name of a graph that is text, and not empty, got 1"),  # type: ignore[dict-item]
        (
            lambda: build_module({"w": hk.BufferTensor(F32, [2], "w")}),
            r"the name 'w' is one that a graph has; use another",
        ),
        (lambda: build_module({"a": hk.BufferTensor(F32, [2], "g7")}), r"the name 'g7' is one that a kernel may have"),
        (lambda: build_module({"g0": x(2)}), r"the name of graph 'g0' is one that a kernel may have; use another"),
        (lambda: hk.dump_script(None), r"expected a tensor to write as a script, got NoneType"),  # type: ignore[arg-type]
    ],
)
def test_errors_name_the_operation_and_the_line(build: Callable[[], hk.Tensor], message: str) -> None:
    with pytest.raises(hk.GraphError, match=message) as caught:
        build()
    assert isinstance(caught.value, ValueError)
    assert re.match(rf"{re.escape(__file__)}:\d+: ", str(caught.value))
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_values_that_are_no_tensors() -> None:
    with pytest.raises(
        TypeError, match=rf"{re.escape(__file__)}:\d+: expected a tensor, an array or a number, got str"
    ):
        x(2) + "one"  # type: ignore[operator]
    with pytest.raises(TypeError, match="no value until a model is run"):
        bool(x(2))
    with pytest.raises(TypeError, match="no elements to iterate over"):
        list(x(2))
    with pytest.raises(TypeError):
        np.ones(2, np.float32) * x(2)  # the left side decides the shape: it has to be a tensor


def test_numbers_and_arrays_on_the_right() -> None:
    built = build_module({"main": (2 * x(2, 3) + 1) @ np.ones((3, 4))})
    assert [array.dtype for array in built.weights.values()] == [np.float32]
    ops = [type(op) for op in built.module.walk()]
    assert ops.count(hamkaas.ConstantOp) == 2


def test_infinities_are_kept() -> None:
    built = build_module({"main": x(2) * np.array([np.inf, 1]) + float("inf")})
    np.testing.assert_array_equal(built.weights["constant_0"], [np.inf, 1])


@pytest.mark.parametrize("name", ["é", "a b", 'a"b', "a\nb", "1", "a.b", "%"])
def test_names_of_all_kinds_can_be_read_back(name: str) -> None:
    graph = hk.ConstantTensor(np.ones(2, np.float32), name) * hk.BufferTensor(F32, [2], name + "2")
    if name.isidentifier():
        graph = graph * hk.InputTensor(name, F32, [2])
    text = str(build_module({name + "3": graph}).module)
    assert str(Parser(context(), text).parse_module()) == text


def test_names_made_up_avoid_names_of_graphs() -> None:
    built = build_module({"constant_0": x(2) * np.ones(2, np.float32)})
    assert list(built.weights) == ["constant_1"]


def test_names_that_clash() -> None:
    with pytest.raises(hk.GraphError, match="two inputs are named 'x'"):
        build_module({"main": x(2) + x(2)})
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    with pytest.raises(hk.GraphError, match="the name 'w' is taken by another tensor"):
        build_module({"main": hk.ConstantTensor(a, "w") + hk.ConstantTensor(b, "w")})
    build_module({"main": hk.ConstantTensor(a, "w") + hk.ConstantTensor(a, "w")})


def test_two_values_of_one_state() -> None:
    state = hk.BufferTensor(F32, [4])
    one = state.replace(x(1), 0, 1)
    with pytest.raises(hk.GraphError, match="is given another value at"):
        build_module({"main": one + state.replace(x(1, name="y"), 1, 2)})


def test_a_chain_of_updates_is_written_back_once() -> None:
    state = hk.BufferTensor(F32, [4])
    last = state.replace(x(1), 0, 1).replace(x(1, name="y"), 1, 2)
    module = build_module({"main": last * 2}).module
    (stored,) = [op for op in module.walk() if isinstance(op, hamkaas.SetOp)]
    assert isinstance(stored.value.owner, hamkaas.ReplaceSliceOp)
    assert isinstance(stored.value.owner.base.owner, hamkaas.ReplaceSliceOp)


def test_empty_graphs() -> None:
    with pytest.raises(hk.GraphError, match="at least one graph"):
        build_module({})
    with pytest.raises(hk.GraphError, match="graph 'main': expected at least one output"):
        build_module({"main": []})


def test_deep_graph() -> None:
    y = x(8)
    for number in range(10_000):
        y = y * 0.999 if number % 2 else y + 0.001
    module = build_module({"main": y}).module
    (function,) = [op for op in module.body.block.ops if isinstance(op, func.FuncOp)]
    assert len(function.body.block.ops) > 10_000
