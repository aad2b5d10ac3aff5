"""The structure of the package: imports point strictly downwards, names agree, and CUDA stays where it belongs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hamkaas.passes import ALL_PASSES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hamkaas"

LAYERS = (
    ("errors", "knobs", "artifact", "remarks"),
    ("dialects", "runtime"),
    ("schedules", "frontend", "codegen", "interpreters"),
    ("partition",),
    ("passes",),
    ("pipeline", "weights"),
    ("universe",),
    ("compiler",),
    ("tune",),
    ("compiled",),
    ("api",),
    ("tools", "models"),
)
"""A file imports strictly lower layers, and its own package."""

LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

LAZY = {"api", "tune", "tools"}
"""Parts that import a runtime inside of functions, so that everything else works without one."""

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part_of(path: Path) -> str:
    """The folder or module right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    for name in imported(ast.parse(path.read_text())):
        if not name.startswith("hamkaas.") or len(name.split(".")) < 2:
            continue
        other = name.split(".")[1]
        if other not in LAYER_OF or other == part:  # the public names of `hamkaas` itself, for models
            continue
        assert LAYER_OF[other] < LAYER_OF[part] or (part in LAZY and other == "runtime"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_runtime_imports_cuda(path: Path) -> None:
    if part_of(path) != "runtime":
        tops = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not tops & {"cuda", "cudnn"}


def test_only_one_file_imports_the_frontend_of_cudnn() -> None:
    found = {path.name for path in FILES if 'import_module("cudnn")' in path.read_text()}
    assert found == {"cudnn.py"}
    assert not any("cudnn" in (name.split(".")[0]) for path in FILES for name in imported(ast.parse(path.read_text())))


def test_import_loads_no_cuda() -> None:
    look = "print([m for m in sys.modules if m.split('.')[0] in ('cuda', 'cudnn')])"
    modules = "hamkaas, hamkaas.tools.hamkaas_opt, hamkaas.codegen.cudnn, hamkaas.runtime.cudnn_plans"
    code = f"import sys, {modules}; {look}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("one", ALL_PASSES, ids=lambda one: one.name)
def test_a_pass_has_one_name_in_four_places(one: type) -> None:
    assert one.__name__ == "".join(word.capitalize() for word in one.name.split("-")) + "Pass"
    assert one.__module__ == "hamkaas.passes." + one.name.replace("-", "_")
    assert (ROOT / "tests" / "filecheck" / "passes" / f"{one.name}.mlir").is_file()


def test_every_pass_file_is_listed() -> None:
    files = {path.stem for path in (PACKAGE / "passes").glob("*.py")} - {"__init__"}
    assert files == {one.name.replace("-", "_") for one in ALL_PASSES}
