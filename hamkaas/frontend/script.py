"""Scripts of the original HamKaas: graphs as text, in and out.

    $1 = InputTensor(x, float32, [2, 3]);
    $2 = ConstantTensor(w, float32, [3, 4]);
    $3 = MatMulNode($1, $2);
    result = $3;

A script holds the shapes of constants, not their elements: these travel beside it as arrays by name. White space means
nothing; a statement ends with `;`. What a node means is the operation of the dialect that the table `NODES` names.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from hamkaas.dialects import hamkaas
from hamkaas.errors import GraphError, ScriptError
from hamkaas.frontend.build import topological
from hamkaas.frontend.tensor import (
    BufferTensor,
    ConstantTensor,
    InputTensor,
    Location,
    Tensor,
    apply_op,
    as_index,
    constant_index,
    locate,
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Node:
    """A kind of node: its name in scripts, its operation, and what its arguments are."""

    name: str
    op: type[Any]
    kinds: str
    """A letter for each argument: t(ensor), i(ndex: a tensor or a number), n(umber), l(ist of numbers)."""


NODES = (
    Node("MatMulNode", hamkaas.MatmulOp, "tt"),
    Node("SumNode", hamkaas.AddOp, "tt"),
    Node("HadamardProductNode", hamkaas.MulOp, "tt"),
    Node("ReLUNode", hamkaas.ReluOp, "t"),
    Node("SiLUNode", hamkaas.SiluOp, "t"),
    Node("SliceNode", hamkaas.SliceOp, "tnn"),
    Node("ReshapeNode", hamkaas.ReshapeOp, "tl"),
    Node("PermuteNode", hamkaas.PermuteOp, "tl"),
    Node("ReplaceSliceNode", hamkaas.ReplaceSliceOp, "ttii"),
    Node("ComplexHadamardProductNode", hamkaas.ComplexMulOp, "tt"),
    Node("RmsNormNode", hamkaas.RmsNormOp, "tt"),
    Node("SlicedSoftmaxNode", hamkaas.SlicedSoftmaxOp, "ti"),
)
NODE_OF_NAME = {node.name: node for node in NODES}
NODE_OF_OP = {node.op: node for node in NODES}

NORM_EPS = 1e-5
"""What every RmsNormNode adds to the mean of squares; a script cannot say another number."""

_TOKEN = re.compile(r"\s*(?P<token>\$\d+|[,;=()\[\]]|[^\s,;=()\[\]$]+)|\s*\Z|\s*(?P<bad>.)", re.DOTALL)


@dataclass(frozen=True)
class Script:
    """A graph as text, and the arrays of its constants by name."""

    text: str
    constants: dict[str, Array]


def load_script(text: str, constants: Mapping[str, Any] | None = None, *, name: str = "<script>") -> Tensor:
    """The graph of a script: its result, ready to be compiled.

    `constants` has an array for each ConstantTensor; `name` is what errors call the script. Raises `ScriptError`, with
    line and column, for text that is no script, nodes that do not fit together and constants that are missing or of
    another shape.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ScriptError(f"{name}: expected text, got {type(text).__name__}")
    reader = _Reader(text, {} if constants is None else constants, name)
    while reader.token:
        reader.statement()
    if reader.result is None:
        reader.fail("expected 'result = $number;', got the end of the script")
    return reader.result


