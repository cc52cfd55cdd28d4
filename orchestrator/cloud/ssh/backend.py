"""Run a deployment on a machine that `ssh` reaches.

Everything that is put there lies below one folder, `~/.trm-cloud`: environments by their requirements, and a folder for
each deployment with the project, the records (unless they are on S3), the logs and the identities of its two processes,
the driver and the timer. The driver starts a private Ray: on loopback, with a token that lies in no file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.cloud import deployments
from orchestrator.cloud.backend import FOLDER, Closing, CloudError, Deployment, Machine, Offer, Options, Receipt
from orchestrator.cloud.prices import catalogue_offers, price_machine
from orchestrator.cloud.processes import DRIVER, TIMER
from orchestrator.cloud.ssh.connection import Connection, Result, failed, quoted, words
from orchestrator.cloud.ssh.inspection import inspect
from orchestrator.cloud.ssh.project import require_portable
from orchestrator.cloud.ssh.setup import install, require_free_name, require_room, upload
from orchestrator.cloud.ssh.transfer import fetch_records, send_records
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types
from orchestrator.storage import Storage
from orchestrator.sweep.definition import Sweep

logger = logging.getLogger(__name__)


class SshBackend:
    """Run deployments on one machine that exists.

    Args:
        storage: the user's, which holds the record and receives what is fetched.

    Raises:
        CloudError: several machines are named.
    """

    name = "ssh"

    def __init__(self, options: Options, storage: Storage) -> None:
        self.options = options
        self.storage = storage
        if len(options.hosts) > 1:
            raise CloudError(
                f"--on ssh takes one machine, not {len(options.hosts)}",
                "Start a Ray cluster on them by hand, and run the sweep with --address",
            )

    def offers(self, sweep: Sweep) -> list[Offer]:
        """Return the machine with its price; without one, the catalogue's cheapest for the sweep's GPU types."""
        require_portable(sweep)
        if not self.options.hosts:
            return catalogue_offers(gpu_types(sweep.resources.gpu_type) or list(KNOWN_TYPES), self.options)[:1]
        with self._connect() as connection:
            found = inspect(connection, self._python())
        price = price_machine(found.gpu, found.num_gpus, self.options)
        return [
            Offer(
                machine=connection.host,
                provider=price.provider,
                gpu=found.gpu,
                num_gpus=found.num_gpus,
                num_cpus=found.cores,
                market=self.options.market,
                usd_per_hour=price.usd_per_hour,
                spot_usd_per_hour=price.spot_usd_per_hour,
                price_source=price.source,
                price_date=price.date,
            )
        ]

    def up(self, deployment: Deployment) -> Deployment:
        """Upload the project, make the environment, and start the timer."""
        with self._connect() as connection:
            found = inspect(connection, self._python())
            require_room(connection, found, deployment)
            top = f"{found.home}/{self.options.folder}"
            place = f"{top}/deployments/{deployment.name}"
            require_free_name(connection, place, deployment)
            price = price_machine(found.gpu, found.num_gpus, self.options)
            machine = Machine(
                name=connection.host,
                gpu=found.gpu,
                num_gpus=found.num_gpus,
                market=self.options.market,
                usd_per_hour=price.usd_per_hour,
                up_s=deployment.machines[0].up_s if deployment.machines else time.time(),
            )
            started = {
                "machines": (machine,),
                "state": "starting",
                "place": place,
                "storage": f"{place}/runs" if deployment.is_remote else deployment.storage,
            }
            deployment = deployments.save(self.storage, deployment.model_copy(update=started))
            upload(connection, place)
            interpreter = install(connection, top, place, found, self.options)
            deployment = deployment.model_copy(update={"interpreter": interpreter, "state": "up"})
            if deployment.is_remote:
                send_records(connection, self.storage, deployment)
            self._write_record(connection, deployment)
            self._start_timer(connection, deployment)
        return deployment

    def submit(self, deployment: Deployment, plan: Path, options: Sequence[str]) -> Deployment:
        """Upload the plan and start the driver in a session of its own."""
        with self._connect() as connection:
            file = f"{deployment.place}/plan.jsonl"
            connection.run(f"cat > {quoted(file)}", plan.read_bytes())
            run = ("sweep", "run", file, "--storage", deployment.storage, *options)
            self._start_timer(connection, deployment)  # it is gone if the machine was started again since `up`
            self._head(connection, deployment, "start", DRIVER, deployment.interpreter, "-m", "orchestrator.cli", *run)
            deployment = deployment.model_copy(update={"state": "submitted"})
            self._write_record(connection, deployment)
        return deployment

    def read(self, deployment: Deployment) -> Deployment:
        """Return the record as the timer left it on the machine; the stored one if records are not on the machine."""
        if not deployment.is_remote or not deployment.machines:
            return deployments.load(self.storage, deployment.name)
        with self._connect() as connection:
            found = self._read_record(connection, deployment.storage, deployment.name)
        return deployment if found is None else self._mine(found)

    def discover(self, name: str) -> Deployment:
        """Return the record of a deployment that another client has launched, as it lies on the machine."""
        with self._connect() as connection:
            home = connection.run('echo "$HOME"').out.strip()
            storage = f"{home}/{self.options.folder}/deployments/{name}/runs"
            found = self._read_record(connection, storage, name)
        if found is None:
            raise CloudError(f"no deployment {name!r} on {connection.host}", "Name the storage that has its record")
        return self._mine(found)

    def machines(self, deployment: Deployment) -> tuple[Machine, ...]:
        """Return the machine while it is in use; whether it still bills is only known to its provider."""
        return tuple(machine for machine in deployment.machines if machine.down_s is None)

    def status(self, deployment: Deployment, as_json: bool) -> str:
        """Return what `trm sweep status` says on the machine; before there is a record, the end of the driver's log."""
        with self._connect() as connection:
            shown = self._trm(connection, deployment, "sweep", "status", deployment.name, *["--json"] * as_json)
            if not shown.code:
                # The command that resumes it there is for a shell of that machine.
                return "\n".join(line for line in shown.out.splitlines() if not line.startswith("Resume it:"))
            if as_json:
                return ""
            log = connection.run(f"tail -n 5 {quoted(f'{deployment.place}/{DRIVER}.log')}", check=False)
        return f"the driver has written no record of the sweep yet\n{log.out}"

    def logs(self, deployment: Deployment, follow: bool) -> int:
        """Print the events from the machine's records; before there are any, wait for them."""
        with self._connect() as connection:
            if follow:
                self._head(connection, deployment, "waiting")
            verb = ("sweep", "logs", deployment.name, *["--follow"] * follow, "--storage", deployment.storage)
            return connection.stream(_script(deployment, deployment.interpreter, "-m", "orchestrator.cli", *verb))

    def receipt(self, deployment: Deployment) -> Receipt:
        """Return the account that the machine computes from its records."""
        with self._connect() as connection:
            found = self._head(connection, deployment, "receipt")
        return Receipt.parse(json.loads(found), where=connection.host)

    def fetch(self, deployment: Deployment) -> int:
        """Copy the records and checkpoints of the sweep into the user's storage."""
        with self._connect() as connection:
            return fetch_records(connection, self.storage, deployment)

    def stop(self, deployment: Deployment) -> str:
        """Ask the driver to stop cleanly."""
        with self._connect() as connection:
            done = self._trm(connection, deployment, "sweep", "stop", deployment.name)
            if done.code:
                raise failed(connection.host, done)
        return done.out.strip()

    def down(self, deployment: Deployment, keep: bool) -> Closing:
        """End the driver and the timer, fetch the records, and remove what was put there."""
        place, host = deployment.place, self.options.hosts[0]
        done: list[str] = []
        left = [f"the machine {host} itself: return it to its provider, it bills until then"]
        if not place:
            return Closing(["nothing was started"], left)
        top = place.partition("/deployments/")[0]
        if place != f"{top}/deployments/{deployment.name}" or not top.endswith(f"/{FOLDER}"):
            raise CloudError(
                f"the record of {deployment.name!r} names {place!r} as its folder on {host}, and only a folder below "
                f"~/{FOLDER}/deployments is removed",
                "Look at the machine; --forget closes the record alone",
            )
        with self._connect() as connection:
            if not deployment.interpreter or connection.run(f"test -d {quoted(place)}/project", check=False).code:
                done.append(f"no process of it was started on {host}")
            else:
                done.append(f"{self._head(connection, deployment, 'end').strip()}; the timer has ended")
                if deployment.is_remote:
                    count = fetch_records(connection, self.storage, deployment)
                    done.append(f"fetched {count} files into {self.storage.url}")
            if keep:
                left.append(f"{host}:{top}; remove it with: ssh {host} rm -r {top}")
                return Closing(done, left)
            # Environments are shared by deployments: the last one takes them along.
            deployments_folder = quoted(f"{top}/deployments")
            connection.run(
                f'rm -rf {quoted(place)}; [ -n "$(ls -A {deployments_folder} 2>/dev/null)" ] || rm -rf {quoted(top)}',
                limit_s=900,
            )
            done.append(f"removed {host}:{place}")
            if not connection.run(f"test -e {quoted(top)}", check=False).code:
                left.append(f"{host}:{top}: other deployments use it")
        return Closing(done, left)

    def _connect(self) -> Connection:
        if not self.options.hosts:
            raise CloudError("--on ssh needs a machine", "Name it after the sweep: user@host")
        return Connection(self.options.hosts[0], self.options.ssh_config)

    def _python(self) -> str:
        return (
            f"{self.options.environment}/bin/python" if self.options.environment else self.options.python or "python3"
        )

    def _mine(self, found: Deployment) -> Deployment:
        """Return a record with the way in which this client reaches the machine."""
        mine = {"hosts": self.options.hosts, "ssh_config": self.options.ssh_config}
        return found.model_copy(update={"options": found.options.model_copy(update=mine)})

    def _head(self, connection: Connection, deployment: Deployment, verb: str, *more: str) -> str:
        """Run a verb of `orchestrator.cloud.head` on the machine and return what it prints."""
        about = (deployment.place, deployment.storage, deployment.name)
        script = _script(deployment, deployment.interpreter, "-m", "orchestrator.cloud.head", verb, *about, *more)
        return connection.run(script, limit_s=600).out

    def _start_timer(self, connection: Connection, deployment: Deployment) -> None:
        about = (deployment.place, deployment.storage, deployment.name)
        # From the command of the user, not from the record: the machine runs it.
        own = (self.options.end_command,) if self.options.end_command else ()
        words = (deployment.interpreter, "-m", "orchestrator.cloud.timer", *about, *own)
        self._head(connection, deployment, "start", TIMER, *words)

    def _trm(self, connection: Connection, deployment: Deployment, *verb: str) -> Result:
        command = (deployment.interpreter, "-m", "orchestrator.cli", *verb, "--storage", deployment.storage)
        return connection.run(_script(deployment, *command), check=False, limit_s=600)

    def _write_record(self, connection: Connection, deployment: Deployment) -> None:
        """Write the record where the timer reads it."""
        if not deployment.is_remote:
            deployments.save(self.storage, deployment)
            return
        key = f"{deployment.storage}/{deployments.key_of(deployment.name)}"
        file, aside = quoted(key), quoted(f"{key}.new")
        folder = quoted(key.rpartition("/")[0])
        connection.run(f"mkdir -p {folder} && cat > {aside} && mv {aside} {file}", deployments.encode(deployment))

    def _read_record(self, connection: Connection, storage: str, name: str) -> Deployment | None:
        key = f"{storage}/{deployments.key_of(name)}"
        found = connection.run(f"cat {quoted(key)}", check=False)
        return None if found.code else deployments.decode(found.out.encode(), f"{connection.host}:{key}")


def _script(deployment: Deployment, *command: str) -> str:
    """Return a script that runs a command with the uploaded project on the path."""
    project = f"{deployment.place}/project"
    paths = quoted(f"{project}:{project}/datasets")
    return f"cd {quoted(deployment.place)} && PYTHONPATH={paths} exec {words(command)}"
