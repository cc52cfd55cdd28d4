"""Rendered files: what follows from `cloud.toml`, and what SkyPilot, Ray and shells make of them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cloud.backend import CloudError, Options
from orchestrator.cloud.config import CloudConfig, load_config, parse_config
from orchestrator.cloud.registry import open_backend
from orchestrator.cloud.render.rendered import render
from orchestrator.cloud.render.sky import PORTS, TOKEN, VERSION, launch_words
from orchestrator.storage import open_storage
from tests.support.rendered import INFRA, rendered_files
from trm_data.errors import ConfigError

CONFIG: CloudConfig = load_config(INFRA / "cloud.toml")
NAME = "it's.py"
AWS = '[aws]\nregion = "eu-west-1"\nbucket = "sweeps"\nssh_from = ["203.0.113.7/32"]\n'


@pytest.mark.parametrize("path", rendered_files(), ids=lambda path: path.name)
def test_files_of_infra_are_what_is_rendered(path: Path) -> None:
    assert path.read_text() == rendered_files()[path], "run `python -m tests.support.rendered`"


def aws(text: str, *, single: bool = False) -> dict[str, Any]:
    """The cluster file for a configuration."""
    parsed: dict[str, Any] = yaml.safe_load(render(parse_config(AWS + text), "aws", "demo", single=single).text)
    return parsed


class TestAws:
    def test_markets_are_tried_in_their_order_and_many_gpus_last(self) -> None:
        kinds = aws(
            '[[aws.workers]]\ninstance = "g6e.xlarge"\nmarkets = ["on-demand", "spot"]\n'
            '[[aws.workers]]\ninstance = "g6e.12xlarge"\nmarkets = ["spot"]\n'
        )["available_node_types"]
        by_priority = sorted((kind for kind in kinds if kind != "head"), key=lambda kind: -kinds[kind]["priority"])
        assert by_priority == ["g6e-xlarge-on-demand", "g6e-xlarge-spot", "g6e-12xlarge-spot"]
        assert kinds["g6e-12xlarge-spot"]["resources"] == {"CPU": 48, "GPU": 4}

    def test_every_machine_is_private_encrypted_and_tagged(self) -> None:
        text = 'security_group = "sg-0123456789abcdef0"\n'
        for single in (False, True):
            for name, kind in aws(text, single=single)["available_node_types"].items():
                node = kind["node_config"]
                assert node["SecurityGroupIds"] == ["sg-0123456789abcdef0"], name
                assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
                assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
                assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
                tagged = {spec["ResourceType"]: spec["Tags"] for spec in node["TagSpecifications"]}
                wanted = {"instance", "volume", "network-interface"}
                assert set(tagged) == wanted | (
                    {"spot-instances-request"} if "InstanceMarketOptions" in node else set()
                )
                assert all(tags[0] == {"Key": "trm-cluster", "Value": "trm-sweeps"} for tags in tagged.values())

    def test_file_without_a_security_group_would_be_refused_by_aws(self) -> None:
        for kind in aws("")["available_node_types"].values():
            assert kind["node_config"]["SecurityGroupIds"] == ["sg-made-by-trm-cloud-init"]

    def test_single_machine_trains_and_starts_no_other(self) -> None:
        cluster = aws('[aws.single]\ninstance = "p5.4xlarge"\nmarket = "spot"\n', single=True)
        (head,) = cluster["available_node_types"].values()
        assert cluster["max_workers"] == 0 and head["resources"] == {"CPU": 16, "GPU": 1}
        assert head["labels"] == {"ray.io/accelerator-type": "H100", "ray.io/market-type": "spot"}
        assert head["node_config"]["IamInstanceProfile"] == {"Name": "trm-sweeps-worker"}
        started = " ".join(cluster["head_start_ray_commands"])
        assert "--autoscaling-config" not in started and "orchestrator.worker.spot" in started


class TestSky:
    def test_ports_are_not_those_of_skypilot(self) -> None:
        run = yaml.safe_load(render(CONFIG, "sky", "demo").text)["run"]
        assert all(run.count(port) == 2 for port in PORTS)
        assert "ray stop" not in run and "address=auto" not in run
        assert not any(f"={port}" in run for port in (6380, 8076, 8266, 10001))

    def test_token_is_not_in_the_file_and_machines_go(self) -> None:
        text = render(CONFIG, "sky", "demo").text
        assert yaml.safe_load(text)["secrets"] == {TOKEN: None}
        words = launch_words(CONFIG, "sky.yaml")
        assert {"--down", "--use-spot"} <= set(words)
        assert words[words.index("--idle-minutes-to-autostop") + 1] == "15"

    @pytest.mark.slow
    def test_skypilot_reads_the_task_and_has_the_options(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        pip = [tmp_path / "venv/bin/pip", "install", "--quiet", f"skypilot[aws]=={VERSION}"]
        if subprocess.run(pip, check=False).returncode:
            pytest.skip("SkyPilot cannot be installed here")
        (tmp_path / "sky.yaml").write_text(render(CONFIG, "sky", "demo").text)
        code = (
            "import sky, yaml; task = sky.Task.from_yaml_config(yaml.safe_load(open('sky.yaml')), "
            f"secrets_overrides={{'{TOKEN}': 'x'}}); (one,) = task.resources\n"
            "print(task.name, task.num_nodes, dict(one.accelerators), one.use_spot, one.disk_size)"
        )
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        read = subprocess.run(
            [tmp_path / "venv/bin/python", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert read.stdout.splitlines()[-1:] == ["trm-sweeps 1 {'L40S': 1} True 200"], read.stderr
        described = subprocess.run(
            [tmp_path / "venv/bin/sky", "launch", "--help"], env=environment, capture_output=True, text=True, check=True
        )
        for word in launch_words(CONFIG, "sky.yaml"):
            assert not word.startswith("--") or word in described.stdout


class TestKubernetes:
    def test_packaged_sweep_needs_no_config_map(self) -> None:
        text = render(CONFIG, "k8s", "demo", ["--max-usd", "5"]).text
        job = yaml.safe_load(text)
        assert "configmap" not in text.lower()
        assert job["spec"]["entrypoint"].startswith("trm sweep run demo --max-usd 5 --address $RAY_ADDRESS ")


class TestSlurm:
    def test_script_names_partition_and_sweep(self) -> None:
        config = parse_config('[slurm]\npartition = "gpu"\nhours = 1.5\nstorage = "/lustre/trm"\n')
        script = render(config, "slurm", NAME, ["--gpu", "any"]).text
        assert "#SBATCH --partition=gpu\n" in script and "#SBATCH --time=01:30:00\n" in script
        assert f"trm sweep run {shlex.quote(NAME)} --gpu any --storage" in script
        assert ': "${TRM_STORAGE:=/lustre/trm}"' in script


def scripts() -> dict[str, str]:
    """Every rendered text that a shell executes."""
    task = yaml.safe_load(render(CONFIG, "sky", "it's.py", ["--name", "$(x)"]).text)
    found = {"sbatch": render(CONFIG, "slurm", "").text, "sbatch-sweep": render(CONFIG, "slurm", "sweeps/a b.py").text}
    found |= {f"sky-{part}": f"#!/bin/bash\n{task[part]}" for part in ("setup", "run")}
    for single in (False, True):
        cluster = yaml.safe_load(render(CONFIG, "aws", "demo", single=single).text)
        for part in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
            found[f"aws-{part}-{single}"] = "#!/bin/bash\n" + "\n".join(cluster[part]) + "\n"
    return found


@pytest.mark.parametrize("name", scripts())
def test_shells_and_shellcheck_find_nothing_in_the_scripts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(scripts()[name])
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    try:
        found = subprocess.run(["shellcheck", "-S", "warning", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return  # `bash -n` has passed; Debian's package shellcheck finds more
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("backend", "single", "message"),
    [
        ("ssh", False, "nothing is rendered for ssh"),
        ("awz", False, r"unknown backend 'awz'\. Did you mean 'aws'"),
        ("sky", True, "--single is no option of 'sky'"),
    ],
)
def test_backend_without_a_file_is_refused(backend: str, single: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(CONFIG, backend, "demo", single=single)


@pytest.mark.parametrize("name", ["k8s", "slurm"])
def test_place_whose_own_tool_starts_the_file_points_to_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(CloudError, match=f"trm cloud render demo --on {name}"):
        open_backend(name, Options(), open_storage(str(tmp_path)))
