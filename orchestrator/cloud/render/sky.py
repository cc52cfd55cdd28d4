"""Render a task for SkyPilot, which looks for the cheapest machines of one kind at any provider and ends them.

SkyPilot runs a Ray of its own on every machine, with ports 6380, 8076 and from 11002 on. Ray of this project starts
beside it with other ports and another folder, and is ended by its process id: `ray stop` would end both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.cloud.config import CloudConfig, Sky
from orchestrator.cloud.render.text import driver_command, yaml_text

TOKEN = "TRM_RAY_TOKEN"
"""Secret of the task: the token of our Ray, which the launching command makes and passes in its environment."""
VERSION = "0.14.1"
PORT = 6379
PORTS = (
    *("--object-manager-port=8077", "--ray-client-server-port=10011", "--dashboard-agent-listen-port=52375"),
    *("--min-worker-port=10100", "--max-worker-port=10999"),
)
"""Ports of our Ray that SkyPilot's does not use."""
HEADER = """Rendered from cloud.toml by `trm cloud render --on sky`: change that file, not this one.

{launch}"""
SETUP = r"""set -e
test -x ~/trm-venv/bin/pip || python3 -m venv ~/trm-venv || \
  (sudo apt-get update -qq && sudo apt-get install -qq -y g++ python3-dev python3-venv && python3 -m venv ~/trm-venv)
~/trm-venv/bin/pip install -q -c constraints.txt -e .
"""
RUN = r"""set -u
export PATH=$HOME/trm-venv/bin:$PATH RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$@TOKEN@
unset RAY_ADDRESS
ray_dir=/tmp/trm-ray-$SKYPILOT_INTERNAL_JOB_ID
head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  until timeout 2 bash -c "exec 3<> /dev/tcp/$head/@PORT@" 2> /dev/null; do sleep 5; done
  ray start --block --address="$head:@PORT@" @PORTS@ || true  # it ends with the head
  exit 0
fi
ray start --block --head --port=@PORT@ --temp-dir="$ray_dir" --include-dashboard=false --disable-usage-stats @PORTS@ &
ray=$!
trap 'kill "$ray"; wait "$ray"' EXIT
for _ in $(seq 60); do
  kill -0 "$ray" || { echo 'error: Ray did not start' >&2; exit 1; }
  timeout 2 bash -c "exec 3<> /dev/tcp/$head/@PORT@" 2> /dev/null && break
  sleep 1
done
timeout --signal=TERM --kill-after=300 @SECONDS@ @DRIVER@
"""


def render_sky(config: CloudConfig, sweep: str, arguments: Sequence[str] = (), project: str = ".") -> str:
    """Return the task file.

    Args:
        config: with a table `[sky]`.
        sweep: sweep file in the project, or the name of a packaged sweep.
        arguments: further options of `trm sweep run`.
        project: folder that SkyPilot copies to every machine.
    """
    sky = config.sky_settings()
    task = {
        "name": config.name,
        "workdir": project,
        "num_nodes": sky.num_nodes,
        "resources": _resources(config, sky),
        # Read from the environment of the launching command; not part of the file.
        "secrets": {TOKEN: None},
        "setup": SETUP,
        "run": _run(config, sky, sweep, arguments),
    }
    launch = " ".join(["sky", *launch_words(config, "sky.yaml")])
    return yaml_text(HEADER.format(launch=launch), task)


def launch_words(config: CloudConfig, task: str) -> list[str]:
    """Return the arguments of `sky` that launch a task file; machines are deleted when they have been idle."""
    sky = config.sky_settings()
    spot = ["--use-spot"] if sky.use_spot else []
    idle = ["--down", "--idle-minutes-to-autostop", str(round(config.idle_minutes))]
    return ["launch", "--yes", "--detach-run", "--cluster", config.name, *spot, *idle, "--secret", TOKEN, task]


def _resources(config: CloudConfig, sky: Sky) -> dict[str, Any]:
    found: dict[str, Any] = {"accelerators": f"{sky.gpu}:{sky.num_gpus}", "use_spot": sky.use_spot}
    found |= {"disk_size": sky.disk_gb, "labels": {"trm-cluster": config.name, **config.tags}}
    if sky.cloud is not None:
        found["infra"] = sky.cloud if sky.region is None else f"{sky.cloud}/{sky.region}"
    return found


def _run(config: CloudConfig, sky: Sky, sweep: str, arguments: Sequence[str]) -> str:
    driver = driver_command("trm", sweep, arguments, address=f'"$head:{PORT}"', storage=sky.storage)
    values = {"TOKEN": TOKEN, "PORTS": " ".join(PORTS), "PORT": str(PORT), "DRIVER": driver}
    values["SECONDS"] = str(round(config.max_hours * 3600))
    text = RUN
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
