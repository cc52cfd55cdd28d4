"""Read `cloud.toml`: which machines a launch may rent, where, for how long and for how much.

    config = load_config(Path("cloud.toml"))
    config.aws_settings().workers[0].instance        # g6e.2xlarge

A misspelt name, a wrong type or a value out of range is an error that names the field. Nothing here asks a provider.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from orchestrator.errors import project_file
from orchestrator.resources.catalogue import Price, prices, ray_label
from trm_data.errors import ConfigError, nearest
from trm_data.settings import Settings

CONFIG_FILE = "cloud.toml"
T = TypeVar("T")
Market = Literal["spot", "on-demand"]
SSM = "resolve:ssm:/aws/service"
CPU_AMI = f"{SSM}/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
GPU_AMI = f"{SSM}/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"


def machine_of(instance: str) -> Price:
    """Return the on-demand entry of the catalogue for an AWS instance type with GPUs.

    Raises:
        ValueError: not in the catalogue.
    """
    known = {price.instance: price for price in prices() if price.provider == "aws" and price.market == "on-demand"}
    if instance not in known:
        raise ValueError(f"{instance!r} is no GPU machine of the catalogue. {nearest(instance, known)}")
    return known[instance]


def _matching(pattern: str, remedy: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


Name = Annotated[str, _matching(r"[a-z][a-z0-9-]{1,38}[a-z0-9]", "use 3 to 40 lower-case letters, digits and dashes")]
Bucket = Annotated[
    str,
    _matching(
        r"(?!xn--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", "a bucket's name has 3 to 63 lower-case letters, digits and dashes"
    ),
]
Prefix = Annotated[str, _matching(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", "write it like `trm` or `team/trm`")]
Region = Annotated[str, _matching(r"[a-z]{2}(-[a-z]+)+-\d", "write a region like us-east-1")]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\s'\"$`\\;<>]+$")]
"""Words without anything that a shell expands: they become parts of scripts."""
Image = Annotated[str, _matching(r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+|@sha256:[0-9a-f]{64})", "name it with a tag")]


class _Table(Settings):
    """Define a table of the file: types are not converted, so `max_usd = "200"` is an error."""

    model_config = ConfigDict(strict=True)


class Head(_Table):
    """Describe the CPU machine that runs drivers and the autoscaler."""

    instance: Text = "m7i.xlarge"
    disk_gb: int = Field(100, ge=30, le=16_000)


class Worker(_Table):
    """Describe GPU machines of one type; `markets` are tried in their order."""

    instance: Text
    markets: list[Market] = Field(["spot", "on-demand"], min_length=1)
    max_machines: int = Field(4, ge=1, le=1000)
    """For each market."""
    disk_gb: int = Field(150, ge=75, le=16_000)

    @field_validator("instance")
    @classmethod
    def _is_known(cls, value: str) -> str:
        machine_of(value)
        return value

    @field_validator("markets")
    @classmethod
    def _are_different(cls, value: list[Market]) -> list[Market]:
        if len(set(value)) < len(value):
            raise ValueError("name each market once")
        return value

    @property
    def machine(self) -> Price:
        """Return the catalogue's entry for this type: GPUs, vCPUs, memory, on-demand price."""
        return machine_of(self.instance)


class Single(_Table):
    """Describe the one GPU machine of `--single`, which is head and worker."""

    instance: Text = "g6e.2xlarge"
    market: Market = "on-demand"
    """Nobody replaces a spot machine that is lost: the sweep waits until it is submitted again."""
    disk_gb: int = Field(200, ge=75, le=16_000)

    @field_validator("instance")
    @classmethod
    def _is_known(cls, value: str) -> str:
        machine_of(value)
        return value

    @property
    def machine(self) -> Price:
        """Return the catalogue's entry for this type."""
        return machine_of(self.instance)


class Images(_Table):
    """Name the AMIs of machines without and with GPUs: an id, or an SSM parameter that AWS resolves at launch."""

    cpu: Annotated[str, _matching(r"ami-[0-9a-f]{8,17}|resolve:ssm:/\S+", "write ami-... or resolve:ssm:/...")] = (
        CPU_AMI
    )
    gpu: Annotated[str, _matching(r"ami-[0-9a-f]{8,17}|resolve:ssm:/\S+", "write ami-... or resolve:ssm:/...")] = (
        GPU_AMI
    )


