"""Run moto's server, whose EC2 keeps the moment at which a machine was ended, as AWS does.

    python tests/support/moto_server.py -H HOST -p PORT

moto replaces that moment when a machine is terminated again, which Ray's autoscaler and this project's timer both do.
"""

from __future__ import annotations

import copy
from typing import Any

from moto.ec2.models.instances import Instance
from moto.server import main

_terminate = Instance.terminate


def terminate(instance: Instance) -> Any:
    """End a machine that is not ended yet; return its state before."""
    return copy.copy(instance._state) if instance._state.name == "terminated" else _terminate(instance)


if __name__ == "__main__":
    Instance.terminate = terminate
    main()
