"""What all tests share."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

MODELS = TESTS.parents[1] / "shared" / "models"
"""Test models; not part of the project."""


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests compile into a folder of their own, which leaves nothing behind."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache") / "hamkaas"))


@pytest.fixture
def models() -> Path:
    """The folder of test models."""
    if not MODELS.is_dir():
        pytest.skip(f"no test models: {MODELS} is absent")
    return MODELS


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skips where no GPU answers; nothing else is a reason."""
    from hamkaas.runtime.cuda import driver_available

    if (reason := driver_available()) is not None:
        pytest.skip(reason)
