"""Show the result of `trm trial reproduce`."""

from __future__ import annotations

from orchestrator.api.reproduce import Reproduction
from orchestrator.cli.views.console import err, out
from trm_data.settings import strict_json


def show_reproduction(found: Reproduction, tolerance: float, as_json: bool) -> int:
    """Print the comparison. Return the exit code: 0 the same within the tolerance, 1 not, 3 interrupted."""
    if found.second is None or found.comparison is None:
        err.print("interrupted: the same command resumes")
        return 3
    first, second, compared = found.first, found.second, found.comparison
    assert first.result is not None and second.result is not None
    is_same = compared.bitwise or (compared.largest_difference <= tolerance and tolerance > 0)
    if as_json:
        print(strict_json({"trial_id": first.trial_id, "reproduced": is_same, **compared._asdict()}, indent=1))
    elif compared.bitwise:
        out.print(f"trial {first.trial_id} reproduced: every score and every answer is the same, to the last bit")
    else:
        for name, value in compared.differences.items():
            then, now = first.result.metrics.get(name), second.result.metrics.get(name)
            out.print(f"{name}: {then} then, {now} now (difference {value:.3g})")
        verdict = f"within the tolerance of {tolerance:g}" if is_same else f"not within {tolerance:g}"
        out.print(f"trial {first.trial_id}: largest difference {compared.largest_difference:.3g}, {verdict}")
    return 0 if is_same else 1
