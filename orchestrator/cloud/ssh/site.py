"""Run this program on a machine to which the project was uploaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.cloud.backend import Deployment, Worker
from orchestrator.cloud.processes import RAY
from orchestrator.cloud.ssh.connection import Connection, Result, quoted, words

DEPLOYMENTS = "/deployments/"
"""Between the folder of everything that was put onto a machine and the folder of one deployment."""
INTERPRETER_FILE = "interpreter"
"""File of a deployment with the path of the Python that runs it."""


class Site(NamedTuple):
    """Locate a deployment on one of its machines."""

    connection: Connection
    place: str
    """Its folder there."""
    interpreter: str
    storage: str
    name: str

    @classmethod
    def of_head(cls, connection: Connection, deployment: Deployment) -> Site:
        """Return the site of the head."""
        return cls(connection, deployment.place, deployment.interpreter, deployment.storage, deployment.name)

    @classmethod
    def of_worker(cls, connection: Connection, deployment: Deployment, worker: Worker) -> Site:
        """Return the site of another machine."""
        return cls(connection, worker.place, worker.interpreter, deployment.storage, deployment.name)

    @property
    def host(self) -> str:
        """Return the machine as the user named it."""
        return self.connection.host

    def script(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Return a script that runs a command with the uploaded project on the path.

        What can be downloaded again is kept below the folder that `down` removes.
        """
        project = f"{self.place}/project"
        cache = f"{self.place.partition(DEPLOYMENTS)[0]}/cache"
        values = {"PYTHONPATH": f"{project}:{project}/datasets", "TRM_CACHE": cache, **(environment or {})}
        assigned = " ".join(f"{name}={quoted(value)}" for name, value in values.items())
        return f"cd {quoted(self.place)} && {assigned} exec {words(command)}"

    def about(self) -> tuple[str, str, str]:
        """Return the arguments that name a deployment to the modules that run on its machines."""
        return self.place, self.storage, self.name

    def head(self, verb: str, *more: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a verb of `orchestrator.cloud.head` on the machine and return what it prints."""
        command = (self.interpreter, "-m", "orchestrator.cloud.head", verb, *self.about(), *more)
        return self.connection.run(self.script(*command, environment=environment), limit_s=600).out

    def start(self, process: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> bool:
        """Start a process that outlives the connection, unless it runs already. Return whether it was started.

        Raises:
            CloudError: it is a driver, and one runs already.
        """
        return bool(self.head("start", process, self.interpreter, "-m", module, *arguments, environment=environment))

    def trm(self, *verb: str) -> Result:
        """Run a command of `trm` on the records, whatever its exit status."""
        command = (self.interpreter, "-m", "orchestrator.cli", *verb, "--storage", self.storage)
        return self.connection.run(self.script(*command), check=False, limit_s=600)

    def write(self, name: str, text: str) -> None:
        """Write a file of the deployment that only the user of the machine can read."""
        file, aside = quoted(f"{self.place}/{name}"), quoted(f"{self.place}/{name}.new")
        script = f"umask 077 && rm -f {aside} && cat > {aside} && mv {aside} {file}"
        self.connection.run(script, text.encode())

    def was_used(self) -> bool:
        """Return whether a process of the deployment may have been started here."""
        return (
            bool(self.interpreter)
            and not self.connection.run(f"test -d {quoted(f'{self.place}/project')}", check=False).code
        )

    def ray_log(self) -> str:
        """Return the last line about an error in the log of Ray, else its last line; an empty string without a log."""
        found = self.connection.run(f"tail -n 40 {quoted(f'{self.place}/{RAY}.log')}", check=False).out
        lines = [" ".join(line.split()) for line in found.splitlines() if line.strip()]
        return next(
            (line for line in reversed(lines) if re.search("(?i)error|exception|failed", line)),
            lines[-1] if lines else "",
        )[-300:]
