"""What code generation hands to the runtime: plain frozen data, no IR, no device.

An `Artifact` is everything that is needed to run a compiled model but the weights. It can be read, printed and
tested on a machine without a GPU. The picture to keep in mind:

    Artifact
      source            CUDA C++ or LLVM IR of all kernels
      kernels           what each entry point expects
      weights, states   tensors that live as long as the model, shared by all programs
      arena_bytes       one block of scratch memory; every temporary is an offset into it
      programs          one per named graph: a straight line of launches and copies
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import prod
from typing import TypeAlias

import ml_dtypes
import numpy as np

ALIGNMENT = 256
"""Bytes: every temporary in the arena, every weight and every state on a device starts at a multiple of it."""

NUMPY_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "int64": np.dtype(np.int64),
}
"""The element types of HamKaas tensors, by name."""


class Space(StrEnum):
    """Where a buffer lives."""

    ARENA = "arena"
    WEIGHT = "weight"
    STATE = "state"
    INPUT = "input"
    OUTPUT = "output"
    STATUS = "status"
    """One int64 per model: 0, or the code of the first fault that a kernel found (`Program.faults`)."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of a tensor; dense and row-major wherever HamKaas stores it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype:
        """The numpy dtype of the elements."""
        return NUMPY_DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class BufferRef:
    """A place in memory: byte `offset` into the arena, or into the `index`-th weight, state, input or output."""

    space: Space
    index: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Kernel:
    """One entry point of the source. Its arguments are pointers only; every size is part of its code."""

    name: str
    num_args: int
    block: int
    """Threads per block (cuda); 1 on the CPU, where a block is a piece of work for one worker."""
    shared_bytes: int = 0
    """Static shared memory of a block (cuda), for the reader: the source declares it."""


@dataclass(frozen=True)
class Launch:
    """Run `kernel` for the blocks 0 to `grid` - 1, in any order and in parallel."""

    kernel: str
    grid: int
    block: int
    args: tuple[BufferRef, ...]
    barrier: bool = True
    """Whether this step touches what an earlier step since the last barrier wrote, or writes what one read."""
    cost: int = 0
    """Bytes that the launch reads and writes, an estimate: decides how many workers the CPU uses."""
    label: str = ""
    """The tensor operations inside, for people."""
    overlap: bool = False
    """Whether the launch may start before the step ahead of it has ended: its kernel waits by itself (CUDA only)."""


@dataclass(frozen=True)
class Persistent:
    """Run launches in order as steps of one kernel, whose blocks stay until the last one (CUDA only).

    Its arguments are a table of the steps, and a counter for each step and for each of its blocks, all in device memory
    and zero at first. `hamkaas.codegen.cuda_persistent` says how its blocks wait for each other.
    """

    kernel: str
    block: int
    launches: tuple[Launch, ...]
    barrier: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The kernels of the launches, by their numbers in the table: in the order of their first launches."""
        return tuple(dict.fromkeys(launch.kernel for launch in self.launches))

    @property
    def num_buffers(self) -> int:
        """Pointers of a row of the table: as many as the launch with the most arguments has."""
        return max(len(launch.args) for launch in self.launches)


@dataclass(frozen=True)
class Execute:
    """Run a cuDNN plan (CUDA only)."""

    plan: int
    """Its place in `Artifact.plans`."""
    args: tuple[BufferRef, ...]
    """Inputs, then outputs."""
    workspace: BufferRef | None = None
    barrier: bool = True
    label: str = ""
    """The operations inside, for people."""


@dataclass(frozen=True)
class Copy:
    """Copy `nbytes` bytes; the two ranges never overlap."""

    source: BufferRef
    target: BufferRef
    nbytes: int
    barrier: bool = True


Step: TypeAlias = Launch | Persistent | Execute | Copy
"""What a program does at one point."""


@dataclass(frozen=True)
class InputCheck:
    """A bound that the host checks on an int64 input before anything runs: every element in [low, high]."""

    input: int
    low: int
    high: int
    what: str
    """For the message: what the number is used for, as in 'begin of hamkaas.replace_slice'."""


@dataclass(frozen=True)
class SpanCheck:
    """A relation that the host checks before anything runs: input `end` minus input `begin` is `length`."""

    begin: int
    end: int
    length: int
    what: str


@dataclass(frozen=True)
class Program:
    """One named graph as a straight line of steps. Indices in `BufferRef`s refer to tuples here and in the artifact."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]
    checks: tuple[InputCheck | SpanCheck, ...] = ()
    faults: tuple[str, ...] = ()
    """Text of fault code k at index k - 1."""

    @property
    def native_steps(self) -> tuple[Launch | Copy, ...]:
        """The steps, for a target that has neither cuDNN nor kernels that stay."""
        steps = tuple(step for step in self.steps if not isinstance(step, Execute | Persistent))
        assert len(steps) == len(self.steps), "only the CUDA target executes cuDNN graphs and persistent kernels"
        return steps


