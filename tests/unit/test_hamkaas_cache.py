"""The tool that shows the cache of compiled code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hamkaas.runtime.cache import CacheKey, DiskCache
from hamkaas.tools.hamkaas_cache import main

PLAN = {"graph": "f00d", "frontend": "1.28.0", "device": "H100"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a plan for cuDNN 9.18, in which one for 9.19 was looked for."""
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path / "cache"))
    cache = DiskCache(tmp_path / "cache")
    cache.put(CacheKey.of("cudnn-plan", cudnn="9.18.0", **PLAN), b"x" * 100, "matmul 8x8: 3.0 us, the best of 4")
    assert cache.get(CacheKey.of("cudnn-plan", cudnn="9.19.0", **PLAN)) is None
    assert cache.get(CacheKey.of("cubin", source="y" * 100)) is None
    return tmp_path / "cache"


def test_ls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{folder}: 1 entry, ")
    assert line.endswith("cudnn-plan   matmul 8x8: 3.0 us, the best of 4")


def test_explain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: 2 look-ups found nothing"
    assert lines[1].startswith("cubin: source #")
    assert lines[2] == "  nothing of kind 'cubin' is in the cache"
    assert lines[4] == "  the entry that is most like it has cudnn 9.18.0 (matmul 8x8: 3.0 us, the best of 4)"
    DiskCache(folder).put(CacheKey.of("cudnn-plan", cudnn="9.19.0", **PLAN), b"")
    main(["explain"])
    assert capsys.readouterr().out.splitlines()[4] == "  was made then, and is there now"


def test_clear(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "something else").touch()
    assert main(["clear"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: removed 1 entry, ")
    assert [path.name for path in folder.iterdir()] == ["something else"]
    main(["ls"])
    assert capsys.readouterr().out == f"{folder}: 0 entries, 0 bytes\n"


def test_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path / "absent"))
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'absent'}: empty\n"
    monkeypatch.setenv("HAMKAAS_CACHE", "0")
    assert main(["ls"]) == 1
    assert capsys.readouterr().err == "hamkaas-cache: the cache is switched off (HAMKAAS_CACHE=0)\n"


def test_unknown_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "hamkaas.tools.hamkaas_cache", "list"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "invalid choice: 'list'" in run.stderr