class Aws(_Table):
    """Describe what is rented on AWS."""

    region: Region
    bucket: Bucket
    prefix: Prefix = "trm"
    """Records and checkpoints lie below it; machines have rights on nothing else in the bucket."""
    ssh_from: list[str] = Field(min_length=1)
    """Networks from which port 22 of the machines is reachable."""
    security_group: Annotated[str, _matching(r"sg-[0-9a-f]{8,17}", "write an id like sg-0123456789abcdef0")] | None = (
        None
    )
    """`up` finds the one that `init` made where this is left out."""
    zones: list[str] = Field(default_factory=list)
    subnet: Annotated[str, _matching(r"subnet-[0-9a-f]{8,17}", "write an id like subnet-0123456789abcdef0")] | None = (
        None
    )
    """For accounts without a default VPC. It must give machines public addresses, through which `ssh` reaches them."""
    max_machines: int = Field(16, ge=1, le=1000)
    """Workers at the same time, of all types together."""
    head: Head = Head()
    workers: list[Worker] = Field(
        [Worker(instance="g6e.2xlarge", max_machines=12), Worker(instance="p5.4xlarge", max_machines=4)],
        min_length=1,
    )
    single: Single = Single()
    images: Images = Images()

    @field_validator("ssh_from")
    @classmethod
    def _are_closed(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                raise ValueError(
                    f"{text!r} is no network; write 203.0.113.7/32, with the address that "
                    "`curl https://checkip.amazonaws.com` prints"
                ) from None
            if network.prefixlen == 0:
                raise ValueError(f"{text} opens SSH to the world; name your own network, like 203.0.113.7/32")
        return value

    @field_validator("workers")
    @classmethod
    def _differ(cls, value: list[Worker]) -> list[Worker]:
        names = [worker.instance for worker in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is listed twice; keep one table and name its markets there")
        return value

    @model_validator(mode="after")
    def _zones_are_in_the_region(self) -> Aws:
        for zone in self.zones:
            if not re.fullmatch(re.escape(self.region) + "[a-z]", zone):
                raise ValueError(f"zone {zone!r} is not in {self.region}; write {self.region}a")
        if self.zones and self.subnet:
            raise ValueError("both zones and subnet are given; a subnet is in one zone, so leave out zones")
        return self

    @property
    def storage(self) -> str:
        """Return the address of the storage, as `--storage` takes it."""
        return f"s3://{self.bucket}/{self.prefix}?region={self.region}"


class Sky(_Table):
    """Describe the machine that SkyPilot looks for."""

    gpu: Text = "L40S"
    num_gpus: int = Field(1, ge=1, le=16)
    num_nodes: int = Field(1, ge=1, le=64)
    cloud: Text | None = None
    """Any that SkyPilot has credentials for, if left out."""
    region: Text | None = None
    use_spot: bool = True
    disk_gb: int = Field(200, ge=75, le=16_000)
    storage: Annotated[str, _matching(r"s3://[^\s'\"]+", "write s3://bucket/prefix: a disk goes with its machine")]


class K8sWorker(_Table):
    """Describe pods with one kind of GPU."""

    gpu: Text
    """Ray's label for the GPU: L40S, H100."""
    product: Text
    """Label `nvidia.com/gpu.product` of the nodes, from NVIDIA's feature discovery: NVIDIA-L40S."""
    market: Market = "on-demand"
    max_pods: int = Field(4, ge=1, le=1000)
    num_gpus: int = Field(1, ge=1, le=16)
    cpus: int = Field(6, ge=1, le=512)
    memory_gib: int = Field(48, ge=2, le=8192)
    shm_gib: int = Field(16, ge=1, le=1024)


class K8s(_Table):
    """Describe the pods of a RayJob."""

    image: Image
    storage: Annotated[str, _matching(r"s3://[^\s'\"]+", "write s3://bucket/prefix: a pod's disk goes with the pod")]
    namespace: Name = "trm-sweeps"
    service_account: Name = "trm-sweeps"
    workers: list[K8sWorker] = Field(min_length=1)


class Slurm(_Table):
    """Describe the allocation of a batch job."""

    nodes: int = Field(2, ge=1, le=1000)
    gpus_per_node: int = Field(1, ge=1, le=16)
    cpus_per_node: int = Field(8, ge=1, le=1024)
    hours: float = Field(12.0, ge=0.1, le=24 * 30)
    """Of Slurm, a limit of 0 minutes is none."""
    partition: Text | None = None
    account: Text | None = None
    constraint: Text | None = None
    storage: Text | None = None
    """A folder that every node sees, or s3://...; `runs` in the folder of submission if left out."""


class CloudConfig(_Table):
    """Hold everything that `cloud.toml` says."""

    name: Name = "trm-sweeps"
    """Name of the cluster, and the value of the tag `trm-cluster` on everything that is rented."""
    max_usd: float | None = Field(None, gt=0)
    max_hours: float = Field(24.0, gt=0, le=24 * 30)
    """The head ends everything this long after its start."""
    idle_minutes: float = Field(15.0, ge=1, le=24 * 60)
    """The head ends everything after this long without a driver."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Further tags of every resource, such as a cost centre."""
    aws: Aws | None = None
    sky: Sky | None = None
    k8s: K8s | None = None
    slurm: Slurm | None = None

    @field_validator("tags")
    @classmethod
    def _are_tags(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not re.fullmatch(r"[\w .:/=+@-]{1,128}", key) or not re.fullmatch(r"[\w .:/=+@-]{0,256}", text):
                raise ValueError(f"{key!r} is no tag; use letters, digits, spaces and . : / = + - @ _")
            if key.lower().startswith(("aws:", "ray-", "trm-")):
                raise ValueError(f"tag {key!r} is set by AWS, Ray or this project; choose another name")
        return value

    def aws_settings(self) -> Aws:
        """Return the table `[aws]`. Raises ConfigError if the file has none."""
        return _required(self.aws, "aws", 'region = "us-east-1", bucket = "..." and ssh_from = ["203.0.113.7/32"]')

    def sky_settings(self) -> Sky:
        """Return the table `[sky]`. Raises ConfigError if the file has none."""
        return _required(self.sky, "sky", 'gpu = "L40S" and storage = "s3://bucket/trm"')

    def k8s_settings(self) -> K8s:
        """Return the table `[k8s]`. Raises ConfigError if the file has none."""
        return _required(self.k8s, "k8s", 'image = "registry/trm:0.1.0", storage = "s3://..." and [[k8s.workers]]')

    def slurm_settings(self) -> Slurm:
        """Return the table `[slurm]`, whose fields all have a default."""
        return self.slurm or Slurm()


def load_config(path: Path) -> CloudConfig:
    """Read a configuration.

    Raises:
        ConfigError: no such file, no TOML, or a setting that is unknown, of the wrong type or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        remedy = (
            f"Copy {project_file('infra/cloud.toml')} and change what is marked, or name another one: --config FILE"
        )
        raise ConfigError(f"{path} does not exist", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "Name a readable text file") from None
    return parse_config(text, str(path))


def parse_config(text: str, where: str = CONFIG_FILE) -> CloudConfig:
    """Read a configuration from the text of a file. Raises ConfigError as `load_config` does."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML: {error}", "Texts take quotes, tables take [brackets]") from None
    try:
        return CloudConfig.parse(values, where)
    except ConfigError as error:
        # A validator of this file says how to write the value; pydantic's own messages do not.
        remedy = error.remedy or (
            "" if "?" in error.what or ";" in error.what else f"{project_file('infra/cloud.toml')} has every table"
        )
        raise ConfigError(error.what, remedy) from None


def gpu_label(machine: Price) -> str:
    """Return Ray's label for the GPU of a machine."""
    return ray_label(machine.gpu)


def _required(table: T | None, name: str, fields: str) -> T:
    if table is None:
        raise ConfigError(f"the configuration has no table [{name}]", f"Add [{name}] with {fields}")
    return table
