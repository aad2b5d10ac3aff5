"""Frontend graphs and real plans for an H100, on a machine that need not have one.

Needs the frontend; for plans libcudnn too, and where no driver is installed a C compiler for a stand-in of its library.
"""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import pytest
from cudnn_cases import POLICIES, llama2_specs, outlined, product_graphs
from graphs import Case, Maker, random_graphs
from hypothesis import HealthCheck, given, settings

from hamkaas.artifact import CudnnGraph, CudnnNode, CudnnTensor
from hamkaas.codegen.cudnn import build_graph
from hamkaas.dialects import cudnn
from hamkaas.errors import TargetError
from hamkaas.partition.policy import PolicyName
from hamkaas.runtime.cudnn import Device, LoadedPlan, Unsupported, build_plans, define, offered, versions

DRIVER_CALLS = """
cuGetErrorName cuCtxGetCurrent cuCtxGetLimit cuCtxPopCurrent cuCtxPushCurrent cuStreamGetCtx cuLinkCreate
cuLinkCreate_v2 cuLinkAddData cuLinkAddData_v2 cuLinkComplete cuLinkDestroy cuLaunchKernel
cuLaunchCooperativeKernel cuDeviceGet cuLibraryLoadData cuLibraryLoadFromFile cuLibraryGetKernel
cuLibraryUnload cuKernelSetAttribute cuKernelGetAttribute cuKernelGetFunction
cuOccupancyMaxPotentialClusterSize cuLaunchKernelEx cuModuleGetFunction cuModuleLoadData cuModuleUnload
cuTensorMapEncodeIm2col cuTensorMapEncodeTiled cuInit
""".split()
"""What cuDNN's engines link to; each answers that there is no device."""


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """An H100 that is not there."""
    if importlib.util.find_spec("cudnn") is None:
        pytest.skip("no plans: nvidia-cudnn-frontend is not installed")
    load_driver(tmp_path_factory.mktemp("driver"))
    try:
        versions()
    except TargetError as error:
        pytest.skip(f"no plans: {error}")
    return Device.from_record((Path(__file__).parent / "h100.json").read_text(), 90)


def load_driver(folder: Path) -> None:
    """Loads the driver's library, or one that has its names."""
    try:
        ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("no plans: no CUDA driver, and no C compiler for a stand-in")
    library, source = folder / "libcuda.so.1", folder / "driver.c"
    source.write_text(
        'int cuGetErrorString(int e, const char **s) { *s = "stand-in"; return 0; }\n'
        "int cuDriverGetVersion(int *v) { *v = 13000; return 0; }\n"
        "int cuDeviceGetCount(int *n) { *n = 0; return 100; }\n"
        + "".join(f"int {name}() {{ return 100; }}\n" for name in DRIVER_CALLS)
    )
    command = [compiler, "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def specs_of(*outputs: Any, maker: Maker) -> list[CudnnGraph]:
    """The specifications of all regions of a graph."""
    module = outlined(maker.case(*outputs), "all")
    return [build_graph(op) for op in module.ops if isinstance(op, cudnn.GraphOp)]


@pytest.mark.parametrize("number", range(8))
def test_llama2_graphs_are_described(number: int) -> None:
    if importlib.util.find_spec("cudnn") is None:
        pytest.skip("no frontend graphs: nvidia-cudnn-frontend is not installed")
    spec = llama2_specs()[number]
    described = define(spec, Device("none")).inspect()
    kinds = [node.kind for node in spec.nodes]
    squares = kinds.count("sum_of_squares")  # a product with itself, and a sum
    assert len(described["nodes"]) == len(kinds) + squares


@pytest.mark.parametrize("number", range(8))
def test_llama2_graphs_have_plans(number: int, h100: Device) -> None:
    plans = build_plans(llama2_specs()[number], h100)
    for plan in plans:
        LoadedPlan(plan, h100)
    assert all(plan.name.startswith("eng") for plan in plans)


def test_regions_of_every_kind_have_plans(h100: Device) -> None:
    m = Maker(0)
    x, w, row, column = m.real(16, 64), m.real(32, 64), m.real(1, 32), m.real(16, 1)
    cache = m.real(32, 2, 16, dtype="float16")
    specs = specs_of(
        (x.relu() @ w.permute(1, 0) + row).silu() * column,
        (x @ w[8:].permute(1, 0)).permute(1, 0),
        (x.relu() + x).silu() * x,
        m.real(4, 16, dtype="float16").attention(cache, cache, m.index(7)),
        maker=m,
    )
    assert sorted(len(spec.nodes) for spec in specs) == [1, 1, 4, 5]
    for spec in specs:
        assert build_plans(spec, h100)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=st.one_of(product_graphs(), product_graphs(ml_dtypes.bfloat16), random_graphs(30)),
    policy=st.sampled_from(POLICIES),
)
def test_cudnn_takes_every_region_of_random_graphs(h100: Device, case: Case, policy: PolicyName) -> None:
    for op in outlined(case, policy, max_nodes=8).ops:
        if isinstance(op, cudnn.GraphOp):
            assert offered(build_graph(op), h100).get_execution_plan_count(), op


def test_what_it_does_not_take_is_one_line(h100: Device) -> None:
    odd = CudnnTensor((1, 4, 8), (64, 16, 2), "float32")
    nodes = (CudnnNode("rmsnorm", (0, 1), 2, 1e-5), CudnnNode("silu", (2,), 3))
    row = CudnnTensor((1, 1, 8), (8, 8, 1), "float32")
    with pytest.raises(Unsupported, match=r"^[^\n]+$"):
        build_plans(CudnnGraph("float32", "float32", "float32", (odd, row, odd, odd), (0, 1), (3,), nodes), h100)
