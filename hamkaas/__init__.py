"""HamKaas: compiles tensor graphs into one program for a CPU or an NVIDIA GPU. Start reading at `pipeline.py`."""

from hamkaas.api import Graph, Model, choose_target, compile
from hamkaas.errors import (
    CheckpointError,
    CompileError,
    GraphError,
    HamkaasError,
    InputError,
    RuntimeFault,
    ScriptError,
    TargetError,
)
from hamkaas.frontend import (
    BufferTensor,
    ConstantTensor,
    InputTensor,
    Script,
    Tensor,
    dequantize,
    dump_script,
    load_script,
    sample,
)

__all__ = [
    "BufferTensor",
    "CheckpointError",
    "CompileError",
    "ConstantTensor",
    "Graph",
    "GraphError",
    "HamkaasError",
    "InputError",
    "InputTensor",
    "Model",
    "RuntimeFault",
    "Script",
    "ScriptError",
    "TargetError",
    "Tensor",
    "choose_target",
    "compile",
    "dequantize",
    "dump_script",
    "load_script",
    "sample",
]