class _Reader:
    """A recursive descent over the tokens of a script."""

    def __init__(self, text: str, constants: Mapping[str, Any], name: str):
        self._text = text
        self._constants = constants
        self._name = name
        self._tensors: dict[str, Tensor] = {}
        self.result: Tensor | None = None
        self.token = ""
        """The token ahead; empty at the end."""
        self._start = 0
        self._end = 0
        self._advance()

    def fail(self, message: str) -> NoReturn:
        """Raises an error at the token ahead."""
        raise ScriptError(f"{self._location()}: {message}")

    def statement(self) -> None:
        """`$number = Kind(arguments);` or `result = $number;`"""
        target = self.token
        if target != "result" and not target.startswith("$"):
            self.fail(f"expected '$number = ...' or 'result = ...', got '{target}'")
        if target in self._tensors:
            self.fail(f"{target} is defined twice")
        if target == "result" and self.result is not None:
            self.fail("expected one result, got a second one")
        self._advance()
        self._expect("=")
        if target == "result":
            self.result = self._reference()
        else:
            self._tensors[target] = self._node()
        self._expect(";")

    def _node(self) -> Tensor:
        location, kind = self._location(), self.token
        sources: dict[str, Callable[[], Tensor]] = {
            "InputTensor": self._input,
            "ConstantTensor": self._constant,
            "BufferTensor": self._buffer,
        }
        if kind not in sources and kind not in NODE_OF_NAME:
            self.fail(f"unknown node '{kind}' (expected one of {', '.join([*sources, *NODE_OF_NAME])})")
        self._advance()
        self._expect("(")
        try:
            with locate(location):
                tensor = sources[kind]() if kind in sources else self._operation(NODE_OF_NAME[kind])
        except GraphError as error:
            raise ScriptError(str(error)) from None
        self._expect(")")
        return tensor

    def _input(self) -> Tensor:
        return InputTensor(self._word("a name"), *self._type(comma=True))

    def _buffer(self) -> Tensor:
        return BufferTensor(*self._type(comma=False))

    def _constant(self) -> Tensor:
        name = self._word("a name")
        dtype, shape = self._type(comma=True)
        if name not in self._constants:
            self.fail(f"expected an array for the constant '{name}', got {', '.join(self._constants) or 'none'}")
        array = np.asarray(self._constants[name])
        if (array.dtype.name, list(array.shape)) != (dtype, shape):
            self.fail(f"constant '{name}': expected {dtype} {shape}, got {array.dtype.name} {list(array.shape)}")
        return ConstantTensor(array, name)

    def _type(self, comma: bool) -> tuple[str, list[int]]:
        if comma:
            self._expect(",")
        dtype = self._word("a dtype")
        self._expect(",")
        return dtype, self._list()

    def _operation(self, node: Node) -> Tensor:
        operands: list[Tensor] = []
        attributes: list[Any] = []
        for place, kind in enumerate(node.kinds):
            if place:
                self._expect(",")
            if kind == "t":
                operands.append(self._reference())
            elif kind == "i":
                operands.append(self._index())
            else:
                attributes.append(self._number() if kind == "n" else tuple(self._list()))
        if node.op is hamkaas.RmsNormOp:
            attributes.append(NORM_EPS)
        return apply_op(node.op, tuple(operands), *attributes)

    def _index(self) -> Tensor:
        """A number, or a tensor; one that is a known number, so that it is checked now and not when the graph runs."""
        if not self.token.startswith("$"):
            return as_index(self._number())
        tensor = self._reference()
        if isinstance(tensor, ConstantTensor) and tensor.array.dtype == np.int64 and tensor.array.shape == (1,):
            return as_index(int(tensor.array[0]))
        return tensor

    def _reference(self) -> Tensor:
        if not self.token.startswith("$"):
            self.fail(f"expected a node such as $1, got {self._got()}")
        if self.token not in self._tensors:
            self.fail(f"expected a node that is defined above, got {self.token}")
        return self._tensors[self._advance()]

    def _list(self) -> list[int]:
        self._expect("[")
        values: list[int] = []
        while self.token != "]":
            if values:
                self._expect(",")
            values.append(self._number())
        self._expect("]")
        return values

    def _number(self) -> int:
        if not self.token.isdecimal():
            self.fail(f"expected a number, got {self._got()}")
        return int(self._advance())

    def _word(self, what: str) -> str:
        if not self.token or self.token[0] in ",;=()[]$":
            self.fail(f"expected {what}, got {self._got()}")
        return self._advance()

    def _expect(self, token: str) -> None:
        if self.token != token:
            self.fail(f"expected '{token}', got {self._got()}")
        self._advance()

    def _got(self) -> str:
        return f"'{self.token}'" if self.token else "the end of the script"

    def _location(self) -> Location:
        before = self._text[: self._start]
        return Location(self._name, before.count("\n") + 1, self._start - before.rfind("\n"))

    def _advance(self) -> str:
        """The token ahead; the next one takes its place."""
        token = self.token
        match = _TOKEN.match(self._text, self._end)
        assert match is not None
        self.token = match["token"] or ""
        self._start, self._end = match.start("token") if self.token else match.end(), match.end()
        if match["bad"] is not None:
            self._start = match.start("bad")
            self.fail(f"unexpected character '{match['bad']}'")
        return token


