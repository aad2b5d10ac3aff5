"""Which shapes products of one row are given, as a device decides; the device is a table here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

import hamkaas as hk
from hamkaas.artifact import Launch, Persistent, Program, Space
from hamkaas.compiler import compile_artifact
from hamkaas.errors import CompileError
from hamkaas.frontend import build_module
from hamkaas.models.llama2 import Config, Transformer
from hamkaas.pipeline import CudaOptions, run_pipeline
from hamkaas.remarks import collect
from hamkaas.runtime import cuda
from hamkaas.schedules.vector_shape import VectorShape
from hamkaas.tune.shapes import SHAPES, SHAPES_OF_BYTES, Variant, compile_variants, descend
from hamkaas.universe import context

CONFIG = Config(256, 512, 2, 8, 4, 512, 64, True)


def decoder() -> dict[str, hk.Tensor | Sequence[hk.Tensor]]:
    """A model's graphs "start" and "next"."""
    return Transformer(CONFIG, {name: np.zeros(shape, np.float32) for name, shape in CONFIG.weight_shapes()}).decode()


def llama(precision: str) -> hk.frontend.BuiltModule:
    """The module of these graphs."""
    built = build_module(decoder())
    hk.passes.HamkaasConvertWeightsPass(precision).apply(context(), built.module)
    return built


def partitioned(built: hk.frontend.BuiltModule) -> ModuleOp:
    module = built.module.clone()
    run_pipeline(context(), module, "cuda", until="partitioned")
    return module


@pytest.mark.parametrize(("precision", "shapes"), [("f32", SHAPES), ("f16", SHAPES), ("i8", SHAPES_OF_BYTES)])
def test_variants_of_a_model(precision: str, shapes: Sequence[VectorShape]) -> None:
    built = llama(precision)
    own = compile_artifact(built, "cuda", "sm_90")
    for number, shape in enumerate(shapes):
        artifact, variants = compile_variants(partitioned(built), "sm_90", number)
        # queries, keys and values; their output; gate and up; down; classifier
        assert len(variants) >= 5
        for variant in variants:
            assert variant.shape == shape
            assert variant.launch.block == shape.block
            assert f" {variant.launch.kernel}(" in artifact.source
            of_model = next(
                step for step in own.programs[1].steps if isinstance(step, Launch) and step.kernel == variant.group
            )
            # its arguments can stand in for those of the model's own kernel
            sizes = [
                [artifact_of.weights[ref.index].nbytes for ref in step.args if ref.space is Space.WEIGHT]
                for artifact_of, step in ((own, of_model), (artifact, variant.launch))
            ]
            assert sizes[0] == sizes[1]
            assert len(of_model.args) == len(variant.launch.args)
            assert of_model.label == variant.launch.label


def launch(kernel: str, grid: int = 1) -> Launch:
    return Launch(kernel, grid, 32, ())


def variant(group: str, number: int) -> Variant:
    return Variant(group, VectorShape(32 * number, 32, 1), launch(f"{group}_{number}", number))


def test_each_kernel_gets_what_makes_the_whole_faster() -> None:
    program = Program("next", (), (), (launch("g1"), launch("g2"), launch("g1"), launch("g3")))
    costs = {"g1": 10.0, "g1_1": 9.0, "g1_2": 7.0, "g1_3": 8.0, "g2": 5.0, "g2_1": 6.0, "g2_2": 5.0, "g3": 1.0}
    asked: list[list[str]] = []

    def seconds(programs: Sequence[Program]) -> float:
        (one,) = programs
        asked.append([step.kernel for step in one.steps if isinstance(step, Launch)])
        return sum(costs[name] for name in asked[-1])

    variants = [variant("g2", 1), variant("g1", 1), variant("g1", 2), variant("g1", 3), variant("g2", 2)]
    with collect() as remarks:
        chosen = descend([program], variants, seconds)
    assert {group: one.launch.kernel for group, one in chosen.items()} == {"g1": "g1_2"}
    assert asked[0] == ["g1", "g2", "g1", "g3"]
    assert asked[-1] == ["g1_2", "g2_2", "g1_2", "g3"]  # what comes later is tried with what was chosen before
    assert len(asked) == 6
    assert [remark.why.split(":")[0] for remark in remarks] == ["is better as 32", "is better as 64"]


def test_a_variant_that_is_as_fast_is_not_taken() -> None:
    program = Program("next", (), (), (launch("g1"),))
    assert descend([program], [variant("g1", 1)], lambda programs: 1.0) == {}
    times = iter([1.0, 0.999])
    assert descend([program], [variant("g1", 1)], lambda programs: next(times)) == {}


class Runtime:
    """Of a GPU that is not there."""

    def __init__(self, *_: object, **__: object):
        pass


def test_what_was_chosen_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def choose_shapes(module: ModuleOp, *_: object) -> tuple[str, ...]:
        asked.append(str(module))
        return ("g2:128:32:4:64",)

    def choose_schedule(module: ModuleOp, arch: str, options: CudaOptions, *_: object) -> str:
        assert options.shapes == ("g2:128:32:4:64",)
        return "persistent"

    for name, value in {
        "driver_available": lambda: None,
        "default_arch": lambda: "sm_90",
        "gpu_name": lambda: "a GPU that is not there",
        "CudaRuntime": Runtime,
    }.items():
        monkeypatch.setattr(cuda, name, value)
    monkeypatch.setattr(hk.api, "choose_shapes", choose_shapes)
    monkeypatch.setattr(hk.api, "choose_schedule", choose_schedule)
    monkeypatch.setenv("HAMKAAS_TUNE", "1")
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path))
    model = hk.compile(decoder(), target="cuda")
    (text,) = asked
    assert "hamkaas.group @g2" in text
    assert (model.options.shapes, model.options.schedule) == (("g2:128:32:4:64",), "persistent")
    launches = [
        one for step in model.artifact.programs[1].steps if isinstance(step, Persistent) for one in step.launches
    ]
    assert {one.block for one in launches if one.kernel == "g2"} == {128}
    assert "program.persistent" in model.ir("program")


@pytest.mark.parametrize("shape", [*SHAPES, *SHAPES_OF_BYTES], ids=str)
def test_text_of_a_shape(shape: VectorShape) -> None:
    assert VectorShape.parse(str(shape)) == shape


@pytest.mark.parametrize(
    "text",
    ["", "128", "128:32:2", "128:32:2:64:stage", "128:32:2:64:staged:1", "128:48:2:64", "x:32:2:64", "32:64:2:64"],
)
def test_texts_that_are_no_shape(text: str) -> None:
    with pytest.raises(CompileError, match="expected a vector shape such as"):
        VectorShape.parse(text)
