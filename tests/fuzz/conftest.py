"""How long the fuzzing takes: `pytest tests/fuzz --hypothesis-profile=long` runs for an hour or so."""

from hypothesis import HealthCheck, settings

settings.register_profile("medium", max_examples=4000, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", max_examples=200_000, deadline=5000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
