"""The type of values in the `cudnn` dialect, and what its dims and strides say."""

from collections.abc import Sequence
from itertools import pairwise

from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, Float16Type, Float32Type, IntAttr, i32
from xdsl.ir import Attribute, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

RANK = 3
"""The rank of every tensor: products take exactly three dims, and so everything does."""

FLOAT_TYPES = (Float32Type, Float16Type, BFloat16Type)


@irdl_attr_definition
class GraphTensorType(ParametrizedAttribute, TypeAttribute):
    """A tensor as cuDNN sees it: `!cudnn.tensor<[1, 4, 8], strides [32, 8, 1], f32>`, strides in elements.

    An axis of size 1 that is read along another one broadcasts. Where two inner axes both had stride 1, cuDNN could not
    tell rows from columns, so an axis of size 1 has the stride that a dense tensor's next axis would have (`of`).
    """

    name = "cudnn.tensor"
    dims_: ArrayAttr[IntAttr]
    strides_: ArrayAttr[IntAttr]
    element_type: Attribute

    @classmethod
    def of(cls, dims: Sequence[int], strides: Sequence[int] | None, element_type: Attribute) -> "GraphTensorType":
        """The type with these dims (padded in front to three) and strides, row-major if None."""
        pad = RANK - len(dims)
        dims = [*[1] * pad, *dims]
        if strides is None:
            strides = [dims[1] * dims[2], dims[2], 1]
        else:
            strides = [*[0] * pad, *strides]
        clear = _clear_strides(dims, strides)
        return cls(ArrayAttr([IntAttr(n) for n in dims]), ArrayAttr([IntAttr(n) for n in clear]), element_type)

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(n.data for n in self.dims_)

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps from one element to the next along each axis, in elements."""
        return tuple(n.data for n in self.strides_)

    @property
    def span(self) -> int:
        """Elements of memory from the first to the last, both included."""
        return 1 + sum((n - 1) * step for n, step in zip(self.dims, self.strides, strict=True))

    @property
    def is_row_major(self) -> bool:
        """Whether columns are neighbours and no axis steps less far than one inside of it; padding may be between."""
        steps = [(n, step) for n, step in zip(self.dims, self.strides, strict=True) if n > 1]
        ordered = all(outer >= inner * n for (_, outer), (n, inner) in pairwise(steps))
        return ordered and (self.dims[2] == 1 or self.strides[2] == 1)

    @property
    def is_matrix(self) -> bool:
        """Whether rows or columns are neighbours: what a product can read."""
        return any(n == 1 or step == 1 for n, step in zip(self.dims[1:], self.strides[1:], strict=True))

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill their span without gaps or overlaps, in whatever order of the axes."""
        filled = 1
        for step, n in sorted((step, n) for n, step in zip(self.dims, self.strides, strict=True) if n > 1):
            if step != filled:
                return False
            filled *= n
        return True

    def verify(self) -> None:
        dims, strides = list(self.dims), list(self.strides)
        if len(dims) != RANK or len(strides) != RANK:
            raise VerifyException(f"expected {RANK} dims and {RANK} strides, got {dims} and {strides}")
        if min(dims) < 1 or min(strides) < 0:
            raise VerifyException(f"expected dims of at least 1 and strides of at least 0, got {dims} and {strides}")
        if strides[1:] == [1, 1] and dims[1:] != [1, 1]:
            raise VerifyException(f"expected one of the inner strides to differ from 1, got {dims} strides {strides}")
        if not isinstance(self.element_type, FLOAT_TYPES) and self.element_type != i32:
            raise VerifyException(f"expected elements of f32, f16, bf16 or i32, got {self.element_type}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            dims = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
            parser.parse_punctuation(",")
            parser.parse_keyword("strides")
            strides = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
            parser.parse_punctuation(",")
            element_type = parser.parse_type()
        return [ArrayAttr([IntAttr(n) for n in dims]), ArrayAttr([IntAttr(n) for n in strides]), element_type]

    def print_parameters(self, printer: Printer) -> None:
        printer.print_string(f"<{list(self.dims)}, strides {list(self.strides)}, {self.element_type}>")


def _clear_strides(dims: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The strides with those of axes of size 1, which mean nothing, set so that rows and columns can be told apart."""
    outer, row, column = strides
    if dims[1] == 1:
        row = dims[2] * column if dims[2] > 1 else 1
    if dims[2] == 1:
        column = dims[1] * row if dims[1] > 1 else 1
    if dims[0] == 1:
        outer = max(dims[1] * row if dims[1] > 1 else 1, dims[2] * column if dims[2] > 1 else 1)
    return [outer, row, column]


def graph_type(value: SSAValue) -> GraphTensorType:
    """The type of a value inside a graph, narrowed."""
    assert isinstance(value.type, GraphTensorType)
    return value.type
