"""Scripts of the original HamKaas: what they mean, that they survive a round trip, and what is said of bad ones."""

import re

import numpy as np
import pytest

import hamkaas as hk

LAYER = """
$1 = InputTensor(x, float32, [2, 3]);
$2 = ConstantTensor(w.0, float32, [3, 4]);
$3 = MatMulNode($1, $2);
  $4=ReLUNode( $3 ) ; result = $4;
"""


def run(text: str, constants: dict[str, np.ndarray] | None = None, **inputs: np.ndarray) -> np.ndarray:
    with hk.compile(hk.load_script(text, constants), target="cpu") as model:
        return model.evaluate(inputs)


def test_a_script_of_the_original() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 3), np.float32), rng.standard_normal((3, 4), np.float32)
    np.testing.assert_allclose(run(LAYER, {"w.0": w}, x=x), np.maximum(x @ w, 0), rtol=1e-5)


def test_every_node_round_trips() -> None:
    x = hk.InputTensor("x", "float32", [4, 6])
    position = hk.InputTensor("position", "int64", [1])
    w = hk.ConstantTensor(np.arange(24, dtype=np.float32).reshape(6, 4), "w")
    state = hk.BufferTensor("float32", [4, 6])
    y = (x @ w).silu() * 2 + 1
    y = y[1:3].reshape(4, 2).complex_hadamard_product(np.ones((4, 2), np.float32)).permute(1, 0)
    y = y.rms_norm(np.ones(4, np.float32)).relu().sliced_softmax(2).sliced_softmax(position)
    result = state.replace(y.reshape(2, 4) @ np.ones((4, 6), np.float32), 1, 3) + x
    script = hk.dump_script(result)
    again = hk.dump_script(hk.load_script(script.text, script.constants))
    assert again.text == script.text
    assert set(re.findall(r"\b\w+Node\b", script.text)) == {node.name for node in hk.frontend.script.NODES}
    inputs = {"x": np.random.default_rng(2).standard_normal((4, 6), np.float32), "position": np.array([3])}
    with hk.compile(result, target="cpu") as model:
        np.testing.assert_array_equal(run(script.text, script.constants, **inputs), model.evaluate(inputs))


def test_constant_bounds_are_checked_when_the_script_is_read() -> None:
    text = """$1 = BufferTensor(float32, [4]);
$2 = InputTensor(x, float32, [2]);
$3 = ConstantTensor(begin, int64, [1]);
$4 = ConstantTensor(end, int64, [1]);
$5 = ReplaceSliceNode($1, $2, $3, $4);
result = $5;"""
    bounds = {"begin": np.array([2]), "end": np.array([4])}
    np.testing.assert_array_equal(run(text, bounds, x=np.ones(2, np.float32)), [0, 0, 1, 1])
    with pytest.raises(hk.ScriptError, match=r"<script>:5:6: hamkaas.replace_slice of .*: expected .*5"):
        hk.load_script(text, {**bounds, "end": np.array([5])})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: expected 'result = $number;', got the end of the script"),
        ("$1 = InputTensor(x, float32, [2]);", "1:35: expected 'result = $number;', got the end of the script"),
        ("$1 = InputTensor(x, float32, [2])", "1:34: expected ';', got the end of the script"),
        ("$1 = InputTensor(x, float32, 2);", "1:30: expected '[', got '2'"),
        ("$1 = InputTensor(x, float32, [2,]);", "1:33: expected a number, got ']'"),
        ("$1 = InputTensor(x, float64, [2]);", "1:6: expected a dtype of float32, float16, bfloat16, int8, int64"),
        ("$1 = InputTensor(x, float32, [0]);", "1:6: input 'x': expected"),
        ("$1 = InputTensor(, float32, [2]);", "1:18: expected a name, got ','"),
        ("$1 = ConstantTensor(w, float32, [2]);", "1:36: expected an array for the constant 'w', got v"),
        ("$1 = ConstantTensor(v, float32, [3]);", "1:36: constant 'v': expected float32 [3], got float32 [2]"),
        ("$1 = BufferTensor(float32, [2]); $1 = ReLUNode($1);", "1:34: $1 is defined twice"),
        ("$1 = BufferTensor(float32, [2]);\n$2 = ReLUNode($3);", "2:15: expected a node that is defined above, got $3"),
        ("$1 = BufferTensor(float32, [2]);\n$2 = ReLUNode(3);", "2:15: expected a node such as $1, got '3'"),
        ("$1 = BufferTensor(float32, [2]);\n$2 = TanhNode($1);", "2:6: unknown node 'TanhNode'"),
        ("$1 = BufferTensor(float32, [2]);\n$2 = SumNode($1);", "2:16: expected ',', got ')'"),
        ("$1 = BufferTensor(float32, [2]);\n$2 = MatMulNode($1, $1);", "2:6: hamkaas.matmul of (tensor<2xf32>, "),
        ("$1 = BufferTensor(float32, [2]); result = $1; result = $1;", "1:47: expected one result, got a second one"),
        ("hello", "1:1: expected '$number = ...' or 'result = ...', got 'hello'"),
        ("$ = ReLUNode($1);", "1:1: unexpected character '$'"),
    ],
)
def test_bad_scripts(text: str, message: str) -> None:
    with pytest.raises(hk.ScriptError, match=re.escape(f"<script>:{message}")):
        hk.load_script(text, {"v": np.zeros(2, np.float32)})


def test_scripts_are_text() -> None:
    with pytest.raises(hk.ScriptError, match="<script>: expected text, got bytes"):
        hk.load_script(b"result = $1;")  # type: ignore[arg-type]


def test_what_a_script_cannot_say() -> None:
    x = hk.InputTensor("x", "float32", [4])
    with pytest.raises(hk.GraphError, match=r"test_script.py:\d+: hamkaas.argmax: has no node in scripts"):
        hk.dump_script(x.argmax())
    with pytest.raises(hk.GraphError, match=r"expected eps 1e-05, the only one in scripts, got 0.001"):
        hk.dump_script(x.rms_norm(np.ones(4, np.float32), 1e-3))
