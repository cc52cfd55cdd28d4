"""The files that start machines: AWS, Kubernetes, Slurm and the MLflow server, checked without any of them."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.resources import catalogue

INFRA = Path(__file__).parents[2] / "infra"
CLUSTER: dict[str, Any] = yaml.safe_load((INFRA / "aws" / "ray-cluster.yaml").read_text())
WORKERS = {name: kind for name, kind in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]}


def validate(cluster: dict[str, Any]) -> dict[str, Any]:
    """Ray's own preparation and check of a cluster file, as `ray up` does them."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


class TestAws:
    def test_ray_accepts_the_file_of_a_single_machine(self) -> None:
        single = yaml.safe_load((INFRA / "aws" / "ray-single.yaml").read_text())
        assert list(validate(single)["available_node_types"]) == ["head"]

    def test_ray_accepts_the_cluster_file(self) -> None:
        prepared = validate(CLUSTER)
        assert set(prepared["available_node_types"]) == {"head", *WORKERS}
        assert all(kind["min_workers"] == 0 for kind in prepared["available_node_types"].values())

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda cluster: cluster.update(idle_timeout=5),
            lambda cluster: cluster["available_node_types"]["g6e-2xlarge-spot"].update(label={}),
            lambda cluster: cluster["available_node_types"]["g6e-2xlarge-spot"].pop("resources"),
            lambda cluster: cluster.update(head_node_type="master"),
        ],
    )
    def test_ray_would_refuse_a_mistake(self, spoil: Callable[[dict[str, Any]], object]) -> None:
        cluster = copy.deepcopy(CLUSTER)
        spoil(cluster)
        with pytest.raises(Exception, match=r"."):  # Ray raises jsonschema's, its own and click's errors here
            validate(cluster)

    def test_every_worker_is_labelled_and_sized_as_the_catalogue_says(self) -> None:
        machines = {price.instance: price for price in catalogue.prices() if price.provider == "aws"}
        for name, kind in WORKERS.items():
            machine = machines[kind["node_config"]["InstanceType"]]
            assert kind["resources"] == {"CPU": machine.num_vcpus, "GPU": machine.num_gpus}, name
            assert kind["labels"]["ray.io/accelerator-type"] == catalogue.gpu(machine.gpu).ray_type, name

    def test_both_gpu_types_come_as_spot_first_with_an_on_demand_twin(self) -> None:
        for gpu in ("L40S", "H100"):
            kinds = [kind for kind in WORKERS.values() if kind["labels"]["ray.io/accelerator-type"] == gpu]
            spot = [kind for kind in kinds if kind["labels"]["ray.io/market-type"] == "spot"]
            assert spot
            for kind in spot:
                assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
                twins = [other for other in kinds if other not in spot and other["resources"] == kind["resources"]]
                assert twins and all(twin.get("priority", 0) < kind["priority"] for twin in twins)
                assert not any("InstanceMarketOptions" in twin["node_config"] for twin in twins)

    def test_the_cluster_asks_for_its_token_and_scales_by_label(self) -> None:
        for command in CLUSTER["head_start_ray_commands"][1:] + CLUSTER["worker_start_ray_commands"][1:]:
            assert "RAY_AUTH_MODE=token" in command
        assert "RAY_enable_autoscaler_v2=1" in CLUSTER["head_start_ray_commands"][-1]
        assert "--dashboard-host=127.0.0.1" in CLUSTER["head_start_ray_commands"][-1]

    def test_machines_refuse_old_metadata_requests_and_delete_their_disks(self) -> None:
        for kind in CLUSTER["available_node_types"].values():
            assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
            assert all(disk["Ebs"]["DeleteOnTermination"] for disk in kind["node_config"]["BlockDeviceMappings"])

    def test_every_kind_of_machine_starts_on_a_simulated_aws(
        self, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes an SSH key there
        iam, ec2 = boto3.client("iam"), boto3.client("ec2")
        for role in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"infra-test-{role}")
        group = ec2.create_security_group(GroupName="infra-test", Description="of a test")["GroupId"]
        text = (INFRA / "aws" / "ray-cluster.yaml").read_text().replace("sg-made-by-trm-cloud-init", group)
        cluster = bootstrap_aws(validate(yaml.safe_load(text.replace("trm-sweeps", "infra-test"))))
        provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
        for name, kind in cluster["available_node_types"].items():
            provider.create_node(kind["node_config"], {"ray-user-node-type": name, "ray-node-type": "worker"}, 1)
        own = [{"Name": "tag:trm-cluster", "Values": ["infra-test"]}]
        pages = ec2.describe_instances(Filters=own)["Reservations"]
        found = [machine for reservation in pages for machine in reservation["Instances"]]
        started = {
            next(tag["Value"] for tag in machine["Tags"] if tag["Key"] == "ray-user-node-type"): (
                machine["InstanceType"],
                machine.get("InstanceLifecycle"),
                machine["IamInstanceProfile"]["Arn"].rpartition("/")[2],
            )
            for machine in found
        }
        assert started == {
            "head": ("m7i.xlarge", None, "infra-test-head"),
            "g6e-2xlarge-on-demand": ("g6e.2xlarge", None, "infra-test-worker"),
            "g6e-2xlarge-spot": ("g6e.2xlarge", "spot", "infra-test-worker"),
            "p5-4xlarge-on-demand": ("p5.4xlarge", None, "infra-test-worker"),
            "p5-4xlarge-spot": ("p5.4xlarge", "spot", "infra-test-worker"),
            "p5-48xlarge-on-demand": ("p5.48xlarge", None, "infra-test-worker"),
        }
        assert all([each["GroupId"] for each in machine["SecurityGroups"]] == [group] for machine in found)
        disks = ec2.describe_volumes(Filters=own)["Volumes"]
        assert len(disks) == len(found) and all(disk["Encrypted"] for disk in disks)


