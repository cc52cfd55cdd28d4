"""Run a deployment on machines that `ssh` reaches.

Everything that is put there lies below one folder, `~/.trm-cloud`: environments by their requirements, and a folder for
each deployment with the project, the records (unless they are on S3), the logs and the identities of its processes, the
driver and the timer. On one machine the driver starts a private Ray: on loopback, with a token that lies in no file.
Several machines form a cluster (`orchestrator.cloud.ssh.cluster`), and their records are on S3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.cloud import deployments, own
from orchestrator.cloud.backend import Closing, CloudError, Deployment, Limits, Machine, Offer, Options, Receipt, Worker
from orchestrator.cloud.launch_file import LAUNCH_FILE, LaunchFile
from orchestrator.cloud.local_copy import gpu_words
from orchestrator.cloud.prices import catalogue_offers, price_machine
from orchestrator.cloud.processes import DRIVER, TIMER
from orchestrator.cloud.progress import waiting_for
from orchestrator.cloud.ray_node import ADDRESS_FILE, environment
from orchestrator.cloud.ssh.cluster import for_all, require_alike, start_cluster
from orchestrator.cloud.ssh.connection import Connection, failed, quoted
from orchestrator.cloud.ssh.inspection import Found, home_of, inspect, is_missing
from orchestrator.cloud.ssh.project import require_portable
from orchestrator.cloud.ssh.removal import end_worker, remove, require_own_places
from orchestrator.cloud.ssh.setup import claim_name, install, release_name, require_usable, upload
from orchestrator.cloud.ssh.site import DEPLOYMENTS, INTERPRETER_FILE, Site
from orchestrator.cloud.ssh.transfer import fetch_records, send_records
from orchestrator.resources.placement import KNOWN_TYPES, gpu_types
from orchestrator.storage import LocalStorage, Storage
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.text import plural
from trm_data.errors import UserError
from trm_data.files import load_json

logger = logging.getLogger(__name__)


class SshBackend:
    """Run deployments on machines that exist.

    Args:
        storage: the user's, which holds the record and receives what is fetched.

    Raises:
        CloudError: several machines are named, and the storage is a folder of this one.
    """

    name = "ssh"
    has_timer = True

    def __init__(self, options: Options, storage: Storage) -> None:
        self.options = options
        self.storage = storage
        if len(options.hosts) > 1 and isinstance(storage, LocalStorage):
            raise CloudError(
                f"{len(options.hosts)} machines need a storage that all of them reach, and {storage.url} is a folder "
                "of this machine",
                "Give --storage s3://BUCKET/PREFIX, or name one machine",
            )

    def offers(self, sweep: Sweep) -> list[Offer]:
        """Return each machine with its price; without any, the catalogue's cheapest for the sweep's GPU types."""
        require_portable(sweep)
        if not self.options.hosts:
            types = gpu_types(sweep.resources.gpu_type) or list(KNOWN_TYPES)
            return catalogue_offers(types, self.options, max(1.0, sweep.resources.gpus or 1.0))[:1]
        with self._connect_all() as connections:
            found = self._inspect(connections)
        return [self._offer(host, each) for host, each in zip(self.options.hosts, found, strict=True)]

    def _offer(self, host: str, found: Found) -> Offer:
        price = price_machine(found.gpu, found.num_gpus, self.options)
        return Offer(
            machine=host,
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

    def limited(self, limits: Limits) -> Limits:
        """Return the limits of the command."""
        return limits

    def shortages(self) -> list[str]:
        """Return nothing: the machines exist."""
        return []

    def up(self, deployment: Deployment) -> Deployment:
        """Upload the project, make the environment, start the timer, and Ray on several machines."""
        with self._connect_all() as connections:
            found = self._inspect(connections)
            for connection, each in zip(connections, found, strict=True):
                require_usable(connection, each, deployment)
            top = f"{found[0].home}/{self.options.folder}"
            place = f"{top}{DEPLOYMENTS}{deployment.name}"
            claim_name(connections[0], place, deployment)
            started = {
                "machines": self._machines(deployment, found),
                "state": "starting",
                "place": place,
                "interpreter": "",
                "workers": self._workers(deployment.name, found),
                "storage": f"{place}/runs" if deployment.is_remote else deployment.storage,
            }
            deployment = deployment.model_copy(update=started)
            own.remember(self.storage, deployment)
            deployments.save(self.storage, deployment)
            sites = self._install(connections, deployment, found)
            if deployment.is_remote:
                send_records(connections[0], self.storage, deployment)
            deployment = _with_interpreters(deployment, sites)
            if len(sites) > 1:
                own.remember(self.storage, deployment)
                deployments.save(self.storage, deployment)  # `down` ends what a failure leaves
                start_cluster(sites[0], sites[1:])
            deployment = deployment.model_copy(update={"state": "up"})
            self._write_record(connections[0], deployment)
            self._start_timer(sites[0])
        return deployment

    def _install(self, connections: Sequence[Connection], deployment: Deployment, found: Sequence[Found]) -> list[Site]:
        """Upload the project to all machines and make their environments, the head's first.

        Machines with a common home folder find the head's environment there.
        """

        def install_one(index: int) -> Site:
            connection, place = connections[index], _places(deployment)[index]
            upload(connection, place)
            top = place.partition(DEPLOYMENTS)[0]
            interpreter = install(connection, top, place, found[index], self.options)
            site = Site(connection, place, interpreter, deployment.storage, deployment.name)
            site.write(INTERPRETER_FILE, interpreter)
            site.write(LAUNCH_FILE, LaunchFile.of(deployment).text())
            if not deployment.is_remote:
                site.head("check")
            return site

        return [install_one(0), *for_all(install_one, range(1, len(connections)))]

    def _machines(self, deployment: Deployment, found: Sequence[Found]) -> tuple[Machine, ...]:
        """Return the records of the machines; those that were used before have been billed since."""
        known = {machine.name: machine.up_s for machine in deployment.machines}
        return tuple(
            Machine(
                name=host,
                gpu=each.gpu,
                num_gpus=each.num_gpus,
                market=self.options.market,
                usd_per_hour=price_machine(each.gpu, each.num_gpus, self.options).usd_per_hour,
                up_s=known.get(host, time.time()),
            )
            for host, each in zip(self.options.hosts, found, strict=True)
        )

    def _workers(self, name: str, found: Sequence[Found]) -> tuple[Worker, ...]:
        """Return the machines beside the head. Their folders have numbers: machines may have a common home folder."""
        return tuple(
            Worker(host=host, place=f"{each.home}/{self.options.folder}{DEPLOYMENTS}{name}/worker-{number}")
            for number, (host, each) in enumerate(zip(self.options.hosts[1:], found[1:], strict=True), 1)
        )

    def submit(self, deployment: Deployment, plan: Path, options: Sequence[str]) -> Deployment:
        """Upload the plan and start the driver in a session of its own."""
        with self._connect_all() as connections:
            sites = _sites(connections, deployment)
            head, file, more = sites[0], f"{deployment.place}/plan.jsonl", list(options)
            head.connection.run(f"cat > {quoted(file)}", plan.read_bytes())
            self._start_timer(head)  # it is gone if the machine was started again since `up`
            token = None
            if len(sites) > 1:
                start_cluster(head, sites[1:])  # it runs, unless a machine was started again
                address = head.connection.run(f"cat {quoted(f'{head.place}/{ADDRESS_FILE}')}").out.strip()
                more = ["--address", address, *more]
                if any(machine.num_gpus for machine in deployment.machines):
                    more += gpu_words(plan)
                token = environment(Path(head.place))
            run = ("sweep", "run", file, "--storage", deployment.storage, *more)
            head.start(DRIVER, "orchestrator.cli", *run, environment=token)
        return deployment.model_copy(update={"state": "submitted"})

    def read(self, deployment: Deployment) -> Deployment:
        """Return the record as the timer left it on the machine; the stored one if records are not on the machine."""
        if not deployment.is_remote or not deployment.machines:
            return deployments.observed(deployment, deployments.load(self.storage, deployment.name))
        with self._connect() as connection:
            found = self._read_record(connection, deployment.storage, deployment.name)
            if found is None and deployment.place and is_missing(connection, deployment.place):
                raise CloudError(
                    f"{connection.host} has nothing of {deployment.name!r} any more: another computer has ended it",
                    f"Close this record too: `trm cloud down {deployment.name} --forget`",
                )
        return deployment if found is None else _observed(deployment, found)

    def discover(self, name: str, stored: Deployment | None) -> Deployment:
        """Return a deployment that another client has launched, as it lies on the machines that the user has named."""
        with self._connect_all() as connections:
            tops = [f"{home_of(connection)}/{self.options.folder}{DEPLOYMENTS}{name}" for connection in connections]
            head, *others = [f"{top}/worker-{index}" if index else top for index, top in enumerate(tops)]
            found = self._read_record(connections[0], f"{head}/runs", name) or stored
            if found is None:
                raise CloudError(
                    f"no deployment {name!r} on {connections[0].host}", "Name the storage that has its record"
                )
            interpreters = [
                connection.run(f"cat {quoted(f'{place}/{INTERPRETER_FILE}')}", check=False).out.strip()
                for connection, place in zip(connections, [head, *others], strict=True)
            ]
        workers = zip(self.options.hosts[1:], others, interpreters[1:], strict=True)
        mine = Options(hosts=self.options.hosts, ssh_config=self.options.ssh_config, folder=self.options.folder)
        return found.model_copy(
            update={
                "backend": self.name,
                "options": mine,
                "storage": f"{head}/runs" if found.is_remote else self.storage.url,
                "place": head,
                "interpreter": interpreters[0],
                "workers": tuple(Worker(host=host, place=place, interpreter=word) for host, place, word in workers),
            }
        )

    def status(self, deployment: Deployment, as_json: bool) -> str:
        """Return what `trm sweep status` says on the machine; before there is a record, the end of the driver's log."""
        with self._connect() as connection:
            head = Site.of_head(connection, deployment)
            shown = head.trm("sweep", "status", deployment.name, *["--json"] * as_json)
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
            head = Site.of_head(connection, deployment)
            if follow:
                with waiting_for(f"the driver starts on {head.host}"):
                    head.head("waiting")
            verb = ("sweep", "logs", deployment.name, *["--follow"] * follow, "--storage", deployment.storage)
            return connection.stream(head.script(deployment.interpreter, "-m", "orchestrator.cli", *verb))

    def receipt(self, deployment: Deployment) -> Receipt:
        """Return the account that the machine computes from its records."""
        with self._connect() as connection:
            found = Site.of_head(connection, deployment).head("receipt")
        try:
            return Receipt.parse(load_json(found.encode()), where=connection.host)
        except (ValueError, TypeError, UserError) as error:
            raise CloudError(
                f"{connection.host} has answered with no receipt: {error}", "Look at the machine"
            ) from None

    def fetch(self, deployment: Deployment) -> int:
        """Copy the records and checkpoints of the sweep into the user's storage."""
        with self._connect() as connection:
            return fetch_records(connection, self.storage, deployment)

    def stop(self, deployment: Deployment) -> str:
        """Ask the driver to stop cleanly."""
        with self._connect() as connection:
            done = Site.of_head(connection, deployment).trm("sweep", "stop", deployment.name)
            if done.code:
                raise failed(connection.host, done)
        return done.out.strip()

    def down(self, deployment: Deployment, keep: bool) -> Closing:
        """End the driver, Ray and the timer, fetch the records, and remove what was put there.

        Raises:
            CloudError: the head cannot be reached, so that its driver may run on; the other machines are ended.
        """
        hosts = self.options.hosts
        left = [f"the machine {host} itself: return it to its provider, it bills until then" for host in hosts]
        if not deployment.place:
            return Closing(["nothing was started"], left)
        require_own_places(deployment)
        done, unreachable = [], None
        try:
            with self._connect() as connection:
                done += self._end_head(connection, deployment)
        except CloudError as error:
            unreachable = error
        for worker in deployment.workers:
            ended, remains = end_worker(deployment, worker, self.options.ssh_config, keep)
            done, left = [*done, *ended], [*left, *remains]
        if unreachable is not None:
            others = f"; ended on the others: {', '.join(done) or 'nothing'}" if deployment.workers else ""
            raise CloudError(f"{unreachable.what}{others}", unreachable.remedy)
        with self._connect() as connection:
            release_name(connection, deployment.place)
            ended, remains = remove(connection, deployment.place, keep)
        return Closing([*done, *ended], [*left, *remains])

    def _end_head(self, connection: Connection, deployment: Deployment) -> list[str]:
        """End the processes of the head and fetch the records that lie there. Return what was done."""
        head = Site.of_head(connection, deployment)
        if not head.was_used():
            return [f"no process of it was started on {head.host}"]
        done = [f"{head.head('end').strip()}; the timer has ended"]
        if deployment.is_remote:
            count = fetch_records(connection, self.storage, deployment)
            done.append(f"fetched {plural(count, 'file')} into {self.storage.url}")
        return done

    def _connect(self) -> Connection:
        if not self.options.hosts:
            raise CloudError("--on ssh needs a machine", "Name it after the sweep: user@host")
        return Connection(self.options.hosts[0], self.options.ssh_config)

    @contextmanager
    def _connect_all(self) -> Iterator[list[Connection]]:
        """Connect with all machines, the head first."""
        with ExitStack() as stack:
            head = stack.enter_context(self._connect())
            others = [Connection(host, self.options.ssh_config) for host in self.options.hosts[1:]]
            yield [head, *(stack.enter_context(other) for other in others)]

    def _inspect(self, connections: Sequence[Connection]) -> list[Found]:
        """Return what the machines have. Raises CloudError for those that cannot be used together."""
        found = for_all(lambda connection: inspect(connection, self._python()), connections)
        require_alike(self.options.hosts, found)
        return found

    def _python(self) -> str:
        return (
            f"{self.options.environment}/bin/python" if self.options.environment else self.options.python or "python3"
        )

    def _start_timer(self, head: Site) -> None:
        head.start(TIMER, "orchestrator.cloud.timer", head.place, head.storage, head.name)

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
        answer = connection.run(f"cat {quoted(key)}", check=False)
        if answer.code:
            return None
        found = deployments.decode(answer.out.encode(), f"{connection.host}:{key}")
        if found.name != name:
            raise CloudError(
                f"{connection.host} has the record of {found.name!r} in the place of {name!r}", "Look at it"
            )
        return found


