"""The doctor: what it finds, what it advises, and that it never takes long."""

from __future__ import annotations

import http.server
import json
import os
import resource
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli import doctor
from orchestrator.cli.doctor import Check, examine, machine, services
from tests.support.infra import in_a_thread
from trm_data.files import temporary_name


def only(checks: list[Check]) -> Check:
    (check,) = checks
    return check


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class TestExamination:
    def test_a_healthy_machine_has_nothing_to_mend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as hub:
            monkeypatch.setattr(services, "HUB", hub.getsockname())
            checks = examine(str(tmp_path / "runs"), f"sqlite:///{tmp_path}/mlflow.db", limit_s=120)
        by_name = {check.name: check for check in checks}
        assert {"Python", "torch", "ray", "mlflow", "CPU", "GPU", "memory", "disk", "open files", "storage"} <= set(
            by_name
        )
        assert all(check.status == "ok" for check in checks if check.name in {*machine.PACKAGES, "storage", "tracker"})
        assert not (tmp_path / "runs").exists() and not (tmp_path / "mlflow.db").exists()

    def test_services_that_never_answer_are_named(
        self, silent_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        checks = examine(f"s3://bucket?endpoint_override=http://{silent_port}", f"http://{silent_port}", silent_port)
        failed = {check.name for check in checks if check.status == "fail"}
        assert {"storage", "tracker", "cluster"} <= failed
        assert all(check.remedy for check in checks if check.status == "fail")

    def test_a_check_that_breaks_is_a_finding(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken() -> list[Check]:
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(doctor, "MACHINE_CHECKS", [("CPU", broken)])
        checks = examine(str(tmp_path))
        assert checks[0] == Check("CPU", "fail", "ZeroDivisionError: by zero")
        assert "storage" in {check.name for check in checks}

    def test_a_slow_check_of_this_machine_is_told_in_words_that_fit_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        release = threading.Event()

        def search(_: str) -> list[Check]:
            release.wait()
            return []

        monkeypatch.setattr(doctor, "temporaries", search)
        try:
            checks = {check.name: check for check in examine(str(tmp_path), limit_s=0.2)}
        finally:
            release.set()
        late = checks["temporary files"]
        assert late.status == "warn" and late.found == "not checked: this check took longer than 0.2 s"
        assert "answer" not in late.found + late.remedy

    def test_search_that_ended_early_says_how_far_it_came(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(machine, "SEARCH_S", -1.0)
        found = only(machine.temporaries(str(tmp_path))).found
        assert found.startswith("none of a killed process in the 0 folders that were searched within ")

    def test_nothing_heavy_is_imported(self, tmp_path: Path) -> None:
        code = "import sys; from orchestrator.cli.doctor import examine; examine(sys.argv[1]); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert not {"torch", "ray", "mlflow", "optuna", "boto3"} & set(done.stdout.split())


class TestMachine:
    def test_files_that_killed_processes_left_are_listed_with_the_command_that_deletes_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage, cache = tmp_path / "my runs", tmp_path / "cache"
        monkeypatch.setenv("TRM_CACHE", str(cache))
        assert only(machine.temporaries(str(storage))).status == "ok"
        code = "from trm_data.files import temporary_name; print(temporary_name())"
        left = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        folders = [storage / "sweeps" / "study" / "trials" / "a", cache / "datasets"]
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / left).write_bytes(b"half")
            (folder / temporary_name()).write_bytes(b"of a living process")
        found = only(machine.temporaries(str(storage)))
        assert found.status == "warn" and "2 files" in found.found
        command = shlex.split(found.remedy.removeprefix("Delete them: "))
        assert command == ["rm", "--", *(str(folder / left) for folder in folders)]
        assert found in examine(str(storage), limit_s=120)
        assert "1 file " in only(machine.temporaries("s3://bucket/trm")).found, "the cache alone is on this machine"

    def test_a_missing_and_an_old_package_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "PACKAGES", ("no-such-package", "ray"))
        monkeypatch.setattr(machine, "_requirements", lambda: {"ray": ">=99"})
        missing, old = machine.packages()
        assert (missing.status, missing.found) == ("fail", "not installed")
        assert old.status == "fail" and "needed: >=99" in old.found and "pip install" in old.remedy

    def test_gpus_need_a_torch_that_can_use_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "nvml_names", lambda: ["NVIDIA L40S", "NVIDIA L40S", "NVIDIA H100"])
        monkeypatch.setattr(machine, "torch_cuda_version", lambda: None)
        check = only(machine.gpus())
        assert check.status == "fail" and check.found.startswith("1 x NVIDIA H100, 2 x NVIDIA L40S, but torch is a CPU")
        monkeypatch.setattr(machine, "torch_cuda_version", lambda: "12.8")
        assert only(machine.gpus()) == Check("GPU", "ok", "1 x NVIDIA H100, 2 x NVIDIA L40S; torch for CUDA 12.8")

    def test_gpu_names_come_from_the_driver_library(self, tmp_path: Path) -> None:
        if not shutil.which("cc"):
            pytest.skip("no C compiler to build a stand-in for the driver library")
        source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
        source.write_text(
            "#include <stdio.h>\n"
            "int nvmlInit_v2(void) { return 0; } int nvmlShutdown(void) { return 0; }\n"
            "int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }\n"
            "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (void *)(long)(i + 1); return 0; }\n"
            'int nvmlDeviceGetName(void *h, char *s, unsigned n) { return snprintf(s, n, "GPU %ld", (long)h) < 0; }\n'
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        assert machine.nvml_names(str(library)) == ["GPU 1", "GPU 2"]
        assert machine.nvml_names("libno-such-driver.so") == []

    @pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (2, "warn"), (16, "ok")])
    def test_scarce_memory_and_disk_are_graded(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_gib: float, status: str
    ) -> None:
        free = int(free_gib * machine.GIB)
        monkeypatch.setattr(machine, "_available_bytes", lambda: free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=free))
        assert only(machine.memory()).status == status
        assert only(machine.disk(str(tmp_path / "not" / "yet" / "there"))).status == status
        assert only(machine.disk("s3://bucket/x")).status == status

    def test_a_low_limit_of_open_files_names_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 524288))
        check = only(machine.open_files())
        assert check.status == "warn" and "ulimit -n 65536" in check.remedy


