"""Render the batch script of Slurm: one job is one Ray cluster and one sweep.

The job ends within two minutes, with Ray's last lines, if the head does not come up; and requeues itself where the time
limit ends it, so that the sweep resumes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files

from orchestrator.cloud.config import CloudConfig, Slurm

TEMPLATE = "sweep.sbatch"


def render_sbatch(config: CloudConfig, sweep: str = "", arguments: Sequence[str] = ()) -> str:
    """Return the script.

    Args:
        config: its table `[slurm]` has a default for every field.
        sweep: sweep file or packaged sweep; if empty, the script takes it and its options as arguments.
        arguments: further options of `trm sweep run`.
    """
    slurm = config.slurm_settings()
    words = " ".join(shlex.quote(each) for each in [sweep, *arguments]) if sweep else '"$@"'
    with_arguments = "sbatch sweep.sbatch demo --gpu any        # what `trm sweep run` takes"
    values = {
        "NAME": config.name,
        "USAGE": "sbatch sweep.sbatch" if sweep else with_arguments,
        "OPTIONS": _options(slurm),
        "STORAGE": "$PWD/runs" if slurm.storage is None else slurm.storage,
        "SWEEP": words,
    }
    text = files("orchestrator.cloud.render").joinpath(TEMPLATE).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _options(slurm: Slurm) -> str:
    minutes = round(slurm.hours * 60)
    options = [
        f"--nodes={slurm.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={slurm.gpus_per_node}",
        f"--cpus-per-task={slurm.cpus_per_node}",
        f"--time={minutes // 60:02d}:{minutes % 60:02d}:00",
        *(
            f"--{name}={value}"
            for name, value in [
                ("partition", slurm.partition),
                ("account", slurm.account),
                ("constraint", slurm.constraint),
            ]
            if value is not None
        ),
    ]
    return "\n".join(f"#SBATCH {option}" for option in options)
