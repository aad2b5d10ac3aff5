"""Graphs that are right, and messages for those that are not."""

import pickle
import re
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects import func

import hamkaas as hk
from hamkaas.dialects import hamkaas
from hamkaas.frontend import build_module

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
    with pytest.raises(TypeError, match="expected a tensor, an array or a number, got str"):
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
