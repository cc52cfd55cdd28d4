"""Run deployments on AWS: `ray up` starts the head, Ray's autoscaler the workers, Ray's Jobs API the driver.

Records and checkpoints lie on S3, so that everything but starting and ending works without reaching the head.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from orchestrator.cloud import deployments, own
from orchestrator.cloud.aws.machines import EARLIER_S, assumed_usd, machines_of
from orchestrator.cloud.aws.orphans import find_orphans, usd_per_hour
from orchestrator.cloud.aws.setup import security_group_id
from orchestrator.cloud.backend import Closing, CloudError, Deployment, Offer
from orchestrator.cloud.config import Aws, CloudConfig, gpu_label
from orchestrator.cloud.configured import ConfiguredBackend
from orchestrator.cloud.launch_file import LAUNCH_FILE, LaunchFile, write_private
from orchestrator.cloud.local_copy import copy_project, gpu_words, state_folder
from orchestrator.cloud.processes import TIMER
from orchestrator.cloud.progress import waiting_for
from orchestrator.cloud.ray_node import TOKEN_FILE, environment, make_token
from orchestrator.cloud.render.ray_cluster import BIN, PORT, render_cluster, render_single, worker_kinds
from orchestrator.cloud.ssh.project import require_portable
from orchestrator.resources.aws.clients import client
from orchestrator.resources.aws.errors import explain_output
from orchestrator.resources.aws.instances import CLUSTER_TAG, end_instances, instances
from orchestrator.resources.aws.quotas import Need, shortfalls
from orchestrator.resources.catalogue import HostPrice, Price, host_prices, prices
from orchestrator.resources.placement import gpu_types
from orchestrator.storage.s3 import S3Storage
from orchestrator.sweep.definition import Sweep
from trm_data.errors import UserError

logger = logging.getLogger(__name__)

PLACE = "~/trm-deployment"
"""Folder on the head for the plan, the logs and the identities of processes."""
JOBS = "http://127.0.0.1:8265"
NO_AGENT = "No available agent to submit job"
"""What Ray's Jobs API says on a head that has just started."""
AGENT_S = 180.0
AGENT_POLL_S = 3.0


