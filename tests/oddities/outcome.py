"""What a command makes of an odd input: the right result, or a question; and how many examples are drawn."""

import contextlib
import io
import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings

from soilcarbon.io.files import run

EXAMPLES = int(os.environ.get("ODDITIES_EXAMPLES", "0"))
"""Examples per property of the long tests; 0: their own number."""


def examples(count: int) -> settings:
    """Return the profile of a property: drawn alike in every run, no deadline, no slow search for a smaller failure."""
    skipped = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    return settings(
        phases=(Phase.explicit, Phase.generate),
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=skipped,
    )


def asked(main: Callable[[], None]) -> str:
    """Run a command and return its question; "": it has a result. Any other end is a failure."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(main)
    said = err.getvalue().strip().splitlines()
    assert status in (0, 2), f"exit status {status}: {err.getvalue()}"
    if status == 0:
        return ""
    lines = [k for k, line in enumerate(said) if line.startswith("error: ")]
    assert lines and len(said) - lines[0] <= 4, f"a question of {len(said)} lines: {err.getvalue()}"
    return said[lines[0]]