class TestStorage:
    def test_s3_is_probed_and_left_as_it_was(self, s3_bucket: str) -> None:
        from orchestrator.storage import open_storage

        assert only(services.storage(s3_bucket)).status == "ok"
        assert open_storage(s3_bucket).list() == []

    def test_a_server_that_ignores_conditions_is_found_out(
        self, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from orchestrator.storage import S3Storage

        def careless(storage: S3Storage, key: str, data: bytes) -> bool:
            storage.write(key, data)
            return True

        monkeypatch.setattr(S3Storage, "create", careless)
        check = only(services.storage(s3_bucket))
        assert check.status == "fail" and "ignores If-None-Match" in check.found

    def test_a_file_in_the_way_is_explained(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        check = only(services.storage(str(tmp_path / "runs")))
        assert check.status == "fail" and check.remedy


class Version(http.server.BaseHTTPRequestHandler):
    """What an MLflow server says at /version."""

    text = ""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/version" else 404)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


class TestTracker:
    @pytest.mark.parametrize(("text", "status"), [("3.17.0", "ok"), ("2.9.1", "warn"), ("<html>", "fail")])
    def test_a_server_of_another_version_is_named(
        self, text: str, status: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Version, "text", text)
        monkeypatch.setattr(services, "TIMEOUT_S", 60.0)
        with in_a_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Version)) as server:
            check = only(services.tracker(f"http://127.0.0.1:{server.server_port}"))
        assert check.status == status
        assert status == "fail" or text in check.found

    def test_an_existing_database_is_opened_but_not_written(self, tmp_path: Path) -> None:
        path = tmp_path / "mlflow.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.close()
        before = path.read_bytes()
        assert only(services.tracker(f"sqlite:///{path}")) == Check("tracker", "ok", f"{path}: 0 runs")
        assert path.read_bytes() == before

    def test_a_file_that_is_no_database_and_an_address_that_is_none_fail(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("not a database" * 100)
        assert only(services.tracker(f"sqlite:///{tmp_path}/mlflow.db")).status == "fail"
        assert only(services.tracker("./mlruns")).status == "fail"
        assert "nothing answers" in only(services.tracker("http://127.0.0.1:1")).found

    def test_sqlite_on_a_network_disk_is_warned_about(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "file_system", lambda _: "nfs4")
        check = only(services.tracker("sqlite:////shared/mlflow.db"))
        assert check.status == "warn" and "nfs4" in check.found


class TestRay:
    def test_a_note_of_a_dead_cluster_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "ray_current_cluster").write_text("127.0.0.1:1\n")
        checks = services.ray_leftovers(tmp_path)
        assert (checks[0].name, checks[0].status) == ("Ray note", "warn")
        assert checks[0].remedy == f"rm {tmp_path}/ray_current_cluster"

    def test_a_note_of_a_living_cluster_is_none_of_our_business(self, tmp_path: Path, silent_port: str) -> None:
        (tmp_path / "ray_current_cluster").write_text(silent_port)
        assert "Ray note" not in {check.name for check in services.ray_leftovers(tmp_path)}

    def test_an_orphaned_raylet_is_listed_with_its_process_number(self, tmp_path: Path) -> None:
        program = tmp_path / "raylet"
        shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
        code = (
            "import subprocess as s, sys\nprint(s.Popen([sys.argv[1], '1800'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(program)], capture_output=True, text=True, check=True)
        pid = int(done.stdout)
        try:
            checks = services.ray_leftovers(tmp_path)
            adopted = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            assert (str(pid) in json.dumps([check.found for check in checks])) == (adopted == "1")
        finally:
            os.kill(pid, 9)

    def test_versions_must_be_those_of_the_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from orchestrator.execution import ray_cluster
        from orchestrator.resources import nodes

        head = nodes.Node("a", "10.0.0.5", True, 0, 0, None, None)
        monkeypatch.setattr(ray_cluster, "describe_cluster", lambda *_: nodes.Cluster([head], "2.9.0", "3.11.7"))
        check = only(services.cluster("10.0.0.5:6379"))
        assert check.status == "fail" and "Install Ray 2.9.0" in check.remedy
        assert "Ray 2.9.0, this machine 2.60" in check.found
