"""The specification of a cuDNN graph: what it says, that it computes what the graph does, and that it is stable."""

import json
from pathlib import Path

import numpy as np
import pytest
from cudnn_cases import llama2_specs, outlined, product_graphs
from graphs import Case, assert_close
from hypothesis import HealthCheck, given, settings

from hamkaas.artifact import CudnnGraph
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.interpreters.cudnn import execute
from hamkaas.runtime.cudnn_reference import error, evaluate, random_inputs, tolerance
from hamkaas.universe import context

SNAPSHOT = Path(__file__).parent / "cudnn_llama2.jsonl"
"""The specifications of the graphs of a llama2 prefill, one a line.

After an intended change: `PYTHONPATH=.:tests python tests/unit/test_cudnn_spec.py`.
"""


def test_llama2_is_what_it_was() -> None:
    assert [spec.to_json() for spec in llama2_specs()] == SNAPSHOT.read_text().splitlines()


def test_a_specification_reads_back() -> None:
    for spec in llama2_specs():
        assert CudnnGraph.from_json(spec.to_json()) == spec
        assert CudnnGraph.from_json(spec.to_json()).fingerprint == spec.fingerprint
    assert len({spec.fingerprint for spec in llama2_specs()}) == len(llama2_specs())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tensors": [], "nodes": [], "inputs": [], "outputs": []}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        CudnnGraph.from_json(text)


def test_names_do_not_count() -> None:
    texts = [
        "cudnn.graph @{0}(%{0}: {1}) -> {1} attributes {{io = f32, compute = f32}} {{\n"
        "  %{0}1 = cudnn.pointwise relu %{0} : ({1}) -> {1}\n  cudnn.yield %{0}1 : {1}\n}}"
    ]
    type = "!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>"
    from xdsl.parser import Parser

    first, second = (Parser(context(), texts[0].format(name, type)).parse_module().ops.first for name in ("a", "b"))
    assert isinstance(first, cudnn.GraphOp)
    assert isinstance(second, cudnn.GraphOp)
    assert build_graph(first).fingerprint == build_graph(second).fingerprint
    assert json.loads(build_graph(first).to_json())["nodes"] == [
        {"inputs": [0], "kind": "relu", "number": 0.0, "output": 1}
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(product_graphs())
def test_it_computes_what_the_graph_does(case: Case) -> None:
    for op in outlined(case, "all").walk():
        if isinstance(op, cudnn.ExecuteOp):
            spec = build_graph(op.graph())
            inputs = random_inputs(spec)
            free = cudnn.ExecuteOp(op.callee.root_reference.data, op.inputs, [value.type for value in op.outputs])
            op.parent_block().insert_op_before(free, op)  # type: ignore[union-attr]
            results = execute(free, inputs)
            for result, expected, number in zip(results, evaluate(spec, inputs), spec.outputs, strict=True):
                dims, strides = spec.tensors[number].dims, spec.tensors[number].strides
                shown = np.lib.stride_tricks.as_strided(result, dims, [step * result.itemsize for step in strides])
                assert_close(shown, expected.astype(result.dtype), 1e-3)


def test_errors_are_seen() -> None:
    spec = llama2_specs()[0]
    expected = evaluate(spec, random_inputs(spec))[0]
    assert error(expected, expected) == 0
    assert error(expected * 1.1, expected) > tolerance(spec)
    for bad in (np.nan, np.inf):
        broken = expected.copy()
        broken.flat[3] = bad
        assert error(broken, expected) == float("inf")


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{spec.to_json()}\n" for spec in llama2_specs()))
