"""Tensors that record how they are computed: the Python face of the `hamkaas` dialect.

A tensor is a light, immutable node: an operation class of the dialect, its operands and attributes, its type, and the
line of the user's program that built it. The rules of shapes and types are asked from the dialect (`infer`); what it
refuses becomes a `GraphError` that names the operation, the operands and that line. Nothing is computed here.
"""

import reprlib
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from operator import index as as_int
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeGuard, cast

import numpy as np
from xdsl.dialects.builtin import IntegerType, TensorType, bf16, f16, f32, i64
from xdsl.ir import Attribute
from xdsl.utils.exceptions import VerifyException

from hamkaas.artifact import NUMPY_DTYPES
from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import AnyTensor, check_tensor_type
from hamkaas.errors import GraphError

DType: TypeAlias = str | np.dtype[Any] | type[Any]
"""An element type: a numpy dtype, a scalar type such as `np.float32`, or a name such as "float32"."""

Number: TypeAlias = int | float | np.integer[Any] | np.floating[Any]

IR_TYPES: dict[str, Attribute] = {
    "float32": f32,
    "float16": f16,
    "bfloat16": bf16,
    "int8": IntegerType(8),
    "int64": i64,
}

LARGEST = {"float32": float.fromhex("0x1.fffffep127"), "float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127")}
"""The largest finite number of the float dtypes."""

_NAMES = {type: name for name, type in IR_TYPES.items()}
_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Location:
    """A line of a program."""

    file: str
    line: int
    column: int | None = None

    @staticmethod
    def of_user() -> "Location":
        """The line outside of HamKaas that is being executed; inside of `locate`, the place that it was given."""
        if (given := _location.get()) is not None:
            return given
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        return Location(frame.f_code.co_filename, frame.f_lineno)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + ("" if self.column is None else f":{self.column}")


_location: ContextVar[Location | None] = ContextVar("location", default=None)


@contextmanager
def locate(location: Location) -> Generator[None]:
    """Tensors that are built inside come from this place instead of a line of Python."""
    token = _location.set(location)
    try:
        yield
    finally:
        _location.reset(token)


def dtype_name(dtype: DType) -> str:
    """The name of an element type. Raises `GraphError` for one that HamKaas does not have."""
    try:
        # numpy takes None for float64
        known = isinstance(dtype, str) and dtype in NUMPY_DTYPES
        name = str(dtype) if known or dtype is None else np.dtype(dtype).name  # pyright: ignore[reportUnnecessaryComparison]
    except TypeError:
        name = str(dtype)
    if name not in NUMPY_DTYPES:
        raise GraphError(f"{Location.of_user()}: expected a dtype of {', '.join(NUMPY_DTYPES)}, got {name}")
    return name