def _observed(stored: Deployment, found: Deployment) -> Deployment:
    """Return a record with what its machine knows better: whether and when it has ended."""
    ends = {machine.name: machine.down_s for machine in found.machines}
    machines = tuple(
        machine.model_copy(update={"down_s": ends.get(machine.name, machine.down_s)}) for machine in stored.machines
    )
    return deployments.observed(stored, found).model_copy(update={"machines": machines, "limits": found.limits})


def _places(deployment: Deployment) -> list[str]:
    """Return the folders of a deployment, the head's first."""
    return [deployment.place, *(worker.place for worker in deployment.workers)]


def _sites(connections: Sequence[Connection], deployment: Deployment) -> list[Site]:
    """Return the sites of a deployment, the head first."""
    others = zip(connections[1:], deployment.workers, strict=True)
    return [
        Site.of_head(connections[0], deployment),
        *(Site.of_worker(connection, deployment, worker) for connection, worker in others),
    ]


def _with_interpreters(deployment: Deployment, sites: Sequence[Site]) -> Deployment:
    workers = tuple(
        worker.model_copy(update={"interpreter": site.interpreter})
        for worker, site in zip(deployment.workers, sites[1:], strict=True)
    )
    return deployment.model_copy(update={"interpreter": sites[0].interpreter, "workers": workers})
