"""What was compiled is on disk: whoever compiles the same again has it at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hamkaas as hk
from hamkaas import compiled
from hamkaas.remarks import collect, remark
from hamkaas.runtime.cache import DiskCache


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were compiled, and not found."""
    names: list[str] = []
    real = hk.api.compile_artifact

    def counted(*arguments: Any) -> Any:
        remark("test", "a graph", "is compiled")
        artifact = real(*arguments)
        names.extend(program.name for program in artifact.programs)
        return artifact

    monkeypatch.setattr(hk.api, "compile_artifact", counted)
    return names


def compile_layer(scale: float = 2.0, weight: float = 1.0) -> hk.Model:
    x = hk.InputTensor("x", "float32", [4])
    w = hk.ConstantTensor(np.full((4, 8), weight, np.float32), "w")
    return hk.compile({"layer": (x @ w) * scale}, target="cpu")


def test_the_same_graph_is_compiled_once(lowered: list[str]) -> None:
    x = np.arange(4, dtype=np.float32)
    with compile_layer() as model, collect() as remarks, compile_layer() as again:
        assert lowered == ["layer"]
        assert again.artifact == model.artifact
        assert [remark.why for remark in remarks] == ["is compiled"]  # as if it were
        np.testing.assert_array_equal(again(x=x), model(x=x))
        assert again.ir("program") == model.ir("program")
        assert again.memory_plan == model.memory_plan


def test_weights_are_not_part_of_it(lowered: list[str]) -> None:
    x = np.ones(4, np.float32)
    with compile_layer(weight=1.0) as ones, compile_layer(weight=3.0) as threes:
        assert lowered == ["layer"]
        np.testing.assert_array_equal(threes(x=x), 3 * ones(x=x))


@pytest.mark.parametrize("scale", [np.nextafter(np.float32(2), np.float32(3)), 3.0, np.inf])
def test_another_number_is_another_graph(lowered: list[str], scale: float) -> None:
    x = np.ones(4, np.float32)
    with compile_layer(2.0) as one, compile_layer(float(scale)) as other:
        assert lowered == ["layer", "layer"]
        np.testing.assert_array_equal(one(x=x), np.full(8, 8, np.float32))
        np.testing.assert_array_equal(other(x=x), np.full(8, np.float32(4) * np.float32(scale)))


def test_another_compiler_starts_anew(lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compile_layer().close()
    monkeypatch.setattr(compiled, "compiler_digest", lambda: "another")
    compile_layer().close()
    assert lowered == ["layer", "layer"]


def test_without_a_cache_and_for_a_dump_it_is_compiled(
    lowered: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compile_layer().close()
    monkeypatch.setenv("HAMKAAS_DUMP", str(tmp_path / "dump"))
    compile_layer().close()
    assert (tmp_path / "dump" / "00-graph.mlir").exists()
    monkeypatch.delenv("HAMKAAS_DUMP")
    monkeypatch.setenv("HAMKAAS_CACHE", "0")
    compile_layer().close()
    assert lowered == ["layer"] * 3


def test_what_is_damaged_is_compiled_anew(lowered: list[str], cache: Path) -> None:
    compile_layer().close()
    assert "artifact" in {entry.kind for entry in DiskCache(cache).entries()}
    for path in cache.glob("*.bin"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    compile_layer().close()
    assert lowered == ["layer", "layer"]