@dataclass(frozen=True)
class Artifact:
    """A compiled model without its weights."""

    target: str
    """'cpu' or 'cuda'."""
    arch: str
    """'sm_90' and the like for cuda; '' on the CPU, whose code is made for the machine it runs on."""
    source: str
    kernels: tuple[Kernel, ...]
    weights: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    arena_bytes: int
    programs: tuple[Program, ...]
    scaled: tuple[tuple[str, str], ...] = ()
    """Names of an int8 weight and of its scales, which are both made from the array that is bound to the first."""
    plans: tuple["CudnnPlan", ...] = ()
    """One for each distinct cuDNN graph."""


CUDNN_ALIGNMENT = 16
"""Bytes: an argument of a cuDNN graph may start at any multiple. Plans are made for vector loads of that size."""


@dataclass(frozen=True)
class CudnnTensor:
    """A tensor of a cuDNN graph; its number (uid) is its place in `CudnnGraph.tensors`."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    dtype: str
    """'float32', 'float16', 'bfloat16' or 'int32'."""

    @property
    def span(self) -> int:
        """Elements of memory from the first to the last."""
        return 1 + sum((n - 1) * step for n, step in zip(self.dims, self.strides, strict=True))

    @property
    def numpy_dtype(self) -> np.dtype:
        """The numpy dtype of the elements."""
        return np.dtype(np.int32) if self.dtype == "int32" else NUMPY_DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of memory from the first element to the last."""
        return self.span * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class CudnnNode:
    """One operation of a cuDNN graph.

    Its kind is 'matmul', 'add', 'mul', 'relu', 'silu', 'cast', 'rmsnorm', 'sum_of_squares' or 'sdpa'.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    number: float = 0.0
    """eps of 'rmsnorm', scale of 'sdpa'."""


@dataclass(frozen=True)
class CudnnGraph:
    """A cuDNN graph as plain data, without names: two that are equal share one plan."""

    io: str
    compute: str
    """'float32' or 'tf32': the frontend knows both as FLOAT, but what a product of float32 is depends on it."""
    tensors: tuple[CudnnTensor, ...]
    inputs: tuple[int, ...]
    """Numbers of the tensors that `cudnn.execute` passes, in its order."""
    outputs: tuple[int, ...]
    nodes: tuple[CudnnNode, ...]

    def to_json(self) -> str:
        """Canonical text: equal graphs have equal texts, in this process and in any other."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "CudnnGraph":
        """The graph of such a text. Raises `ValueError`, `KeyError` or `TypeError` for any other."""
        data = json.loads(text)
        tensors = (CudnnTensor(tuple(t["dims"]), tuple(t["strides"]), t["dtype"]) for t in data.pop("tensors"))
        nodes = (CudnnNode(n["kind"], tuple(n["inputs"]), n["output"], n["number"]) for n in data.pop("nodes"))
        inputs, outputs = tuple(data.pop("inputs")), tuple(data.pop("outputs"))
        return cls(tensors=tuple(tensors), nodes=tuple(nodes), inputs=inputs, outputs=outputs, **data)

    @property
    def argument_bytes(self) -> tuple[int, ...]:
        """Memory of each input, then of each output, from its first element to its last."""
        return tuple(self.tensors[number].nbytes for number in (*self.inputs, *self.outputs))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """What it computes, for people: 'matmul silu mul 512x11008 from 4096, bfloat16'."""
        _, rows, columns = self.tensors[self.outputs[0]].dims
        inner = [f" from {self.tensors[node.inputs[0]].dims[2]}" for node in self.nodes if node.kind == "matmul"][:1]
        return f"{' '.join(node.kind for node in self.nodes)} {rows}x{columns}{''.join(inner)}, {self.io}"


@dataclass(frozen=True)
class CudnnPlan:
    """One way in which cuDNN can run a graph."""

    graph: CudnnGraph
    name: str
    """Engine and knobs, as cuDNN writes them: 'eng7_k24=21'."""
    workspace: int
    """Bytes of scratch memory."""
    data: bytes = field(repr=False)
    """The serialized plan, its kernel included."""
