"""Random graphs over every operation of the dialect, made from its own tables.

An operation takes part because it is in the dialect: `infer` says by its parameters what the operation needs, and
refuses what does not fit, so that operands are drawn until some do. Shapes are around the sizes of vectors, warps and
blocks, and odd; numbers include NaN and infinities.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from xdsl.ir import Attribute

import hamkaas as hk
from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import AnyTensor
from hamkaas.errors import GraphError
from hamkaas.frontend.tensor import IR_TYPES, apply_op, as_index

Array = NDArray[Any]

OPS: tuple[type[Any], ...] = tuple(
    op for op in hamkaas.HAMKAAS.operations if issubclass(op, hamkaas.TensorOp) and not inspect.isabstract(op)
)
"""Every operation from tensors to a tensor."""

SIZES = (1, 1, 2, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33, 64, 127)
MOST_ELEMENTS = 9000
"""Of a tensor: the kernel interpreter runs all threads in numpy."""

FLOATS = ("float32", "float16", "bfloat16")
DTYPES = ("float32",) * 10 + ("float16", "bfloat16", "float16", "bfloat16", "int8", "int64")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)
TRIES = 60
"""Draws of operands for one operation."""


@dataclass
class RandomGraph:
    """The outputs of a graph, and arrays for its inputs."""

    outputs: list[hk.Tensor]
    inputs: dict[str, Array]
    ops: list[str] = field(default_factory=list[str])


class Generator:
    """Draws one graph; everything follows from the seed."""

    def __init__(self, seed: int, most_ops: int = 12):
        self.rng = np.random.default_rng(seed)
        self.inputs: dict[str, Array] = {}
        self.serial = count()
        self.pool: list[hk.Tensor] = []
        self.is_special = self.rng.random() < 0.15
        self.floats = ("float32",) if self.rng.random() < 0.5 else FLOATS
        self.most_ops = most_ops

    def graph(self) -> RandomGraph:
        """The graph."""
        for _ in range(self.count(1, 3)):
            self.pool.append(self.leaf(self.shape(), self.dtype()))
        ops: list[str] = []
        for _ in range(self.count(1, self.most_ops)):
            op = self.one_of(OPS)
            if self.rng.random() < 0.15:
                motif = self.one_of(self.MOTIFS)
                self.pool += motif(self)
                ops.append(motif.__name__)
            elif (made := self.apply(op)) is not None:
                self.pool.append(made)
                ops.append(op.name)
        made = [tensor for tensor in self.pool if tensor.op is not None] or self.pool
        outputs = [made[-1], *(self.one_of(made) for _ in range(self.count(0, 2)))]
        return RandomGraph(outputs, self.inputs, ops)

    # numbers

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of several."""
        return choices[int(self.rng.integers(len(choices)))]

    def count(self, low: int, high: int) -> int:
        """A number from `low` to `high`."""
        return int(self.rng.integers(low, high + 1))

    def shape(self) -> tuple[int, ...]:
        """A shape of rank 1 to 3."""
        while True:
            shape = tuple(self.one_of(SIZES) for _ in range(self.count(1, hamkaas.MAX_RANK)))
            if prod(shape) <= MOST_ELEMENTS:
                return shape

    def dtype(self) -> str:
        """An element type; mostly of floats."""
        dtype = self.one_of(DTYPES)
        return dtype if dtype not in FLOATS else self.one_of(self.floats)

    # tensors that are not computed

    def leaf(self, shape: Sequence[int], dtype: str, high: int = 3) -> hk.Tensor:
        """An input, a weight, a state or a number. An index lies in 0 to `high`."""
        kind = self.rng.random()
        if kind < 0.1 and dtype != "int64":
            return hk.BufferTensor(dtype, shape)
        if kind < 0.2 and dtype in FLOATS:
            number = self.one_of((0.5, 0.1, -1.0, 1.0, 3, *(SPECIAL[1:] if self.is_special else ())))
            tensor = hk.InputTensor("unused", dtype, shape)
            return tensor._as_tensor(number)  # pyright: ignore[reportPrivateUsage]
        array = self.array(shape, dtype, high)
        if kind < 0.5:
            return hk.ConstantTensor(array)
        return self.input(array)

    def input(self, array: Array) -> hk.Tensor:
        """An input with these values."""
        name = f"x{next(self.serial)}"
        self.inputs[name] = array
        return hk.InputTensor(name, array.dtype, array.shape)

    def array(self, shape: Sequence[int], dtype: str, high: int) -> Array:
        """Random numbers."""
        if dtype == "int64":
            return self.rng.integers(0, max(high, 0) + 1, shape)
        if dtype == "int8":
            return self.rng.integers(-128, 128, shape).astype(np.int8)
        numbers = self.rng.standard_normal(shape)
        if self.rng.random() < 0.3:  # so that some are equal
            numbers = np.round(numbers * 2) / 2
        if self.is_special:
            special = self.rng.choice(SPECIAL, shape)
            numbers = np.where(self.rng.random(shape) < 0.05, special, numbers)
        return numbers.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    # operations

    def apply(self, op: type[Any]) -> hk.Tensor | None:
        """The operation on random operands; None if none were found that fit."""
        parameters = inspect.signature(op.infer).parameters
        for _ in range(TRIES):
            operands: list[hk.Tensor] = []
            attributes: list[Any] = []
            for name, parameter in parameters.items():
                if (draw := self.ATTRIBUTES.get(parameter.annotation)) is not None:
                    attributes.append(draw(self, name, operands))
                else:
                    operands.append(self.operand(name, parameter.annotation, operands, op))
            if op is hamkaas.AttentionOp:
                attributes.append(self.one_of((None, 0.3)))
            if sum(prod(operand.shape) for operand in operands) > 3 * MOST_ELEMENTS:
                continue
            try:
                result = apply_op(op, tuple(operands), *attributes)
            except GraphError:
                continue
            if prod(result.shape) <= MOST_ELEMENTS:
                self.pool += [operand for operand in operands if operand.op is None and operand not in self.pool]
                return result
        return None

    def operand(self, name: str, annotation: Any, before: Sequence[hk.Tensor], op: type[Any]) -> hk.Tensor:
        """A tensor of the pool, or a new one whose shape has something of the operands before it."""
        if annotation == AnyTensor | int:
            return self.bound(name, before)
        if self.pool and self.rng.random() < (0.7 if not before else 0.4):
            return self.one_of(self.pool[-6:])
        dtype = self.dtype()
        if before and self.rng.random() < 0.7:
            dtype = before[-1].dtype.name
        if op is hamkaas.SampleOp and self.rng.random() < 0.9:
            return self.sample_operand(name)
        if op is hamkaas.GatherOp and before:
            dtype = "int64"
        if op is hamkaas.DequantizeOp and self.rng.random() < 0.7:
            dtype = self.one_of(("float32", "float16")) if before else "int8"
        shape = self.shape() if not before else self.one_of(list(self.related(before)))
        if op is hamkaas.ComplexMulOp and self.rng.random() < 0.8:
            shape = (*shape[:-1], 2)
        shape = shape if prod(shape) <= MOST_ELEMENTS else self.shape()
        return self.leaf(shape, dtype, high=before[0].shape[0] - 1 if before else 3)

    def bound(self, name: str, before: Sequence[hk.Tensor]) -> hk.Tensor:
        """A number of rows or positions, as a constant or as an input of one element or of one for each row."""
        if name == "end":  # behind as many rows as are replaced
            rows, begin = before[1].shape[0], before[-1]
            if isinstance(begin, hk.InputTensor):
                return self.input(self.inputs[begin.name] + rows)
            return as_index(begin.attributes[0] + rows)
        if name == "begin":
            high, sizes = before[0].shape[0] - before[1].shape[0], [1]
        elif name == "prefix":
            high, sizes = before[0].shape[-1], [1, *before[0].shape[-2:-1]]
        else:
            high, sizes = before[-1].shape[0], [1, before[0].shape[0]]
        numbers = self.rng.integers(0, max(high, 0) + 1, self.one_of(sizes))
        return as_index(int(numbers[0])) if self.rng.random() < 0.4 else self.input(numbers)

    def sample_operand(self, name: str) -> hk.Tensor:
        """Logits, a temperature, a nucleus or a coin."""
        if name == "logits":
            return self.leaf([self.one_of(SIZES)], "float32")
        choices = {"temperature": (0.0, 0.0, -1.0, 0.7, 1.0), "top_p": (0.0, 0.3, 0.9, 1.0, 2.0)}
        number = self.one_of(choices[name]) if name in choices else self.rng.random()
        return self.input(np.array([number], np.float32))

    def related(self, before: Sequence[hk.Tensor]) -> Iterator[tuple[int, ...]]:
        """Shapes that may go with those of the operands before."""
        yield before[-1].shape
        shape, size = before[0].shape, self.one_of(SIZES)
        yield shape
        yield shape[-1:]
        yield (1,)
        yield (shape[-1], size)
        yield (size, shape[-1])
        yield (*shape[:-2], shape[-1], size)
        yield (*shape[:-1], 1)
        yield (*shape[:-1], self.one_of([n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0]))
        yield tuple(self.one_of((n, 1)) for n in shape)
        yield (min(size, shape[0]), *shape[1:])
        yield (size,)
        if len(shape) > 1:
            heads = shape[-2]
            yield (size, self.one_of([n for n in range(1, heads + 1) if heads % n == 0]), shape[-1])

    def integers(self, name: str, operands: Sequence[hk.Tensor]) -> list[int]:
        """Axes, or a shape of as many elements as the operand has."""
        (operand,) = operands
        if self.rng.random() < 0.5:
            return [int(axis) for axis in self.rng.permutation(len(operand.shape))]
        rest, shape = prod(operand.shape), []
        for _ in range(self.count(0, hamkaas.MAX_RANK - 1)):
            shape.append(self.one_of([n for n in range(1, rest + 1) if rest % n == 0]))
            rest //= shape[-1]
        return [int(size) for size in self.rng.permutation([*shape, rest])]

    def integer(self, name: str, operands: Sequence[hk.Tensor]) -> int:
        """A bound along the first axis."""
        return self.count(0, operands[0].shape[0])

    def number(self, name: str, operands: Sequence[hk.Tensor]) -> float:
        """An epsilon or a factor."""
        return self.one_of((1e-5, 1e-2, 1.0))

    def element(self, name: str, operands: Sequence[hk.Tensor]) -> Attribute:
        """An element type."""
        return IR_TYPES[self.one_of(self.floats if self.rng.random() < 0.7 else FLOATS)]

    # what models are made of: operations that are fused, raised or merged only where they meet

    def matrix(self, n: int, k: int) -> hk.Tensor:
        """A weight [n, k], stored either way, in any type."""
        shape = (k, n) if self.rng.random() < 0.6 else (n, k)
        dtype = self.one_of(("float32", "float32", *FLOATS, "int8", "int8"))
        weight: hk.Tensor = hk.ConstantTensor(self.array(shape, dtype, 0))
        if dtype == "int8":
            group = self.one_of([g for g in range(1, shape[1] + 1) if shape[1] % g == 0])
            scales = self.array((shape[0], shape[1] // group), self.one_of(("float32", "float16")), 0)
            weight = hk.dequantize(weight, hk.ConstantTensor(scales))
        elif dtype != "float32" and self.rng.random() < 0.7:
            weight = weight.cast("float32")
        return weight.permute(1, 0) if shape == (k, n) else weight

    def rows(self, n: int) -> hk.Tensor:
        """A vector of n, or some rows of it, sometimes normed."""
        shape = (n,) if self.rng.random() < 0.5 else (self.one_of((1, 2, 3, 5, 17)), n)
        x = self.input(self.array(shape, "float32", 0))
        return x.rms_norm(self.input(self.array((n,), "float32", 0))) if self.rng.random() < 0.5 else x

    def dense(self) -> list[hk.Tensor]:
        """Layers with a residual and an activation."""
        n, k = self.one_of(SIZES[2:]), self.one_of(SIZES)
        x = self.rows(n)
        y = x @ self.matrix(n, k)
        y = y + y.relu() if self.rng.random() < 0.5 else y.silu()
        return [y, y.reshape(-1) * 0.5]

    def gated(self) -> list[hk.Tensor]:
        """The feed-forward layer of a llama."""
        n, k = self.one_of(SIZES[2:]), self.one_of(SIZES)
        x = self.rows(n)
        return [x + ((x @ self.matrix(n, k)).silu() * (x @ self.matrix(n, k))) @ self.matrix(k, n)]

    def attended(self) -> list[hk.Tensor]:
        """Queries, keys and values of one value; turned, put into caches, and attended to."""
        n, d, kv = self.one_of((8, 16, 33)), 2 * self.one_of((1, 2, 3, 4, 8, 17)), self.one_of((1, 2, 3))
        heads, positions = kv * self.one_of((1, 2)), self.one_of((2, 5, 9, 33))
        x = self.rows(n)
        t = 1 if len(x.shape) == 1 else x.shape[0]
        if t > positions:
            return []
        place = self.count(0, positions - t)
        begin, end = self.bounds(place, place + t)
        table = hk.ConstantTensor(self.array((positions, d // 2, 2), "float32", 0))

        def projected(count: int, turn: bool) -> hk.Tensor:
            y = (x @ self.matrix(n, count * d)).reshape(t * count, d // 2, 2)
            if turn:
                where = np.repeat(np.arange(place, place + t), count)
                y = y.complex_hadamard_product(table.gather(self.input(where)))
            return y.reshape(t, count, d)

        dtype = self.one_of(FLOATS)

        def cached(turn: bool) -> hk.Tensor:
            new = projected(kv, turn)
            return hk.BufferTensor(dtype, (positions, kv, d)).replace(new.cast(dtype), begin, end)

        query = projected(heads, turn=True)
        keys, values = cached(turn=True), cached(turn=False)
        y = (query.reshape(heads, d) if t == 1 else query).attention(keys, values, end)
        return [x + y.reshape(*x.shape[:-1], heads * d) @ self.matrix(heads * d, n)]

    def written_out(self) -> list[hk.Tensor]:
        """Attention as products around a softmax."""
        heads, rows, d, positions = (self.one_of(choice) for choice in ((1, 2), (1, 3), (2, 8, 5), (3, 8, 17)))
        query, keys, values = (
            self.input(self.array(shape, "float32", 0))
            for shape in ((heads, rows, d), (positions, heads, d), (positions, heads, d))
        )
        scores = query @ keys.permute(1, 2, 0) * 0.3
        return [scores.sliced_softmax(self.count(1, positions)) @ values.permute(1, 0, 2)]

    def followed(self) -> list[hk.Tensor]:
        """Any operation, views of its result, and what reads it element by element or by pairs."""
        y = self.apply(self.one_of(OPS))
        if y is None or y.dtype.name not in FLOATS:
            return []
        for _ in range(self.count(0, 2)):
            op = self.one_of((hamkaas.ReshapeOp, hamkaas.PermuteOp))
            with suppress(GraphError):
                y = apply_op(op, (y,), self.integers("", [y]))
        if prod(y.shape) % 2 == 0 and self.rng.random() < 0.7:
            y = y if y.shape[-1] == 2 else y.reshape(-1, 2)
            y = y.complex_hadamard_product(self.input(self.array(y.shape, y.dtype.name, 0)))
        return [y, y.relu() * 0.5]

    def bounds(self, begin: int, end: int) -> tuple[hk.Tensor, hk.Tensor]:
        """Two numbers, as inputs, constants, or elements of a table that is read by an index."""
        kind = self.rng.random()
        if kind < 0.3:
            return as_index(begin), as_index(end)
        if kind < 0.6:
            return self.input(np.array([begin])), self.input(np.array([end]))
        number = hk.ConstantTensor(np.arange(end + 2))
        return number.gather(self.input(np.array([begin]))), number.gather(self.input(np.array([end])))

    MOTIFS = (dense, gated, attended, written_out, followed, followed, followed)
    """Each gives tensors for the pool."""

    ATTRIBUTES: dict[Any, Callable[["Generator", str, Sequence[hk.Tensor]], Any]] = {  # noqa: RUF012
        Sequence[int]: integers,
        int: integer,
        float: number,
        Attribute: element,
    }
    """How an attribute is drawn, by the annotation of its parameter."""
