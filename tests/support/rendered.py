"""The files of `infra/` that are rendered from `infra/cloud.toml`.

`python -m tests.support.rendered` writes them again after a change of the renderers.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.cloud.aws.iam import ROLES, policy
from orchestrator.cloud.config import load_config
from orchestrator.cloud.render.rendered import render

INFRA = Path(__file__).parents[2] / "infra"
SWEEP, OPTIONS = "sweeps/demo.py", ("--gpu", "any")


def rendered_files() -> dict[Path, str]:
    """The content of every rendered file of `infra/`."""
    config = load_config(INFRA / "cloud.toml")
    found = {
        INFRA / "aws/ray-cluster.yaml": render(config, "aws", SWEEP).text,
        INFRA / "aws/ray-single.yaml": render(config, "aws", SWEEP, single=True).text,
        INFRA / "sky/sky.yaml": render(config, "sky", SWEEP, OPTIONS).text,
        INFRA / "kubernetes/rayjob.yaml": render(config, "k8s", SWEEP, OPTIONS).text,
        INFRA / "slurm/sweep.sbatch": render(config, "slurm", "").text,
    }
    policies = {role: json.dumps(policy(config, role), indent=2) + "\n" for role in ROLES}
    return found | {INFRA / f"aws/iam-{role}.json": text for role, text in policies.items()}


if __name__ == "__main__":
    for path, text in rendered_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