class AwsBackend(ConfiguredBackend):
    """Run deployments on machines that `cloud.toml` lists.

    Args:
        storage: the user's, on S3, below the prefix of the configuration.
    """

    name = "aws"
    has_timer = True

    @cached_property
    def aws(self) -> Aws:
        """Return the table `[aws]`. Raises ConfigError if the configuration has none."""
        return self.config.aws_settings()

    def offers(self, sweep: Sweep) -> list[Offer]:
        """Return the most machines that may be up at once, in the market that is tried first."""
        require_portable(sweep)
        self._require_own_storage()
        if self.options.single:
            single = self.aws.single
            return [_offer(self.aws, single.instance, single.market, 1)]
        types = gpu_types(sweep.resources.gpu_type)
        workers = [
            worker
            for worker in self.aws.workers
            if (not types or gpu_label(worker.machine) in types) and _fits(worker.machine.num_gpus, sweep)
        ]
        if not workers:
            raise CloudError(
                f"no machine in the configuration has the GPUs of the sweep ({sweep.resources.gpu_type or 'any'})",
                "Add a table [[aws.workers]], or choose others with --gpu",
            )
        offers = [_offer(self.aws, self.aws.head.instance, "on-demand", 1)]
        room = self.aws.max_machines
        for worker in workers:
            count = min(worker.max_machines, room)
            room -= count
            if count:
                offers.append(_offer(self.aws, worker.instance, worker.markets[0], count))
        return offers

    def up(self, deployment: Deployment) -> Deployment:
        """Start the head with `ray up`, and on it the timer and what keeps the record."""
        self._require_own_storage()
        self._require_free_name(deployment)
        group = self.aws.security_group or security_group_id(self.config)
        if group is None:
            raise CloudError(
                f"{self.aws.region} has no security group {self.config.name!r}",
                "Run `trm cloud init aws`, once per account and region",
            )
        started = {"options": self._with_config(deployment), "state": "starting", "cluster": self._cluster}
        deployment = deployment.model_copy(update=started)
        if not deployment.machines:  # a new launch has a token of its own
            self._token(deployment.name).unlink(missing_ok=True)
        make_token(self._token(deployment.name).parent)
        file = self._write_cluster(deployment, group)
        deployments.save(self.storage, deployment)
        own.remember(self.storage, deployment)
        try:
            with waiting_for("the head starts, which takes 5 to 10 minutes"):
                self._ray(deployment.name, "up", "--yes", "--no-config-cache", str(file))
        except UserError:
            with suppress(UserError):  # what was started before the failure is in the record
                deployments.save(self.storage, self._seen(deployment))
            raise
        deployment = self._seen(deployment).model_copy(update={"state": "up"})
        deployments.save(self.storage, deployment)
        self._send_launch_file(deployment)
        self._start_timer(deployment)
        return deployment

    def _send_launch_file(self, deployment: Deployment) -> None:
        """Write what the timer obeys onto the head."""
        self._exec(deployment.name, f"mkdir -p -m 700 {PLACE}")
        file = self._file(deployment.name).with_name(LAUNCH_FILE)
        told = LaunchFile.of(deployment, self._end_command(deployment))
        # From now on machines are to be listed: where that never succeeds, the timer gives no sign of life.
        listed_s = None if self.options.single else time.time()
        write_private(file, told.model_copy(update={"listed_s": listed_s}).text())
        self._send(deployment.name, file)

    def _start_timer(self, deployment: Deployment) -> None:
        """Start the timer, and what tells it which machines are up, unless they run."""
        self._start(deployment, TIMER, "orchestrator.cloud.timer", PLACE, deployment.storage, deployment.name)
        if not self.options.single:  # one machine has no right to look, and nothing changes
            about = (PLACE, self.aws.region, self.config.name, deployment.storage, deployment.name)
            self._start(deployment, "machines", "orchestrator.cloud.aws.machines", *about)

    def submit(self, deployment: Deployment, plan: Path, words: Sequence[str]) -> Deployment:
        """Upload the plan and submit the driver as a job of Ray, which outlives this process."""
        self._start_timer(deployment)  # it is gone if the head was started again since `up`
        self._send(deployment.name, plan)
        driver = [f"{BIN}/trm", "sweep", "run", f"{PLACE}/plan.jsonl", "--address", f"127.0.0.1:{PORT}"]
        driver += ["--storage", shlex.quote(deployment.storage), *map(shlex.quote, [*gpu_words(plan), *words])]
        job = f"{deployment.name}-{int(time.time())}"
        submit = [f"{BIN}/ray", "job", "submit", "--address", JOBS, "--no-wait", "--submission-id", shlex.quote(job)]
        self._exec(deployment.name, f"RAY_AUTH_MODE=token {' '.join(submit)} -- {' '.join(driver)}", again=NO_AGENT)
        return deployment.model_copy(update={"state": "submitted"})

    def read(self, deployment: Deployment) -> Deployment:
        """Return the record with the machines that are up now."""
        self._require_same_cluster(deployment)
        return self._seen(deployments.observed(deployment, deployments.load(self.storage, deployment.name)))

    def down(self, deployment: Deployment, keep: bool) -> Closing:
        """Stop the driver and end all machines of the cluster; the records stay on S3."""
        self._require_same_cluster(deployment)
        done = self._end_driver(deployment)
        ec2 = client("ec2", self.aws.region)
        deployments.note(self.storage, self._seen(deployment))
        ended = end_instances(ec2, {CLUSTER_TAG: self.config.name})
        self._token(deployment.name).unlink(missing_ok=True)
        done.append(f"ended {', '.join(ended)}" if ended else "no machine was up")
        found = find_orphans(time.time(), [self.aws.region])
        left = [f"{each.kind} {each.name}: {each.command}" for each in found if each.cluster == self.config.name]
        return Closing(done, left)

    def _require_same_cluster(self, deployment: Deployment) -> None:
        """Raise CloudError if the configuration names another cluster than the deployment's."""
        if deployment.cluster and deployment.cluster != self._cluster:
            raise CloudError(
                f"{deployment.name!r} runs on cluster {deployment.cluster}, the configuration names {self._cluster}",
                "Change `name` and `region` back, or call this in the folder of the configuration that launched it",
            )

    @property
    def _cluster(self) -> str:
        return f"{self.config.name} in {self.aws.region}"

    def shortages(self) -> list[str]:
        """Return the quotas that are too small; AWS itself refuses what exceeds them."""
        if self.options.single:
            needs = [Need(self.aws.single.instance, self.aws.single.market, 1)]
        else:
            kinds = worker_kinds(self.aws)
            needs = [Need(each.instance, market, each.max_machines) for _, each, market in kinds]
        try:
            return shortfalls(needs, self.aws.region)
        except UserError as error:
            return [f"quotas are unknown: {error}"]

    def _require_own_storage(self) -> None:
        """Raise CloudError unless the machines may read and write the storage."""
        found = self.storage
        prefix = found.prefix if isinstance(found, S3Storage) else ""
        is_below = prefix == self.aws.prefix or prefix.startswith(f"{self.aws.prefix}/")
        if not isinstance(found, S3Storage) or found.bucket != self.aws.bucket or not is_below:
            raise CloudError(
                f"machines on AWS have no rights on the storage {found.url}",
                f"Give the one of the configuration: --storage '{self.aws.storage}'",
            )

    def _require_free_name(self, deployment: Deployment) -> None:
        """Raise CloudError if another deployment uses the cluster: its end would end this one too."""
        found = instances(client("ec2", self.aws.region), {CLUSTER_TAG: self.config.name})
        up = {str(each["InstanceId"]): each["LaunchTime"].timestamp() for each in found}
        for name in deployments.names(self.storage):
            other = deployments.load(self.storage, name)
            is_other = name != deployment.name and other.backend == self.name
            if is_other and other.state not in ("new", *deployments.OVER) and up:
                raise CloudError(
                    f"cluster {self.config.name!r} is in use by deployment {name!r}",
                    f"End it with `trm cloud down {name}`, or give another `name` in the configuration",
                )
        known = {machine.name for machine in deployment.machines}
        earliest_s = deployment.created_s - EARLIER_S
        if others := [each for each, up_s in up.items() if each not in known and up_s < earliest_s]:
            raise CloudError(
                f"cluster {self.config.name!r} has machines of another launch: {', '.join(others)}",
                "`trm cloud orphans` says how to end them; or give another `name` in the configuration",
            )

    def _end_command(self, deployment: Deployment) -> str:
        words = ["" if self.options.single else self.aws.region, self.config.name, deployment.storage, deployment.name]
        words.append(f"127.0.0.1:{PORT}")
        return f"{BIN}/python {shlex.join(['-m', 'orchestrator.cloud.aws.end', *words])}"

    def _seen(self, deployment: Deployment) -> Deployment:
        known, since_s = deployment.machines, deployment.created_s
        found = machines_of(client("ec2", self.aws.region), self.config.name, known, time.time(), since_s)
        return deployment.model_copy(update={"machines": found})

    def _write_cluster(self, deployment: Deployment, group: str) -> Path:
        """Write the cluster file and the tracked files of the project, which `ray up` copies to the machines."""
        name = deployment.name
        copied = copy_project(state_folder(self.name, name) / "project")
        aws = self.aws.model_copy(update={"security_group": group})
        hours = deployment.limits.max_hours or self.config.max_hours
        config: CloudConfig = self.config.model_copy(update={"aws": aws, "max_hours": hours})
        text = (render_single if self.options.single else render_cluster)(config, str(copied), str(self._token(name)))
        self._file(name).write_text(text)
        return self._file(name)

    def _file(self, name: str) -> Path:
        return state_folder(self.name, name) / "ray-cluster.yaml"

    def _token(self, name: str) -> Path:
        """Return the file with the token of this launch's Ray, which only this user can read."""
        return self._file(name).with_name(TOKEN_FILE)

    def _log(self, name: str) -> Path:
        return self._file(name).with_name("ray.log")

    def _start(self, deployment: Deployment, process: str, module: str, *arguments: str) -> None:
        """Start a process on the head that outlives the connection."""
        quoted = [each if each == PLACE else shlex.quote(each) for each in arguments]
        about = f"{PLACE} {shlex.quote(deployment.storage)} {shlex.quote(deployment.name)}"
        start = f"{BIN}/python -m orchestrator.cloud.head start {about} {process}"
        self._exec(deployment.name, f"{start} {BIN}/python -m {module} {' '.join(quoted)}")

    def _send(self, name: str, file: Path) -> None:
        """Copy a file into the folder of the deployment on the head, which exists: rsync makes none."""
        self._ray(name, "rsync-up", str(self._file(name)), str(file), f"{PLACE}/{file.name}")

    def _exec(self, name: str, command: str, again: str = "") -> None:
        self._ray(name, "exec", str(self._file(name)), command, again=again)

    def _ray(self, name: str, *words: str, again: str = "") -> None:
        """Run a command of Ray, whose output goes to a log.

        Args:
            again: text in the output of a failure that does not last: the command is tried again for a while.

        Raises:
            UserError: it failed, with the cause that it names.
        """
        deadline_s = time.monotonic() + AGENT_S
        while (done := self._ray_once(name, *words))[0] and again and again in done[1]:
            if time.monotonic() > deadline_s:
                break
            time.sleep(AGENT_POLL_S)
        returned, shown = done
        if returned:
            doing = f"ray {words[0]}"
            remedy = f"Its output is in {self._log(name)}; `trm cloud down {name}` ends what was started"
            raise explain_output(shown, doing) or CloudError(f"{doing} ended with {returned}", remedy)

    def _ray_once(self, name: str, *words: str) -> tuple[int, str]:
        """Run a command of Ray and write its output to the log. Return its exit status and its output."""
        beside = Path(sys.executable).with_name("ray")
        program = str(beside) if beside.is_file() else "ray"
        own_token = environment(self._token(name).parent)
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **own_token, "RAY_USAGE_STATS_ENABLED": "0"},
            check=False,
        )
        with self._log(name).open("a") as file:
            file.write(f"$ ray {shlex.join(words)}\n{done.stdout}\n")
        return done.returncode, done.stdout