def make_type(what: str, dtype: DType, shape: Sequence[int]) -> AnyTensor:
    """The tensor type of a source. Raises `GraphError` if HamKaas cannot hold such a tensor."""
    try:
        sizes = _integers(shape)
    except TypeError:
        raise GraphError(f"{Location.of_user()}: {what}: expected a shape of integers, got {shape!r}") from None
    try:
        return check_tensor_type(TensorType(IR_TYPES[dtype_name(dtype)], sizes))
    except VerifyException as error:
        raise GraphError(f"{Location.of_user()}: {what}: {error}") from None


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """A tensor of a graph. Made by `InputTensor`, `ConstantTensor`, `BufferTensor` and by operations on others."""

    op: type[Any] | None
    """The operation class of the dialect; None for the sources."""
    operands: tuple["Tensor", ...]
    attributes: tuple[Any, ...]
    """What the operation's constructor takes after its operands."""
    type: AnyTensor
    location: Location
    """The line of the user's program that built it."""
    # numpy must leave `array * tensor` to us instead of making an array of tensors
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return self.type.get_shape()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return NUMPY_DTYPES[_NAMES[self.type.element_type]]

    def __repr__(self) -> str:
        what = self.op.name if self.op is not None else type(self).__name__
        return f"<{what}: {self.dtype} {list(self.shape)}, {self.location}>"

    # operators

    def __add__(self, other: "Tensor | np.ndarray[Any, Any] | Number") -> "Tensor":
        return apply_op(hamkaas.AddOp, (self, self._as_tensor(other)))

    def __mul__(self, other: "Tensor | np.ndarray[Any, Any] | Number") -> "Tensor":
        return apply_op(hamkaas.MulOp, (self, self._as_tensor(other)))

    def __radd__(self, other: Number) -> "Tensor":
        return self + self._left(other)

    def __rmul__(self, other: Number) -> "Tensor":
        return self * self._left(other)

    def __matmul__(self, other: "Tensor | np.ndarray[Any, Any]") -> "Tensor":
        return apply_op(hamkaas.MatmulOp, (self, self._as_tensor(other)))

    def __getitem__(self, rows: slice) -> "Tensor":
        """Rows of the first axis, as in Python: `x[2:5]`, `x[:-1]`. The step is 1."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            _refuse(hamkaas.SliceOp, (self,), f"expected a slice with step 1, such as x[2:5], got {rows!r}")
        try:
            begin, end, _ = rows.indices(self.shape[0])
        except TypeError:
            _refuse(
                hamkaas.SliceOp, (self,), f"expected bounds that are integers, got {rows.start!r} and {rows.stop!r}"
            )
        return apply_op(hamkaas.SliceOp, (self,), begin, end)

    def __iter__(self) -> NoReturn:
        raise TypeError("a tensor of a graph has no elements to iterate over")

    def __bool__(self) -> NoReturn:
        raise TypeError("a tensor of a graph has no value until a model is run")

    def _as_tensor(self, other: object) -> "Tensor":
        """A number becomes a constant that broadcasts; an array becomes a constant tensor of this one's dtype."""
        if isinstance(other, Tensor):
            return other
        if _is_number(other):
            return _constant(_held(other, self.dtype), self.type.element_type, [1] * len(self.shape))
        if isinstance(other, np.ndarray):
            return ConstantTensor(_converted(cast("np.ndarray[Any, Any]", other), self.dtype))
        kind = type(other).__name__
        raise TypeError(f"{Location.of_user()}: expected a tensor, an array or a number, got {kind}")

    def _left(self, other: object) -> Number:
        if _is_number(other):
            return other
        kind = type(other).__name__
        raise TypeError(f"{Location.of_user()}: expected the tensor on the left, or a number, got {kind} on the left")

    # operations by name

    def relu(self) -> "Tensor":
        """max(0, x), element by element."""
        return apply_op(hamkaas.ReluOp, (self,))

    def silu(self) -> "Tensor":
        """x / (1 + exp(-x)), element by element."""
        return apply_op(hamkaas.SiluOp, (self,))

    def reshape(self, *shape: int | Sequence[int]) -> "Tensor":
        """The same elements, row-major, under another shape; one size may be -1."""
        sizes = _sizes(hamkaas.ReshapeOp, self, shape)
        if -1 in sizes:
            known = prod(size for size in sizes if size != -1)
            if sizes.count(-1) > 1 or known < 1 or prod(self.shape) % known:
                _refuse(hamkaas.ReshapeOp, (self,), f"expected a shape with one -1 that the others divide, got {sizes}")
            sizes = [prod(self.shape) // known if size == -1 else size for size in sizes]
        return apply_op(hamkaas.ReshapeOp, (self,), tuple(sizes))

    def permute(self, *axes: int | Sequence[int]) -> "Tensor":
        """Axis i of the result is axis axes[i] of this tensor."""
        return apply_op(hamkaas.PermuteOp, (self,), tuple(_sizes(hamkaas.PermuteOp, self, axes)))

    def replace(self, replacement: "Tensor", start: "Tensor | int", end: "Tensor | int") -> "Tensor":
        """This tensor with rows start to end - 1 of the first axis replaced; the bounds may be int64 tensors of [1]."""
        return apply_op(hamkaas.ReplaceSliceOp, (self, self._as_tensor(replacement), as_index(start), as_index(end)))

    def rms_norm(self, weight: "Tensor | np.ndarray[Any, Any]", eps: float = 1e-5) -> "Tensor":
        """x * weight / sqrt(mean(x^2) + eps) over the last axis; weight: [size of the last axis]."""
        if not _is_number(eps):
            _refuse(hamkaas.RmsNormOp, (self,), f"expected eps to be a number, got {eps!r}")
        return apply_op(hamkaas.RmsNormOp, (self, self._as_tensor(weight)), float(eps))

    def complex_hadamard_product(self, other: "Tensor | np.ndarray[Any, Any]") -> "Tensor":
        """Product of complex numbers; the last axis of both is 2, (re, im). The right side broadcasts as in `*`."""
        return apply_op(hamkaas.ComplexMulOp, (self, self._as_tensor(other)))

    def sliced_softmax(self, prefix: "Tensor | int") -> "Tensor":
        """Softmax of the first `prefix` elements of the last axis, the others unchanged.

        `prefix` is a number, an int64 tensor [1], or one of the size of the second last axis.
        """
        return apply_op(hamkaas.SlicedSoftmaxOp, (self, as_index(prefix)))

    def gather(self, index: "Tensor | Sequence[int]") -> "Tensor":
        """Rows of this table by index: [rows, ...] by int64 [n] gives [n, ...]."""
        if not isinstance(index, Tensor):
            try:
                index = ConstantTensor(np.array(_integers(index), np.int64))
            except TypeError:
                _refuse(hamkaas.GatherOp, (self,), f"expected an index of integers, got {index!r}")
        return apply_op(hamkaas.GatherOp, (self, index))

    def argmax(self) -> "Tensor":
        """Index of the largest element of the last axis: [n] gives int64 [1], [m, n] gives [m]."""
        return apply_op(hamkaas.ArgmaxOp, (self,))

    def cast(self, dtype: DType) -> "Tensor":
        """The same numbers as float32, float16 or bfloat16."""
        return apply_op(hamkaas.CastOp, (self,), IR_TYPES[dtype_name(dtype)])

    def attention(
        self, keys: "Tensor", values: "Tensor", length: "Tensor | int", scale: float | None = None
    ) -> "Tensor":
        """Attention of queries [heads, d] or [t, heads, d] over the first `length` rows of a cache.

        keys, values: [positions, kv_heads, d], where kv_heads divides heads; length: a number, or int64 [1] or [t].
        One length for t queries makes them causal: the last one sees `length` rows, each one before it a row less.
        The scale is 1 / sqrt(d) unless given. The result has the shape of the queries.
        """
        if scale is not None and not _is_number(scale):
            _refuse(hamkaas.AttentionOp, (self,), f"expected a scale that is a number, got {scale!r}")
        return apply_op(hamkaas.AttentionOp, (self, keys, values, as_index(length)), scale)


@dataclass(frozen=True, eq=False, repr=False)
class InputTensor(Tensor):
    """An array that is passed under this name whenever the model runs."""

    name: str = ""

    def __init__(self, name: str, dtype: DType, shape: Sequence[int]):
        if not isinstance(name, str) or not name.isidentifier():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise GraphError(f"{Location.of_user()}: expected an input name that is an identifier, got {name!r}")
        _init(self, make_type(f"input '{name}'", dtype, shape), name=name)


@dataclass(frozen=True, eq=False, repr=False)
class ConstantTensor(Tensor):
    """A weight: an array that is bound to the model when it is compiled. It is not copied; do not change it."""

    array: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0))
    name: str | None = None

    def __init__(self, array: Any, name: str | None = None):
        _check_name(name)
        try:
            data = np.asarray(array)
        except ValueError as error:
            raise GraphError(f"{Location.of_user()}: constant: expected an array of one shape: {error}") from None
        if data.dtype == np.float64:
            data = _converted(data, np.dtype(np.float32))
        _init(self, make_type(f"constant {name or ''}".strip(), data.dtype, data.shape), array=data, name=name)


