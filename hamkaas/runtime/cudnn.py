"""Plans of cuDNN graphs: built, loaded and run. The only importer of the frontend.

A plan is bytes: each is serialized as soon as it is built, so that what is checked and timed is what is stored, and
plans can be built where no GPU is, for one whose properties are known. The frontend is found at first use, never at
import; it holds the GIL while it builds, so building in parallel takes processes.
"""

import ctypes
import glob
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from hamkaas.artifact import CudnnGraph, CudnnNode, CudnnPlan
from hamkaas.errors import TargetError

DTYPES = {"float32": "FLOAT", "tf32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16", "int32": "INT32"}
"""The frontend's names of element types: it computes products of FLOAT as tf32."""

INSTALL = "pip install 'hamkaas[cudnn]'"


class Unsupported(Exception):
    """cuDNN has no plan for a graph: the reason, in its own words."""


@cache
def frontend() -> Any:
    """The frontend, with which graphs can be described. Raises `TargetError` where it is not installed."""
    try:
        return import_module("cudnn")
    except ImportError as error:
        raise TargetError(f"the frontend of cuDNN does not load: {error} ({INSTALL})") from error


@cache
def versions() -> tuple[str, str]:
    """Of libcudnn and of the frontend: a plan is good for these only. Raises `TargetError` without libcudnn."""
    module = frontend()
    # NVRTC's wheels up to 13.0 cannot find this library by themselves, and cuDNN compiles through NVRTC
    for path in glob.glob(str(Path(sysconfig.get_path("purelib"), "nvidia/*/lib/libnvrtc-builtins.so*"))):
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    try:
        return str(module.backend_version_string()), str(module.__version__)
    except Exception as error:  # of the frontend's own kinds
        raise TargetError(f"cuDNN does not load: {_first_line(error)} ({INSTALL})") from error


@dataclass(frozen=True)
class Device:
    """What plans are made for: a GPU by its `handle`, or by a record of its properties where it is not there.

    With neither, a graph can be described but not planned.
    """

    key: str
    """Tells apart what plans cannot be shared between."""
    handle: Any = None
    properties: Any = None
    sm: int = 0

    @staticmethod
    def from_record(text: str, sm: int) -> "Device":
        """The device that a JSON record describes, in the field names of cuDNN; `sm` is 90 for an H100."""
        versions()  # a clear error where the library is absent
        return Device(f"sm_{sm} {text}", properties=frontend().create_device_properties(text), sm=sm)

    @staticmethod
    def present(name: str, stream: int) -> "Device":
        """The GPU of the current context; plans run on `stream` (an address)."""
        versions()
        module = frontend()
        handle = module.create_handle()
        module.set_stream(handle=handle, stream=stream)
        return Device(name, handle=handle)

    def close(self) -> None:
        """Gives up the handle, if there is one."""
        if self.handle is not None:
            frontend().destroy_handle(self.handle)

    @property
    def options(self) -> dict[str, Any]:
        """What a frontend graph needs to know."""
        if self.handle is not None:
            return {"handle": self.handle}
        return {"device_property": self.properties, "sm_version": self.sm} if self.properties is not None else {}


def offered(spec: CudnnGraph, device: Device) -> Any:
    """The frontend's graph with its list of plans, none of them built. Raises `Unsupported` if there is none."""
    try:
        graph = define(spec, device)
        modes = frontend().heur_mode
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.FALLBACK])
        graph.check_support()
        return graph
    except Exception as error:  # of many kinds: what a graph lacks is told by any of them
        raise Unsupported(_first_line(error)) from error


def build_plans(spec: CudnnGraph, device: Device, most: int = 0) -> list[CudnnPlan]:
    """The plans that cuDNN offers for a graph and can build; of these the first `most`, or all if it is 0.

    Raises `Unsupported` if there is none.
    """
    graph = offered(spec, device)
    plans: list[CudnnPlan] = []
    why = "no plan was offered"
    for index in range(graph.get_execution_plan_count()):
        try:
            plans.append(_build_plan(spec, graph, index))
        except Exception as error:
            why = _first_line(error)
        if len(plans) == most > 0:
            break
    if not plans:
        raise Unsupported(why)
    return plans


def _build_plan(spec: CudnnGraph, graph: Any, index: int) -> CudnnPlan:
    graph.build_plan_at_index(index)  # which also makes it the one that is serialized
    size = int(graph.get_workspace_size_plan_at_index(index))
    return CudnnPlan(spec, str(graph.get_plan_name_at_index(index)), size, bytes(graph.serialize()))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class LoadedPlan:
    """A plan that is ready to run on a device."""

    def __init__(self, plan: CudnnPlan, device: Device):
        """Raises an exception of the frontend's if the plan is of another version or device."""
        self._handle = device.handle
        self._graph = frontend().pygraph(**device.options)
        arguments = (list(plan.data),) if device.handle is None else (device.handle, list(plan.data))
        self._graph.deserialize(*arguments)  # 1.28 takes a list of integers, not bytes

    def execute(self, pointers: Sequence[int], workspace: int) -> None:
        """Enqueues the graph. Addresses on the device of its inputs, then of its outputs; none is checked."""
        self._graph.execute(dict(enumerate(pointers, start=1)), workspace, handle=self._handle)


