"""The node provider of a head's autoscaler for machines that moto's EC2 rents: see `tests.support.rented`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from tests.support.rented import INSTANCES, ec2, note, rent, running


class RentedMachines(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray's class has no types
    """Start raylets on this machine, each with an instance of EC2 that carries the tag of the cluster."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        with self.lock:  # nodes of several kinds start at once
            instance, market = INSTANCES[labels["ray.io/accelerator-type"]]
            rented = rent(self.provider_config["rented_for"], instance, market)
            up_s, before = time.time(), set(self._nodes)
            super()._create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
            (node_id,) = set(self._nodes) - before
            node = self._nodes[node_id]["node"]
            pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
            note(Path(self.provider_config["folder"]), rented, node_id, pids, up_s)
            self._nodes[node_id]["instance"] = rented

    def non_terminated_nodes(self, tag_filters: Any) -> Any:
        """Return the nodes whose instances exist: whoever terminates one has ended the node."""
        with self.lock:
            rented = {name: each["instance"] for name, each in self._nodes.items() if "instance" in each}
            up = running(rented.values())
            for name in [name for name, instance in rented.items() if instance not in up]:
                del self._nodes[name]
        return super().non_terminated_nodes(tag_filters)

    def _terminate_node(self, node: Any) -> None:
        ec2().terminate_instances(InstanceIds=[node["instance"]])
