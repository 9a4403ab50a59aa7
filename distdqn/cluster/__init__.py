"""Everything that uses Ray. From outside, import from `launch`, which starts a run, and from `control`.

`connection` finds a run's Ray and connects to it, `private_ray` adapts how one starts, `ray_backend` runs
roles there, `resources` places them, `control` takes commands, and `reaper` ends what a killed run leaves.
"""

import os

# Ray reads these when it is imported. What the user has set stays.
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # each result is fetched, or no longer needed
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` uploads the working directory
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns on every start
}
for _name, _value in _RAY_SETTINGS.items():
    os.environ.setdefault(_name, _value)