# From the specification to the frontend's graph


def define(spec: CudnnGraph, device: Device) -> Any:
    """The frontend's graph. Its arguments have the uids 1, 2, ...: the inputs in order, then the outputs."""
    builder = _Builder(spec, device)
    for number in spec.inputs:
        builder.add_input(number)
    for node in spec.nodes:
        builder.add_node(node)
    return builder.graph


class _Builder:
    def __init__(self, spec: CudnnGraph, device: Device):
        self.spec = spec
        self.cudnn = frontend()
        self.graph = self.cudnn.pygraph(
            io_data_type=self._dtype(spec.io),
            intermediate_data_type=self._dtype("float32"),
            compute_data_type=self._dtype(spec.compute),
            **device.options,
        )
        self.uid_of = {number: uid for uid, number in enumerate((*spec.inputs, *spec.outputs), start=1)}
        self.values: dict[int, Any] = {}
        self.has_heads = any(node.kind == "sdpa" for node in spec.nodes)
        """Attention has a batch axis in front of its three, of size 1."""

    def _dtype(self, name: str) -> Any:
        return getattr(self.cudnn.data_type, DTYPES[name])

    def _layout(self, number: int) -> tuple[list[int], list[int]]:
        tensor = self.spec.tensors[number]
        if not self.has_heads:
            return list(tensor.dims), list(tensor.strides)
        span = max(n * step for n, step in zip(tensor.dims, tensor.strides, strict=True))
        return [1, *tensor.dims], [span, *tensor.strides]

    def add_input(self, number: int) -> None:
        dims, strides = self._layout(number)
        dtype = self._dtype(self.spec.tensors[number].dtype)
        uid = self.uid_of[number]
        self.values[number] = self.graph.tensor(name=f"t{uid}", dim=dims, stride=strides, data_type=dtype, uid=uid)

    def add_node(self, node: CudnnNode) -> None:
        value = NODES[node.kind](self, node, *(self.values[number] for number in node.inputs))
        value.set_data_type(self._dtype(self.spec.tensors[node.output].dtype))
        self.values[node.output] = value
        if node.output in self.spec.outputs:
            dims, strides = self._layout(node.output)
            value.set_output(True).set_uid(self.uid_of[node.output]).set_dim(dims).set_stride(strides)

    def matmul(self, node: CudnnNode, lhs: Any, rhs: Any) -> Any:
        return self.graph.matmul(A=lhs, B=rhs)

    def add(self, node: CudnnNode, lhs: Any, rhs: Any) -> Any:
        return self.graph.add(a=lhs, b=rhs)

    def mul(self, node: CudnnNode, lhs: Any, rhs: Any) -> Any:
        return self.graph.mul(a=lhs, b=rhs)

    def relu(self, node: CudnnNode, x: Any) -> Any:
        return self.graph.relu(input=x)

    def silu(self, node: CudnnNode, x: Any) -> Any:
        return self.graph.swish(input=x)

    def cast(self, node: CudnnNode, x: Any) -> Any:
        return self.graph.identity(input=x)

    def rms_norm(self, node: CudnnNode, x: Any, weight: Any) -> Any:
        phase = self.cudnn.norm_forward_phase.INFERENCE
        eps = self.graph.tensor_scalar(node.number, self.cudnn.scalar_type.RUNTIME_PARAM)
        return self.graph.rmsnorm(norm_forward_phase=phase, input=x, scale=weight, epsilon=eps)[0]

    def sum_of_squares(self, node: CudnnNode, x: Any) -> Any:
        dims, strides = self._layout(node.output)
        square = self.graph.mul(a=x, b=x)
        square.set_data_type(self._dtype("float32"))
        return self.graph.reduction(input=square, mode=self.cudnn.reduction_mode.ADD).set_dim(dims).set_stride(strides)

    def sdpa(self, node: CudnnNode, q: Any, k: Any, v: Any, length: Any, rows: Any = None) -> Any:
        # The padding mask needs the number of queries too; of one query, any number of at least 1 covers it, so the
        # length of the keys serves. One query needs no causal mask, with which it would be slower.
        causal: dict[str, Any] = {}
        if rows is not None:
            causal = {"diagonal_alignment": self.cudnn.diagonal_alignment.BOTTOM_RIGHT, "diagonal_band_right_bound": 0}
        return self.graph.sdpa(
            q=q,
            k=k,
            v=v,
            attn_scale=node.number,
            generate_stats=False,
            use_padding_mask=True,
            seq_len_q=length if rows is None else rows,
            seq_len_kv=length,
            **causal,
        )[0]


NODES: dict[str, Callable[..., Any]] = {
    "matmul": _Builder.matmul,
    "add": _Builder.add,
    "mul": _Builder.mul,
    "relu": _Builder.relu,
    "silu": _Builder.silu,
    "cast": _Builder.cast,
    "rmsnorm": _Builder.rms_norm,
    "sum_of_squares": _Builder.sum_of_squares,
    "sdpa": _Builder.sdpa,
}
"""How a node of each kind is added."""