def _fits(num_gpus: int, sweep: Sweep) -> bool:
    """Return whether machines with so many GPUs are started for the sweep: many only for trials on many."""
    wanted = max(1.0, sweep.resources.gpus or 1.0)
    return num_gpus >= wanted and (num_gpus == 1 or wanted > 1)


def _offer(aws: Aws, instance: str, market: str, count: int) -> Offer:
    listed = next((each for each in prices() if (each.provider, each.instance) == ("aws", instance)), None)
    known = [each for each in prices() if (each.provider, each.instance, each.region) == ("aws", instance, aws.region)]
    own = [each for each in known if each.market == market]
    hosts = [each for each in host_prices() if (each.instance, each.region) == (instance, aws.region)]
    rows: list[Price | HostPrice] = [*own, *(each for each in known if each.market == "on-demand"), *hosts]
    row = rows[0] if rows else None
    bound = "" if own or market == "on-demand" else "on-demand price, the highest for spot: "
    return Offer(
        machine=instance,
        count=count,
        provider="aws",
        region=aws.region,
        gpu=None if listed is None else gpu_label(listed),
        num_gpus=0 if listed is None else listed.num_gpus,
        num_cpus=None if listed is None else listed.num_vcpus,
        market="spot" if market == "spot" else "on-demand",
        usd_per_hour=assumed_usd(instance, market, aws.region),
        spot_usd_per_hour=usd_per_hour(instance, "spot", aws.region),
        price_source="" if row is None else f"{bound}{row.source}",
        price_date="" if row is None else row.date,
    )
