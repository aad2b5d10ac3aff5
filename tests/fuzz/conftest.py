"""How long the fuzzing takes: a second in the suite, and as long as one likes with a profile.

`pytest tests/fuzz --hypothesis-profile=medium` takes two minutes or three, `long` from seven minutes to half an hour
for each kind of file. Each run draws other examples; what failed once is kept in `.hypothesis` and tried first.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("medium", max_examples=4000, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", max_examples=200_000, deadline=5000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
