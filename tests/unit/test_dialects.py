"""The documentation of every operation: an example that parses, verifies and reads back as what was printed."""

import inspect
import re
from io import StringIO

import pytest
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.printer import Printer

from hamkaas.dialects.cudnn import CUDNN
from hamkaas.dialects.hamkaas import HAMKAAS
from hamkaas.dialects.kernel import KERNEL
from hamkaas.dialects.program import PROGRAM
from hamkaas.universe import context

OPERATIONS = [op for dialect in (HAMKAAS, CUDNN, KERNEL, PROGRAM) for op in dialect.operations]


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