@dataclass(frozen=True, eq=False, repr=False)
class BufferTensor(Tensor):
    """A state: zero at the start; a run begins with the value that the last `replace` of the run before gave it."""

    name: str | None = None

    def __init__(self, dtype: DType, shape: Sequence[int], name: str | None = None):
        _check_name(name)
        _init(self, make_type(f"state {name or ''}".strip(), dtype, shape), name=name)


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """values[..., i] * scales[..., i // group] as float32; values: int8 [..., n], scales: float32 [..., n / group]."""
    return apply_op(hamkaas.DequantizeOp, (values, scales))


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, coin: Tensor) -> Tensor:
    """A token drawn from logits [n] with nucleus sampling; the parameters are float32 [1]; gives int64 [1]."""
    return apply_op(hamkaas.SampleOp, (logits, temperature, top_p, coin))


def _init(tensor: Tensor, type: AnyTensor, **fields: Any) -> None:
    values = {"op": None, "operands": (), "attributes": (), "type": type, "location": Location.of_user(), **fields}
    for name, value in values.items():
        object.__setattr__(tensor, name, value)


def _check_name(name: object) -> None:
    """Raises `GraphError` for a name that no weight or state can have."""
    if name is not None and (not isinstance(name, str) or not name):
        raise GraphError(f"{Location.of_user()}: expected a name that is text, and not empty, got {name!r}")


