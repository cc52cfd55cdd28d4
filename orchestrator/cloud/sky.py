"""Run deployments through SkyPilot: `sky launch` starts machines and driver, and SkyPilot ends them when they are idle.

SkyPilot is a program of another environment, because its dependencies contradict ours: `sky` on PATH, else `uvx`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.cloud import deployments
from orchestrator.cloud.backend import Closing, CloudError, Deployment, Machine, Offer
from orchestrator.cloud.config import Sky
from orchestrator.cloud.configured import ConfiguredBackend
from orchestrator.cloud.local_copy import copy_project, gpu_words, state_folder
from orchestrator.cloud.prices import catalogue_offers
from orchestrator.cloud.render.sky import TOKEN, VERSION, launch_words, render_sky
from orchestrator.cloud.ssh.project import require_portable
from orchestrator.resources.catalogue import ray_label
from orchestrator.storage import LocalStorage
from orchestrator.sweep.definition import Sweep

logger = logging.getLogger(__name__)

PLAN = "plan.jsonl"


class SkyBackend(ConfiguredBackend):
    """Run deployments on the machine that the table `[sky]` of `cloud.toml` describes.

    Args:
        storage: the user's, of which records are read; a bucket, because disks go with their machines.
    """

    name = "sky"
    has_timer = False

    @cached_property
    def sky(self) -> Sky:
        """Return the table `[sky]`. Raises ConfigError if the configuration has none."""
        return self.config.sky_settings()

    def offers(self, sweep: Sweep) -> list[Offer]:
        """Return the cheapest such machine of the catalogue; SkyPilot knows others, and shows its own prices."""
        require_portable(sweep)
        if isinstance(self.storage, LocalStorage):
            remedy = f"Give a bucket: --storage {self.sky.storage}"
            raise CloudError("records in a folder cannot be read from machines of SkyPilot", remedy)
        market = {"market": "spot" if self.sky.use_spot else "on-demand"}
        options = self.options.model_copy(update=market | ({"provider": self.sky.cloud} if self.sky.cloud else {}))
        (cheapest, *_) = catalogue_offers([self.sky.gpu], options)
        return [_resized(cheapest, self.sky.num_gpus, self.sky.num_nodes)]

    def up(self, deployment: Deployment) -> Deployment:
        """Check that SkyPilot can be called; machines start together with the driver."""
        self._sky("--version")
        return deployment.model_copy(update={"options": self._with_config(deployment), "state": "up"})

    def submit(self, deployment: Deployment, plan: Path, words: Sequence[str]) -> Deployment:
        """Start machines and driver, which outlive this process."""
        folder = state_folder(self.name, deployment.name)
        copied = copy_project(folder / "project")
        shutil.copy2(plan, copied / PLAN)
        limits = self.limited(deployment.limits)
        hours = {"max_hours": limits.max_hours, "idle_minutes": limits.idle_minutes}
        config = self.config.model_copy(
            update={**hours, "sky": self.sky.model_copy(update={"storage": deployment.storage})}
        )
        # No timer runs there: the driver stops when its trials have cost this much at the catalogue's prices.
        usd = limits.max_usd
        options = [*gpu_words(plan), *words, *([] if usd is None else ["--max-usd", f"{usd:g}"])]
        task = folder / "sky.yaml"
        task.write_text(render_sky(config, PLAN, options, str(copied)))
        machine = Machine(
            name=self.config.name,
            kind=f"{self.sky.num_nodes} x {self.sky.gpu}:{self.sky.num_gpus}",
            gpu=ray_label(self.sky.gpu),
            num_gpus=self.sky.num_gpus * self.sky.num_nodes,
            market="spot" if self.sky.use_spot else "on-demand",
            up_s=time.time(),
        )
        # Written before the launch: what it starts is never without a record.
        deployment = deployments.save(self.storage, deployment.model_copy(update={"machines": (machine,)}))
        self._sky(*launch_words(config, str(task)), secret=secrets.token_hex(32))
        return deployment.model_copy(update={"state": "submitted"})

    def read(self, deployment: Deployment) -> Deployment:
        """Return the record; a cluster that SkyPilot has ended is down."""
        stored = deployments.observed(deployment, deployments.load(self.storage, deployment.name))
        if stored.state != "submitted" or self._cluster() is not None:
            return stored
        return deployments.ended(stored, "ended by SkyPilot, when it was idle or its machine was lost", time.time())

    def down(self, deployment: Deployment, keep: bool) -> Closing:
        """Stop the driver and let SkyPilot end the machines; the records stay in the bucket."""
        done = self._end_driver(deployment)
        if self._cluster() is None:
            return Closing([*done, f"SkyPilot has no cluster {self.config.name}"], [])
        self._sky("down", "--yes", self.config.name)
        left = [] if self._cluster() is None else [f"cluster {self.config.name}: sky down {self.config.name}"]
        return Closing([*done, f"SkyPilot ended the cluster {self.config.name}"], left)

    def _cluster(self) -> Any:
        """Return SkyPilot's record of the cluster, asked of the provider; None if there is none."""
        shown = self._sky("status", "--refresh", "--output", "json", self.config.name)
        start = shown.find("[")
        try:
            found = json.loads(shown[start:]) if start >= 0 else []
        except ValueError:
            raise CloudError("the answer of `sky status` cannot be read", f"Use SkyPilot {VERSION}") from None
        return next((each for each in found if each.get("name") == self.config.name), None)

    def _sky(self, *words: str, secret: str | None = None) -> str:
        """Run SkyPilot and return what it prints on standard output. Raises CloudError with its last line."""
        command = [*_program(), *words]
        environment = {**os.environ, **({} if secret is None else {TOKEN: secret})}
        logger.info("%s", shlex.join(command))
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            said = f": {lines[-1].strip()}" if lines else ""
            raise CloudError(
                f"`sky {words[0]}` ended with {done.returncode}{said}",
                "`sky check` says which providers it has credentials for; `sky status` lists what is up",
            )
        return done.stdout


def _program() -> list[str]:
    """Return the command that runs SkyPilot. Raises CloudError if there is none."""
    if shutil.which("sky"):
        return ["sky"]
    if shutil.which("uvx"):
        return ["uvx", "--from", f"skypilot[aws]=={VERSION}", "sky"]
    remedy = f"Install it outside of this environment: pipx install 'skypilot[aws]=={VERSION}', or install uv"
    raise CloudError("SkyPilot is not installed", remedy)


def _resized(offer: Offer, num_gpus: int, count: int) -> Offer:
    """Return an offer at the same price per GPU for another number of GPUs."""
    factor = num_gpus / max(1, offer.num_gpus)
    changed = {
        name: None if value is None else value * factor
        for name, value in {"usd_per_hour": offer.usd_per_hour, "spot_usd_per_hour": offer.spot_usd_per_hour}.items()
    }
    return offer.model_copy(update={"num_gpus": num_gpus, "count": count, **changed})
