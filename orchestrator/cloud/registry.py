"""Find a backend by its name."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from orchestrator.cloud.backend import Backend, CloudError, Options
from orchestrator.storage import Storage
from trm_data.errors import nearest

BACKENDS = {
    "aws": "orchestrator.cloud.aws.backend:AwsBackend",
    "sky": "orchestrator.cloud.sky:SkyBackend",
    "ssh": "orchestrator.cloud.ssh.backend:SshBackend",
}
"""Module and class of each backend, which is called with the options and the storage of the deployment's records."""
RENDERED_ONLY = ("k8s", "slurm")
"""Places whose own tools start what is rendered."""


def open_backend(name: str, options: Options, storage: Storage) -> Backend:
    """Return a backend. Raises CloudError for an unknown name.

    Args:
        storage: storage of the user, which holds the record of the deployment and receives what is fetched.
    """
    if name in RENDERED_ONLY:
        raise CloudError(f"--on {name} launches nothing", f"`trm cloud render demo --on {name}` prints what it reads")
    if name not in BACKENDS:
        raise CloudError(f"unknown backend {name!r}", nearest(name, BACKENDS))
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(Backend, getattr(import_module(module), attribute)(options, storage))
