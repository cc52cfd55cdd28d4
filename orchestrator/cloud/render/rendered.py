"""Render whatever a backend reads, by the name of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.cloud.config import CloudConfig
from orchestrator.cloud.render.kubernetes import render_rayjob
from orchestrator.cloud.render.ray_cluster import render_cluster, render_single
from orchestrator.cloud.render.sbatch import render_sbatch
from orchestrator.cloud.render.sky import render_sky
from trm_data.errors import ConfigError, nearest

RENDERED = ("aws", "sky", "k8s", "slurm")


class Rendered(NamedTuple):
    """Hold a rendered file and the name that it usually has."""

    name: str
    text: str


def render(
    config: CloudConfig, backend: str, sweep: str, arguments: Sequence[str] = (), *, single: bool = False
) -> Rendered:
    """Render the file of a backend.

    Args:
        sweep: sweep file or packaged sweep. The cluster of AWS is the same for every sweep.
        arguments: further options of `trm sweep run`.
        single: of AWS, one machine that is head and worker.

    Raises:
        ConfigError: unknown backend, or the configuration has no table for it.
    """
    if single and backend != "aws":
        raise ConfigError(f"--single is no option of {backend!r}", "It belongs to --on aws")
    if backend == "aws":
        return Rendered("ray-cluster.yaml", render_single(config) if single else render_cluster(config))
    if backend == "sky":
        return Rendered("sky.yaml", render_sky(config, sweep, arguments))
    if backend == "k8s":
        return Rendered("rayjob.yaml", render_rayjob(config, sweep, arguments))
    if backend == "slurm":
        return Rendered("sweep.sbatch", render_sbatch(config, sweep, arguments))
    if backend == "ssh":
        raise ConfigError("nothing is rendered for ssh", "`trm cloud up SWEEP --on ssh USER@HOST` needs no file")
    raise ConfigError(f"unknown backend {backend!r}", nearest(backend, RENDERED))
