"""The documentation of every operation: an example that parses, verifies and reads back as what was printed."""

import inspect
import re
from io import StringIO
from pathlib import Path

import pytest
from graphs import cases
from xdsl.ir import Dialect, Operation
from xdsl.parser import Parser
from xdsl.printer import Printer

from hamkaas.dialects import hamkaas, kernel, program
from hamkaas.dialects.hamkaas import HAMKAAS, TensorOp
from hamkaas.dialects.kernel import KERNEL
from hamkaas.dialects.program import PROGRAM
from hamkaas.frontend.build import topological
from hamkaas.interpreters.hamkaas import MEANING
from hamkaas.passes import hamkaas_outline_groups as outline
from hamkaas.universe import context

OPERATIONS = [op for dialect in (HAMKAAS, KERNEL, PROGRAM) for op in dialect.operations]


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
@pytest.mark.parametrize("generic", [False, True], ids=["pretty", "generic"])
def test_example(op: type[Operation], generic: bool) -> None:
    found = re.search(r"```mlir\n(.*?)```", inspect.getdoc(op) or "", re.DOTALL)
    assert found is not None, f"{op.name} has no example"
    module = Parser(context(), found[1]).parse_module()
    module.verify()
    assert any(isinstance(inner, op) for inner in module.walk()), f"the example of {op.name} does not show it"
    stream = StringIO()
    Printer(stream, print_generic_format=generic).print_op(module)
    again = Parser(context(), stream.getvalue()).parse_module()
    assert module.is_structurally_equivalent(again)


@pytest.mark.parametrize(
    ("module", "dialect"),
    [(hamkaas, HAMKAAS), (kernel, KERNEL), (program, PROGRAM)],
    ids=["hamkaas", "kernel", "program"],
)
def test_every_operation_is_listed(module: object, dialect: Dialect) -> None:
    defined = {
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Operation) and value.__module__ == module.__name__  # type: ignore[attr-defined]
    }
    assert {one for one in defined if "name" in vars(one)} == set(dialect.operations)


TENSOR_OPERATIONS = [op for op in HAMKAAS.operations if issubclass(op, TensorOp)]


@pytest.mark.parametrize("op", TENSOR_OPERATIONS, ids=lambda op: op.name)
def test_nothing_is_forgotten(op: type[Operation], operations_of_cases: set[object]) -> None:
    assert op in MEANING, f"{op.name} has no meaning in interpreters/hamkaas.py"
    placed = (*outline.REDUCTIONS, *outline.FREE, *outline.POINTWISE, hamkaas.ReplaceSliceOp)
    assert op in placed, f"{op.name} has no place in passes/hamkaas_outline_groups.py"
    assert op in operations_of_cases, f"no case in tests/graphs.py has {op.name}"
    invalid = Path(__file__).parents[1] / "filecheck" / "dialects" / "hamkaas-invalid.mlir"
    assert f"'{op.name}' does not verify: " in invalid.read_text(), f"no test of a message of {op.name}"


@pytest.fixture(scope="module")
def operations_of_cases() -> set[object]:
    """The operation classes in all graphs of tests/graphs.py."""
    return {tensor.op for _, make in cases() for tensor in topological(make().outputs)}