def dump_script(result: Tensor) -> Script:
    """The script of a graph, and the arrays of its constants.

    Raises `GraphError` for what the original cannot say: other operations than those in `NODES`, and a rms_norm of
    another eps.
    """
    if not isinstance(result, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GraphError(f"{Location.of_user()}: expected a tensor to write as a script, got {type(result).__name__}")
    writer = _Writer()
    for tensor in topological([result]):
        writer.write(tensor)
    writer.lines.append(f"result = {writer.name_of[result]};")
    return Script("\n".join(writer.lines) + "\n", writer.constants)


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Array] = {}
        self.name_of: dict[Tensor, str] = {}

    def write(self, tensor: Tensor) -> None:
        """Appends the statement of a tensor, whose operands stand above."""
        statement = self._statement(tensor)
        self.name_of[tensor] = f"${len(self.name_of) + 1}"
        self.lines.append(f"{self.name_of[tensor]} = {statement};")

    def _statement(self, tensor: Tensor) -> str:
        kind = f"{tensor.dtype.name}, {list(tensor.shape)}"
        if isinstance(tensor, InputTensor):
            return f"InputTensor({tensor.name}, {kind})"
        if isinstance(tensor, BufferTensor):
            return f"BufferTensor({kind})"
        if isinstance(tensor, ConstantTensor):
            return f"ConstantTensor({self._constant(tensor.array, tensor.name)}, {kind})"
        if tensor.op is hamkaas.ConstantOp:
            array = np.full(tensor.shape, tensor.attributes[0], tensor.dtype)
            return f"ConstantTensor({self._constant(array, None)}, {kind})"
        node = NODE_OF_OP.get(tensor.op) if tensor.op is not None else None
        if node is None:
            self._refuse(tensor, "has no node in scripts")
        if tensor.op is hamkaas.RmsNormOp and tensor.attributes[0] != NORM_EPS:
            self._refuse(tensor, f"expected eps {NORM_EPS}, the only one in scripts, got {tensor.attributes[0]}")
        return f"{node.name}({', '.join(self._arguments(tensor, node))})"

    def _arguments(self, tensor: Tensor, node: Node) -> Iterable[str]:
        operands, attributes = iter(tensor.operands), iter(tensor.attributes)
        for kind in node.kinds:
            if kind not in "ti":
                value: int | Sequence[int] = next(attributes)
                yield str(value) if isinstance(value, int) else str(list(value))
                continue
            operand = next(operands)
            prefix = constant_index(operand) if tensor.op is hamkaas.SlicedSoftmaxOp else None
            yield self.name_of[operand] if prefix is None else str(prefix)

    def _constant(self, array: Array, name: str | None) -> str:
        if name is None:
            name = next(n for i in range(len(self.constants) + 1) if (n := f"constant_{i}") not in self.constants)
        self.constants[name] = array
        return name

    def _refuse(self, tensor: Tensor, why: str) -> NoReturn:
        what = tensor.op.name if tensor.op is not None else type(tensor).__name__
        raise GraphError(f"{tensor.location}: {what}: {why}")
