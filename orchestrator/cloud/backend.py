"""Define what every cloud backend does, and the values that backends, the commands and the records exchange.

A backend starts no machine by itself where another tool does it better: it renders what that tool reads, calls it, and
keeps the record of the deployment (`orchestrator.cloud.deployments`) up to date.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field, field_validator

from orchestrator.resources.catalogue import Market
from orchestrator.sweep.definition import Sweep
from trm_data.errors import UserError
from trm_data.settings import Settings

FOLDER = ".trm-cloud"
IDLE_MINUTES = 15.0
"""Minutes without a driver after which machines are ended."""

Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""Seconds since the epoch, or a duration."""
Usd = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Hours = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
State = Literal["new", "starting", "up", "submitted", "ended", "down"]


class CloudError(UserError):
    """Raised for machines that cannot be reached, started, used or ended."""


class Options(Settings):
    """Hold what the user said about where to run; it is part of the record, so that later commands need no options.

    Secrets are never part of it: keys, tokens and credentials stay where `ssh` and the provider's tools look for them.
    """

    hosts: tuple[str, ...] = ()
    """ssh: `user@host` or `user@host:port`, the head first."""
    python: str | None = None
    """ssh: interpreter on the machines with which an environment is made."""
    environment: str | None = None
    """ssh: an environment on the machines that already holds the requirements; nothing is installed then."""
    ssh_config: str | None = None
    """ssh: configuration file that `ssh -F` reads."""
    folder: str = FOLDER
    """ssh: folder on the machines, relative to the home folder, that holds everything that was put there."""
    network: str | None = None
    """ssh: network in which several machines reach each other: 10.0.0.0/24. The one that leads outwards if left out."""
    end_command: str | None = None
    """Command that runs last, to end the machine itself: by the timer on the head, by Ray's process on a worker."""
    config: str | None = None
    """Configuration file of the backend: `cloud.toml`."""
    single: bool = False
    """aws: one GPU machine is head and worker."""
    provider: str | None = None
    """Whose prices count: `aws`, `lambda`, `runpod`; see `infra/catalogue/prices.csv`."""
    region: str | None = None
    market: Market = "on-demand"
    usd_per_gpu_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Price that the user pays, instead of the catalogue's."""
    usd_per_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    """The same for a whole machine; for machines without a GPU."""

    @field_validator("network")
    @classmethod
    def _is_network(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            raise ValueError(f"{value!r} is no network; write it like 10.0.0.0/24") from None


class Limits(Settings):
    """Hold the limits that the timer on the head enforces; None means no limit."""

    max_usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Dollars of machine hours, idle ones included."""
    max_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Hours from the start of the first machine."""
    idle_minutes: float = Field(IDLE_MINUTES, gt=0, allow_inf_nan=False)
    """Minutes without a driver."""


class Offer(Settings):
    """Describe one kind of machine that a backend would use, and its price."""

    machine: str
    """Instance type, or the address of a machine that exists."""
    count: int = Field(1, ge=1)
    provider: str = ""
    region: str = ""
    gpu: str | None = None
    """Ray's label of the GPU type; None for a machine without GPUs."""
    num_gpus: int = Field(0, ge=0)
    num_cpus: float | None = None
    market: Market = "on-demand"
    usd_per_hour: Usd | None = None
    """Price of one machine; None where it is unknown."""
    spot_usd_per_hour: Usd | None = None
    """Price of the same machine on the spot market, for comparison; None where it is unknown."""
    price_source: str = ""
    price_date: str = ""


class Machine(Settings):
    """Describe one machine of a deployment, and for how long it has been up."""

    name: str
    """Address or instance identifier."""
    kind: str = ""
    """Instance type, if there is one."""
    gpu: str | None = None
    num_gpus: int = 0
    market: Market = "on-demand"
    usd_per_hour: Usd | None = None
    """Price that the plan assumed; None where it is unknown."""
    billed_usd_per_hour: Usd | None = None
    """Price that the provider reports to bill; None where it reports none."""
    up_s: Seconds
    """When it was started or first used, in seconds since the epoch."""
    down_s: Seconds | None = None
    """When it was ended or left; None while it is up."""


class Receipt(Settings):
    """Hold what a deployment has cost so far, beside what was planned. None means that a figure is not known."""

    name: str
    backend: str
    state: str
    planned_hours: tuple[Hours, Hours] | None
    planned_usd: tuple[Usd, Usd] | None
    price_source: str
    price_date: str
    machine_hours: Hours
    """Of all machines, from their start to their end or to now."""
    usd: Usd | None
    """Machine hours at the billed price, or at the assumed one where none is reported."""
    assumed_usd_per_hour: Usd | None
    """Of all machines together."""
    billed_usd_per_hour: Usd | None
    trials: int
    busy_hours: Hours
    """Machine hours in which a trial ran."""
    idle_hours: Hours
    idle_usd: Usd | None
    lost_hours: Hours
    """Hours of attempts that ended without an end of their own: a lost machine, a killed driver."""
    timer_age_s: Seconds | None = None
    """How long ago the timer on the head was last seen; None where nothing says so."""
    unknown: tuple[str, ...] = ()


class Closing(NamedTuple):
    """Report what `Backend.down` did."""

    ended: Sequence[str]
    """What was ended and removed, one line each."""
    left: Sequence[str]
    """What is still there, with the command that removes it."""


class Worker(Settings):
    """Describe a machine beside the head of a deployment on machines that `ssh` reaches."""

    host: str
    """As the user named it."""
    place: str
    """Folder of the deployment there."""
    interpreter: str = ""
    """Python of the environment; empty until one is installed."""


class Deployment(Settings):
    """Hold the record of one launch; `orchestrator.cloud.deployments` stores it."""

    version: Literal[1] = 1
    name: str
    """Name of the sweep, which is also the name of the deployment."""
    backend: str
    storage: str
    """Address of the storage of the records, as the head opens it."""
    is_remote: bool = False
    """Whether `storage` is a folder of the head, so that it can only be read there until it is fetched."""
    place: str = ""
    """ssh: folder of the deployment on the head."""
    interpreter: str = ""
    """ssh: Python of the environment on the head."""
    cluster: str = ""
    """aws: name and region of the cluster."""
    workers: tuple[Worker, ...] = ()
    """ssh: the machines beside the head."""
    created_s: Seconds
    options: Options = Options()
    limits: Limits = Limits()
    planned_usd: tuple[Usd, Usd] | None = None
    """From low to high; None where it is unknown."""
    planned_hours: tuple[Hours, Hours] | None = None
    price_source: str = ""
    price_date: str = ""
    machines: tuple[Machine, ...] = ()
    state: State = "new"
    """`new`, `starting` (some machines may be up), `up`, `submitted`, `ended` (by the timer) or `down`."""
    ended_s: Seconds | None = None
    ended_why: str = ""
    commands: tuple[str, ...] = ()
    """Commands that start its driver, show it and end it."""


class Backend(Protocol):
    """Run deployments in one kind of place. Methods raise CloudError with the remedy."""

    name: str
    has_timer: bool
    """Whether a timer of ours runs on the head, whose signs of life are in the storage of the records."""

    def offers(self, sweep: Sweep) -> list[Offer]:
        """Return the machines that a sweep would use, with prices, and start nothing."""

    def limited(self, limits: Limits) -> Limits:
        """Return the limits that hold: those of the command, and those of a configuration where there is one."""

    def shortages(self) -> list[str]:
        """Return what the account may not rent, or that this is unknown, one sentence each."""

    def up(self, deployment: Deployment) -> Deployment:
        """Start the machines, install the project, and start Ray and the timer. Return the record with machines."""

    def submit(self, deployment: Deployment, plan: Path, words: Sequence[str]) -> Deployment:
        """Start the driver, which outlives this process.

        Args:
            plan: plan file of the sweep (`trm sweep plan --out`).
            words: further options of `trm sweep run`.
        """

    def read(self, deployment: Deployment) -> Deployment:
        """Return the current record: as the timer wrote it, with the machines that are up now."""

    def stop(self, deployment: Deployment) -> str:
        """Ask the driver to stop cleanly; machines stay up until the timer or `down` ends them."""

    def down(self, deployment: Deployment, keep: bool) -> Closing:
        """End the driver, Ray, the timer and the machines, and fetch the records first if they lie on a machine.

        Args:
            keep: leave what was installed, for the next `up`.
        """


@runtime_checkable
class RemoteRecords(Protocol):
    """Read records that lie on a machine (`Deployment.is_remote`). Other records are read from their storage."""

    def status(self, deployment: Deployment, as_json: bool) -> str:
        """Return what `trm sweep status` says on the machine."""

    def logs(self, deployment: Deployment, follow: bool) -> int:
        """Print the events of the sweep. Return the exit status."""

    def receipt(self, deployment: Deployment) -> Receipt:
        """Return what the deployment has cost so far."""

    def discover(self, name: str, stored: Deployment | None) -> Deployment:
        """Return a deployment that another client has launched, as it lies on the machines that the user has named.

        Args:
            stored: its record in the user's storage, of which nothing that decides what runs is believed.
        """

    def fetch(self, deployment: Deployment) -> int:
        """Copy the records and checkpoints of the sweep into the user's storage. Return the number of files."""
