"""Check the form of `resource_rules`, which a definition gives as objects and a sweep file as mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

FORM = """\
write resource_rules: [{when: {T: 2}, resources: {gpus: 1, gpu_type: L40S}}], in Python \
resource_rules=(ResourceRule(when={"T": 2}, resources=Resources(gpus=1, gpu_type="L40S")),)"""


def require_rules(rules: Any) -> Any:
    """Return rules of the right form as they are. Raises ValueError, which shows the form, for others."""
    if not isinstance(rules, list | tuple):
        raise ValueError(f"not a list of rules: {FORM}")
    for number, rule in enumerate(rules, 1):
        if isinstance(rule, BaseModel):
            continue
        if not isinstance(rule, Mapping):
            raise ValueError(f"rule {number} is {rule!r}: {FORM}")
        if set(rule) != {"when", "resources"}:
            raise ValueError(f"rule {number} has {', '.join(map(str, rule)) or 'nothing'}: {FORM}")
        if not isinstance(rule["when"], Mapping) or not isinstance(rule["resources"], Mapping | BaseModel):
            raise ValueError(f"'when' and 'resources' of rule {number} have to be mappings: {FORM}")
    return rules