def _integers(values: Any) -> list[int]:
    """An integer or several of them as a list. Raises `TypeError` for anything else, such as 2.5."""
    given: Iterable[Any] = [values] if isinstance(values, int | np.integer) else values
    return [as_int(value) for value in given]


def _sizes(op: type[Any], tensor: Tensor, values: tuple[int | Sequence[int], ...]) -> list[int]:
    """`f(1, 2)` and `f([1, 2])` alike."""
    given = values[0] if len(values) == 1 else values
    try:
        return _integers(given)
    except TypeError:
        _refuse(op, (tensor,), f"expected integers, got {given!r}")


def _held(value: Number, dtype: np.dtype[Any]) -> float:
    """A number as a float. Raises `GraphError` if it is finite and too large for the dtype of its tensor."""
    try:
        number = float(value)
        fits = np.isinf(number) or abs(number) <= LARGEST.get(dtype.name, np.inf)
    except OverflowError:  # an int that is too large for any float
        number, fits = 0.0, False
    if not fits:
        raise GraphError(f"{Location.of_user()}: expected a number that {dtype} can hold, got {reprlib.repr(value)}")
    return number


def _converted(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The array in another dtype. Raises `GraphError` for no numbers, and finite ones that are too large for it."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biufV":
        raise GraphError(f"{Location.of_user()}: expected an array of real numbers, got {array.dtype.name}")
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if (lost := np.isinf(result) & ~np.isinf(array)).any():
        raise GraphError(f"{Location.of_user()}: expected numbers that {dtype} can hold, got {array[lost][0]}")
    return result


def _is_number(value: object) -> TypeGuard[Number]:
    return isinstance(value, int | float | np.integer | np.floating)


def _constant(value: int | float, element: Attribute, shape: Sequence[int]) -> Tensor:
    return Tensor(hamkaas.ConstantOp, (), (value,), TensorType(element, shape), Location.of_user())


def as_index(value: Tensor | int) -> Tensor:
    """A number as an index tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        return _constant(as_int(value), i64, [1])
    except TypeError:
        where = Location.of_user()
        raise GraphError(f"{where}: expected an integer or an int64 tensor as an index, got {value!r}") from None


def constant_index(tensor: Tensor) -> int | None:
    """The number in an index constant, else None."""
    if tensor.op is hamkaas.ConstantOp and tensor.type.element_type == i64:
        return tensor.attributes[0]
    return None


def apply_op(op: type[Any], operands: tuple[Tensor, ...], *attributes: Any) -> Tensor:
    """A node, typed by the operation's own rule."""
    for operand in operands:
        if not isinstance(operand, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(operand).__name__
            raise GraphError(f"{Location.of_user()}: {op.name}: expected tensors, got {kind}")
    infer: Callable[..., AnyTensor] = op.infer
    known = [constant_index(operand) for operand in operands]
    given = [operand.type if value is None else value for operand, value in zip(operands, known, strict=True)]
    # attention's scale is no part of its type
    arguments = given if op is hamkaas.AttentionOp else [*given, *attributes]
    try:
        result = infer(*arguments)
    except VerifyException as error:
        _refuse(op, operands, str(error))
    except AttributeError:
        _refuse(op, operands, "expected tensors of data, got a constant index")
    return Tensor(op, operands, attributes, result, Location.of_user())


def _refuse(op: type[Any], operands: Sequence[Tensor], why: str) -> NoReturn:
    types = ", ".join(str(operand.type) for operand in operands)
    raise GraphError(f"{Location.of_user()}: {op.name} of ({types}): {why}")