def strict(schema: Any) -> Any:
    """A Kubernetes structural schema as JSON Schema: unknown fields are errors, int-or-string is either."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: strict(value) for key, value in schema.items()}
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and not keeps_unknown and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


class TestKubernetes:
    JOB: dict[str, Any] = yaml.safe_load((INFRA / "kubernetes" / "rayjob.yaml").read_text())

    @pytest.fixture
    def schema(self, shared: Path) -> dict[str, Any]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        crd = yaml.load((shared / "schemas" / "ray.io_rayjobs.yaml").read_text(), Loader=loader)
        version = next(item for item in crd["spec"]["versions"] if item["name"] == "v1")
        spec: dict[str, Any] = strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
        return spec

    def test_the_operator_knows_every_field_of_the_job(self, schema: dict[str, Any]) -> None:
        import jsonschema

        validator = jsonschema.Draft202012Validator(schema)
        validator.validate(self.JOB["spec"])
        spoilt = copy.deepcopy(self.JOB["spec"])
        spoilt["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicaz"] = 1
        with pytest.raises(jsonschema.ValidationError, match="maxReplicaz"):
            validator.validate(spoilt)

    def test_the_cluster_scales_from_zero_by_label_with_a_token(self) -> None:
        cluster = self.JOB["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
        groups = {group["labels"]["ray.io/accelerator-type"]: group for group in cluster["workerGroupSpecs"]}
        assert set(groups) == {"L40S", "H100"}
        assert all(group["minReplicas"] == 0 and group["replicas"] == 0 for group in groups.values())

    def test_pods_have_no_privileges_and_the_job_has_a_deadline(self) -> None:
        spec = self.JOB["spec"]
        assert spec["activeDeadlineSeconds"] > 0 and spec["ttlSecondsAfterFinished"] > 0
        cluster = spec["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        pods = [spec["submitterPodTemplate"]["spec"], *(group["template"]["spec"] for group in groups)]
        for pod in pods:  # what Kubernetes' restricted standard asks for
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["limits"] == container["resources"]["requests"]
        for pod in pods[1:]:
            assert any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod["volumes"])
            assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


class TestImages:
    @pytest.mark.parametrize("kind", ["cpu", "cuda"])
    def test_image_is_pinned_and_runs_as_another_user_than_root(self, kind: str) -> None:
        text = (INFRA / "images" / f"Dockerfile.{kind}").read_text()
        steps = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
        (base,) = [step for step in steps if step.startswith("FROM ")]
        assert re.fullmatch(r"FROM python:3\.12\.\d+-slim-\w+", base)
        users = [step for step in steps if step.startswith("USER ")]
        assert users == ["USER 1000:1000"] and steps.index(users[0]) > max(
            index for index, step in enumerate(steps) if step.startswith("RUN ")
        )
        installs = [step for step in steps if "pip install" in step]
        assert installs and all("constraints.txt" in step for step in installs)
        assert "never built here" in text

    def test_every_copied_path_exists_and_nothing_else_is_copied(self) -> None:
        for kind in ("cpu", "cuda"):
            for line in (INFRA / "images" / f"Dockerfile.{kind}").read_text().splitlines():
                if line.startswith("COPY "):
                    *sources, _ = line.split()[1:]
                    assert all((INFRA.parent / source).exists() and source != "." for source in sources)

    def test_manifests_name_an_image_that_this_repository_builds(self) -> None:
        job = (INFRA / "kubernetes" / "rayjob.yaml").read_text()
        named = set(re.findall(r"image: \S+/(trm-orchestrator:\S+)", job))
        built = {
            found[1]
            for path in (INFRA / "images").iterdir()
            if (found := re.search(r"-t REGISTRY/(trm-orchestrator:\S+)", path.read_text()))
        }
        assert named and named <= built


class TestMlflowServer:
    COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "mlflow" / "compose.yaml").read_text())

    def test_it_follows_the_compose_specification(self, shared: Path) -> None:
        import jsonschema

        schema = json.loads((shared / "schemas" / "compose-spec.json").read_text())
        jsonschema.Draft7Validator(schema).validate(self.COMPOSE)

    def test_it_listens_on_this_machine_only_and_runs_the_pinned_version(self) -> None:
        server = self.COMPOSE["services"]["mlflow"]
        assert all(port.startswith("127.0.0.1:") for port in server["ports"])
        assert "ports" not in self.COMPOSE["services"]["database"]
        pinned = re.search(r"^mlflow==(.+)$", (INFRA.parent / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned and f"mlflow=={pinned[1]} " in server["build"]["dockerfile_inline"]


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.*")), ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z0-9]{20}", text)
    for value in re.findall(r"(?:password|token|secret)\w*\s*[:=]\s*['\"]?([\w/+=-]{12,})", text, re.IGNORECASE):
        assert value.startswith(("$", "write")), value


LISTEN = "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); time.sleep(1800)"
FAKES = {
    "scontrol": """case "$1 $2" in
        "show hostnames") printf "node1\\nnode2\\n" ;;
        "show job") echo "JobState=$JOB_STATE Reason=None" ;;
        *) echo "scontrol $*" >> "$LOG" ;;
        esac""",
    "hostname": "echo 127.0.0.1",
    "srun": 'while [[ "$1" == -* ]]; do [ "$1" = -w ] && shift; shift; done; exec "$@"',
    "ray": f"""echo "ray token=$(wc -c < "$RAY_AUTH_TOKEN_PATH") $*" >> "$LOG"
        [ "$2" = --head ] && [ -n "$HEAD_FAILS" ] && {{ echo "Address already in use"; exit 1; }}
        [ "$2" = --head ] && [ -n "$HEAD_HANGS" ] && {{ echo "waiting for GCS"; exec sleep 1800; }}
        [ "$2" = --head ] && exec python3 -c '{LISTEN}' "${{3#*=}}" "${{4#*=}}" """,
    "timeout": """until [ -z "$HEAD_HANGS" ] || grep -qs waiting "/tmp/trm-$UID/slurm-$SLURM_JOB_ID/head.log"
        do sleep 0.05; done
        shift; exec "$@" """,
    "trm": """echo "trm $*" >> "$LOG"
        until [ "$(grep -c '^ray' "$LOG")" = 2 ]; do sleep 0.05; done
        trap 'echo stopped >> "$LOG"; exit 3' TERM
        [ -n "$LONG" ] && { echo running >> "$LOG"; sleep 1800 & wait $!; }
        exit 0""",
}


def end_background(process: subprocess.Popen[str]) -> None:
    """End what a job left in the background, if anything; a job has a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class TestSlurm:
    """The batch script against a Slurm made of shell stubs that note how they are called."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
        programs = tmp_path / "bin"
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "activate").write_text("")
        programs.mkdir()
        for name, body in FAKES.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}\n")
            (programs / name).chmod(0o755)

        def submit(*arguments: str, long: bool, **variables: str) -> subprocess.Popen[str]:
            environment = {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "LOG": str(tmp_path / "log"),
                "LONG": "yes" if long else "",
                "SLURM_JOB_ID": str(os.getpid()),
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_CPUS_PER_TASK": "8",
                "TRM_STORAGE": "s3://bucket/it's",
                "JOB_STATE": "RUNNING",
                "HEAD_FAILS": "",
                "HEAD_HANGS": "",
                **variables,
            }
            script = str(INFRA / "slurm" / "sweep.sbatch")
            return subprocess.Popen(
                ["bash", script, *arguments],
                cwd=tmp_path,
                env=environment,
                text=True,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )

        return submit

    def test_the_sweep_is_run_on_a_cluster_with_a_secret_token(
        self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        process = job("sweeps/demo.py", "--gpu", "any", long=False)
        try:
            assert process.wait(timeout=1200) == 0
        finally:
            end_background(process)
            process.communicate()
        log = (tmp_path / "log").read_text()
        address = re.search(r"ray token=64 start --address=(\S+) --block --num-cpus=8", log)
        assert address and f"--port={address[1].partition(':')[2]}" in log
        where = f"--storage s3://bucket/it's --address {address[1]}"
        assert f"trm sweep run sweeps/demo.py --gpu any {where}\n" in log
        assert not list(tmp_path.glob(".trm-ray-token*"))

    def test_sockets_of_ray_lie_below_a_folder_that_only_the_user_can_enter(
        self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        private = Path(f"/tmp/trm-{os.getuid()}")
        process = job("sweeps/demo.py", long=False)
        try:
            assert process.wait(timeout=1200) == 0
        finally:
            end_background(process)
            process.communicate()
        folder = private / f"slurm-{os.getpid()}"
        assert f"--temp-dir={folder} " in (tmp_path / "log").read_text()
        assert private.stat().st_mode & 0o777 == 0o700 and not folder.exists()

    @pytest.mark.parametrize(("state", "is_requeued"), [("RUNNING", True), ("CANCELLED", False)])
    def test_the_time_limit_stops_the_driver_and_requeues_the_job(
        self, state: str, is_requeued: bool, job: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        process = job("sweeps/demo.py", long=True, JOB_STATE=state)
        log = tmp_path / "log"
        try:
            deadline = time.monotonic() + 1200
            while "running" not in (log.read_text() if log.exists() else ""):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.terminate()
            assert process.wait(timeout=1200) == 3
        finally:
            end_background(process)
            process.communicate()
        assert "stopped" in log.read_text()
        assert (f"scontrol requeue {os.getpid()}" in log.read_text()) == is_requeued

    @pytest.mark.parametrize(
        ("variables", "reason"),
        [
            ({"HEAD_FAILS": "yes"}, "Ray's head ended before it answered. The last lines of Ray's head on node1"),
            ({"HEAD_HANGS": "yes", "TRM_HEAD_TIMEOUT_S": "3"}, "did not answer on 127.0.0.1:"),
        ],
    )
    def test_a_head_that_fails_ends_the_job_and_says_why(
        self, variables: dict[str, str], reason: str, job: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        process = job("sweeps/demo.py", long=False, **variables)
        try:
            assert process.wait(timeout=1200) == 1
        finally:
            end_background(process)
            _, errors = process.communicate()
        assert reason in errors
        assert "Address already in use" in errors or "waiting for GCS" in errors
        assert "trm sweep run" not in (tmp_path / "log").read_text()
        assert not list(tmp_path.glob(".trm-ray-token*"))
