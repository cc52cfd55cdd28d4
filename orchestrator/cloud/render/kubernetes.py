"""Render a KubeRay RayJob for one sweep: the cluster is created and deleted with the job.

It needs KubeRay 1.6 (labels since 1.5.1, token authentication since 1.6) and nodes with NVIDIA's device plugin and
feature discovery. Pods run as another user than root, without privileges, and end at the deadline of `cloud.toml`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from orchestrator.cloud.config import CloudConfig, K8s, K8sWorker
from orchestrator.cloud.render.text import driver_command, yaml_text

SWEEPS = "/etc/trm/sweeps"
USER = 1000
HEADER = """Rendered from cloud.toml by `trm cloud render --on k8s`: change that file, not this one.

{first}kubectl apply -n {namespace} -f rayjob.yaml && kubectl logs -n {namespace} -f job/{name}"""
_SHM = {"name": "shm", "mountPath": "/dev/shm"}
_SCRATCH = {"name": "scratch", "mountPath": "/tmp"}


def render_rayjob(config: CloudConfig, sweep: str, arguments: Sequence[str] = ()) -> str:
    """Return the manifest.

    Args:
        config: with a table `[k8s]`.
        sweep: name of a packaged sweep, or a sweep file, which a config map brings into the head's pod.
        arguments: further options of `trm sweep run`.
    """
    k8s = config.k8s_settings()
    file = sweep.endswith((".py", ".yaml", ".yml", ".json"))
    inside = f"{SWEEPS}/{sweep.rpartition('/')[2]}" if file else sweep
    first = (
        f"kubectl create configmap -n {k8s.namespace} {config.name} {shlex.quote(f'--from-file={sweep}')}\n"
        if file
        else ""
    )
    # The same command resumes a sweep that it has started. Ray gives the driver its cluster's address.
    driver = driver_command("trm", inside, arguments, address="$RAY_ADDRESS", storage=k8s.storage)
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": config.name,
            "namespace": k8s.namespace,
            "labels": {"trm-cluster": config.name},
            "annotations": dict(config.tags),
        },
        "spec": {
            "entrypoint": driver,
            "entrypointNumCpus": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": round(config.idle_minutes * 60),
            "activeDeadlineSeconds": round(config.max_hours * 3600),
            "backoffLimit": 0,
            "submitterPodTemplate": {"spec": _submitter(k8s)},
            "rayClusterSpec": _cluster(config, k8s, file),
        },
    }
    if not config.tags:
        del job["metadata"]["annotations"]  # type: ignore[attr-defined]
    return yaml_text(HEADER.format(first=first, namespace=k8s.namespace, name=config.name), job)


def _cluster(config: CloudConfig, k8s: K8s, has_file: bool) -> dict[str, Any]:
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        # Version 1 ignores label selectors when it scales: trials would wait forever.
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "securityContext": _container_security(),
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": {"spec": _head(config, k8s, has_file)},
        },
        "workerGroupSpecs": [_group(k8s, worker) for worker in k8s.workers],
    }


def _head(config: CloudConfig, k8s: K8s, has_file: bool) -> dict[str, Any]:
    sizes = {"cpu": "4", "memory": "16Gi"}
    mounts: list[dict[str, Any]] = [_SHM, _SCRATCH]
    volumes = _volumes(8)
    if has_file:
        mounts = [*mounts, {"name": "sweeps", "mountPath": SWEEPS, "readOnly": True}]
        volumes.append({"name": "sweeps", "configMap": {"name": config.name}})
    return _pod(k8s, "ray-head", sizes, mounts, volumes, {})


def _group(k8s: K8s, worker: K8sWorker) -> dict[str, Any]:
    sizes = {"cpu": str(worker.cpus), "memory": f"{worker.memory_gib}Gi", "nvidia.com/gpu": worker.num_gpus}
    extra = {
        "terminationGracePeriodSeconds": 120,  # a spot notice gives two minutes: time for a checkpoint
        "nodeSelector": {"nvidia.com/gpu.product": worker.product},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "groupName": f"{worker.gpu.lower()}{'' if worker.num_gpus == 1 else f'x{worker.num_gpus}'}-{worker.market}",
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": worker.max_pods,
        "rayStartParams": {},
        "labels": {"ray.io/accelerator-type": worker.gpu, "ray.io/market-type": worker.market},
        "template": {
            "spec": _pod(k8s, "ray-worker", sizes, [_SHM, _SCRATCH], _volumes(worker.shm_gib), extra),
        },
    }


def _pod(
    k8s: K8s,
    container: str,
    sizes: dict[str, Any],
    mounts: list[dict[str, Any]],
    volumes: list[dict[str, Any]],
    extra: dict[str, Any],
) -> dict[str, Any]:
    return {
        "serviceAccountName": k8s.service_account,  # bound to a role of the cloud: no keys in the pod
        "restartPolicy": "Never",  # the autoscaler replaces pods itself
        **extra,
        "securityContext": _pod_security(),
        "containers": [
            {
                "name": container,
                "image": k8s.image,
                "securityContext": _container_security(),
                "resources": {"requests": dict(sizes), "limits": dict(sizes)},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _submitter(k8s: K8s) -> dict[str, Any]:
    """Return the pod that submits the entry point to the cluster; KubeRay's own would run as root."""
    sizes = {"cpu": "500m", "memory": "512Mi"}
    container = {"name": "ray-job-submitter", "image": k8s.image, "securityContext": _container_security()}
    return {
        "restartPolicy": "Never",
        "securityContext": _pod_security(),
        "containers": [container | {"resources": {"requests": dict(sizes), "limits": dict(sizes)}}],
    }


def _pod_security() -> dict[str, Any]:
    seccomp = {"type": "RuntimeDefault"}
    return {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": seccomp}


def _container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _volumes(shm_gib: int) -> list[dict[str, Any]]:
    # Kubernetes gives 64 MiB of shared memory by default: Ray would spill to disk.
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_gib}Gi"}}
    return [shm, {"name": "scratch", "emptyDir": {}}]
