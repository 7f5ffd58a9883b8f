"""Property tests take seeded samples here, so that a green run stays green; full campaigns stand in `bench/`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("sample", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sample"))
