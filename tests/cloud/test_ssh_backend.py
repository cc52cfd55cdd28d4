"""A deployment on a machine that ssh reaches, from `up` to `down`, on a real OpenSSH server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cloud import deployments, launch, launch_file, local_copy, own, processes
from orchestrator.cloud.backend import CloudError, Deployment, Limits, Machine, Options, RemoteRecords, Worker
from orchestrator.cloud.ssh import project
from orchestrator.cloud.ssh.backend import SshBackend
from orchestrator.cloud.ssh.cluster import require_alike
from orchestrator.cloud.ssh.connection import Connection, Result
from orchestrator.cloud.ssh.inspection import Found, inspect
from orchestrator.cloud.ssh.project import environment_name, find_project, pack, require_portable, requirements
from orchestrator.cloud.ssh.setup import claim_name, install
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.sweep.definition import Sweep
from orchestrator.sweep.settings import configure
from orchestrator.worker.provenance import git_state, read_state
from tests.cloud.conftest import Box
from trm_model.recipes import get_recipe


def small_sweep(name: str = "small", **settings: object) -> Sweep:
    base = configure(get_recipe("sudoku-mini"), {"train.max_steps": 2, **settings})  # type: ignore[dict-item]
    return Sweep(name=name, base=base, seeds=1)


def options(box: Box, **values: object) -> Options:
    plain = {"hosts": ("box",), "ssh_config": box.config, "environment": sys.prefix, "usd_per_hour": 3.6}
    return Options.parse({**plain, **values})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "runs"))


def test_up_and_down_leave_nothing(box: Box, storage: Storage, tmp_path: Path) -> None:
    limits = Limits(max_usd=5)
    prepared = launch.prepare(small_sweep(), "ssh", options(box), limits, storage)
    assert prepared.quote.usd_per_hour == 3.6 and "untracked" not in prepared.quote.uploads.split("tracked")[0]
    up = launch.up(prepared, storage, "small.yaml")
    try:
        place = Path(up.place)
        assert up.state == "up" and place.is_relative_to(box.home)
        assert processes.is_alive(place, processes.TIMER)
        uploaded = {
            str(path.relative_to(place / "project")) for path in (place / "project").rglob("*") if path.is_file()
        }
        assert {file for file in uploaded if "__pycache__" not in file} == {*find_project().files, "git-state.json"}
        assert read_state(place / "project/git-state.json")["commit"] == git_state()["commit"]
        assert (place.parent.parent.stat().st_mode & 0o077) == 0

        again = launch.prepare(small_sweep(), "ssh", options(box), limits, storage)
        assert again.is_up
        elsewhere = open_storage(str(tmp_path / "elsewhere"))
        other = launch.prepare(small_sweep(), "ssh", options(box), limits, elsewhere)
        with pytest.raises(CloudError, match="has a deployment 'small' already"):
            launch.up(other, elsewhere, "small.yaml")
        elsewhere.delete(deployments.key_of("small"))

        backend, found = launch.reopen("small", elsewhere, options(box))
        assert found.machines == up.machines and found.options.hosts == ("box",)
        assert isinstance(backend, RemoteRecords)
        receipt = backend.receipt(found)
        assert receipt.machine_hours > 0 and receipt.busy_hours == 0 and receipt.trials == 0
        assert receipt.unknown == ()
        assert processes.end(place, processes.TIMER, 5.0)  # as if the machine had been started again
        [warning] = backend.receipt(found).unknown
        assert "timer is not running" in warning
        there = open_storage(up.storage)
        deployments.change(there, "small", lambda record: record.model_copy(update={"state": "ended"}))
        with pytest.raises(
            CloudError, match="deployment 'small' has ended"
        ):  # by the timer, which the laptop cannot know
            launch.prepare(small_sweep(), "ssh", options(box), limits, storage)
        deployments.change(there, "small", lambda record: record.model_copy(update={"state": "up"}))
        assert receipt.usd == pytest.approx(3.6 * receipt.machine_hours)
        told = launch_file.load(place)
        assert told.limits == limits and told.machines == up.machines
        assert ((place / "launch.json").stat().st_mode & 0o077) == 0
        launch.down("small", storage, keep=True)
        again = launch.prepare(small_sweep(), "ssh", options(box), limits, storage)
        up = launch.up(again, storage, "small.yaml")
        assert up.state == "up" and up.created_s > prepared.deployment.created_s
    finally:
        ended, closing = launch.down("small", storage, keep=False)
    assert ended.state == "down" and ended.machines[0].down_s is not None
    assert not processes.is_alive(place, processes.TIMER) and box.left() == []
    assert [text for text in closing.left if "bills" not in text] == []
    with pytest.raises(CloudError, match="down already"):
        launch.down("small", storage, keep=False)


def test_of_two_computers_that_launch_at_once_one_gets_the_machine(box: Box) -> None:
    place = f"{box.home}/.trm-cloud/deployments/small"
    plain = {"name": "small", "backend": "ssh", "storage": "/x"}
    launches = [Deployment(**plain, created_s=1000.0 + number) for number in range(4)]

    def try_one(one: Deployment) -> bool:
        with Connection("box", box.config) as connection:
            try:
                claim_name(connection, place, one)
            except CloudError as error:
                assert "has a deployment 'small' already" in str(error) and f"rm -r {place}" in str(error)
                return False
        return True

    with ThreadPoolExecutor() as pool:
        won = list(pool.map(try_one, launches))
    assert sum(won) == 1
    assert [try_one(one) for one in launches] == won, "the same launch may go on"
    shutil.rmtree(box.home / ".trm-cloud")


def test_machine_without_a_gpu_takes_the_build_of_torch_without_cuda(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "requirements", lambda _: [])  # the real ones are 2 GB
    place = tmp_path / "top/deployments/s"
    (place / "project").mkdir(parents=True)
    (place / "project/constraints.txt").write_text("torch==2.13.0\n")
    plain = Options(hosts=("box",), ssh_config=box.config, python=sys.executable)
    scripts: list[str] = []

    class Noted(Connection):
        def run(self, script: str, data: bytes | None = None, **more: Any) -> Result:
            scripts.append(script)
            return super().run(script.replace(" pip install", " no_such_module"), data, **more)

    with Noted("box", box.config) as connection:
        found = inspect(connection, sys.executable)._replace(num_gpus=0)
        with pytest.raises(CloudError):
            install(connection, str(tmp_path / "top"), str(place), found, plain)
        script, second = [each for each in scripts if " pip install" in each]
        assert "whl/cpu" not in second, "where the build is not to be had, the default one is installed"
        assert "--index-url https://download.pytorch.org/whl/cpu" in script and script.endswith("|| true")
        assert f"grep '^torch==' {place}/project/constraints.txt" in script
        scripts.clear()
        with pytest.raises(CloudError):
            install(connection, str(tmp_path / "top"), str(place), found._replace(num_gpus=1), plain)
        assert not [each for each in scripts if "whl/cpu" in each]
    names = {environment_name(find_project(), "3.11", build) for build in ("", " cpu")}
    assert len(names) == 2, "machines with a common home folder may differ"


def test_machine_that_is_gone_is_forgotten(box: Box, storage: Storage) -> None:
    prepared = launch.prepare(small_sweep(), "ssh", options(box), Limits(), storage)
    deployments.save(storage, prepared.deployment.model_copy(update={"state": "up", "place": "/gone"}))
    with pytest.raises(CloudError, match="is up on box"):
        launch.prepare(small_sweep(), "ssh", options(box, hosts=("other",)), Limits(), storage)
    ended, _ = launch.down("small", storage, keep=False, forget=True)
    assert ended.state == "down"


def test_budget_without_a_price_is_refused(box: Box, storage: Storage) -> None:
    with pytest.raises(CloudError, match="price of the machines is unknown"):
        launch.prepare(small_sweep(), "ssh", options(box, usd_per_hour=None), Limits(max_usd=5), storage)
    priced = launch.prepare(small_sweep(), "ssh", options(box, usd_per_hour=None), Limits(), storage).quote
    assert priced.usd is None and priced.usd_per_hour is None
    assert any("price of box: unknown" in text for text in priced.unknown)


def test_several_machines_need_a_storage_that_all_reach(storage: Storage) -> None:
    with pytest.raises(CloudError, match=r"2 machines need a storage that all of them reach.*s3://"):
        SshBackend(Options(hosts=("a", "b")), storage)


def test_several_machines_are_offered_one_by_one(box: Box, other: Box, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(Path(box.config).read_text() + Path(other.config).read_text())
    remote = open_storage("s3://bucket/records")  # not asked

    def backend(*hosts: str) -> SshBackend:
        return SshBackend(options(box, hosts=hosts, ssh_config=str(config)), remote)

    offers = backend("box", "other").offers(small_sweep())
    assert [(offer.machine, offer.usd_per_hour, offer.count) for offer in offers] == [
        ("box", 3.6, 1),
        ("other", 3.6, 1),
    ]
    with pytest.raises(CloudError, match="box is named twice"):
        backend("box", "box").offers(small_sweep())
    with pytest.raises(CloudError, match="no machine that ssh can reach"):
        backend("box", "a b").offers(small_sweep())


def test_machines_that_form_no_cluster_are_refused() -> None:
    first = Found("/home/a", 8, 10**12, "3.11.2", "H100", 8, "one boot")
    require_alike(["a", "b"], [first, first._replace(home="/home/b")])
    require_alike(["a", "b"], [first, first._replace(machine="two boot")])
    with pytest.raises(CloudError, match="a and b are the same machine"):
        require_alike(["a", "b"], [first, first])
    with pytest.raises(CloudError, match=r"a has Python 3\.11\.2 and b has 3\.12\.1, and Ray needs one version"):
        require_alike(["a", "b"], [first, first._replace(machine="two boot", python="3.12.1")])


def test_machine_that_cannot_be_reached_does_not_keep_the_others_from_being_ended(box: Box) -> None:
    place = box.home / ".trm-cloud/deployments/s"
    for folder in (place, place / "worker-2"):  # as with a common home folder
        folder.mkdir(parents=True)
    gone = Worker(host="127.0.0.1:1", place="/home/me/.trm-cloud/deployments/s/worker-1", interpreter="/env/bin/python")
    near = Worker(host="box", place=str(place / "worker-2"))
    record = Deployment(
        name="s",
        backend="ssh",
        storage="s3://b/p",
        created_s=1.0,
        place=str(place),
        interpreter="/env/bin/python",
        workers=(gone, near),
    )
    found = Options(hosts=("box", "127.0.0.1:1", "box"), ssh_config=box.config)
    closing = SshBackend(found, open_storage("s3://b/p")).down(record, keep=False)
    [left] = [text for text in closing.left if "bills" not in text]
    assert left.startswith("127.0.0.1:1:/home/me/.trm-cloud/deployments/s/worker-1 (127.0.0.1:1 cannot be reached)")
    assert "ssh -p 1 127.0.0.1 " in left and "end-ray" in left and "rm -rf" in left
    removed = [text.partition(",")[0] for text in closing.ended]
    assert f"removed box:{place}" in removed and f"removed box:{place}/worker-2" in removed
    assert box.left() == []

    away = SshBackend(Options(hosts=("127.0.0.1:1", "box"), ssh_config=box.config), open_storage("s3://b/p"))
    (place / "worker-2").mkdir(parents=True)
    with pytest.raises(CloudError, match=r"127\.0\.0\.1:1 cannot be reached; .*removed box:"):
        away.down(record.model_copy(update={"workers": (near,)}), keep=False)
    assert box.left() == []


def test_only_tracked_files_that_are_no_secrets_are_uploaded(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "",
        "code.py": "x",
        ".env": "KEY=1",
        "deploy.pem": "k",
        "results.csv": "1",
        ".gitignore": "*.log",
        "a.log": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "pyproject.toml", "code.py", ".env", "deploy.pem", ".gitignore"], check=True)
    (tmp_path / "code.py").write_text("changed")
    found = find_project(tmp_path)
    assert found.files == (".gitignore", "code.py", "pyproject.toml")
    assert found.held_back == (".env", "deploy.pem") and found.num_untracked == 1
    assert ".env" in str(found) and "1 untracked file" in str(found)
    pack(found, tmp_path / "p.tar")
    assert b"changed" in (tmp_path / "p.tar").read_bytes() and b"KEY=1" not in (tmp_path / "p.tar").read_bytes()


def test_a_program_from_a_wheel_uploads_the_files_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "orchestrator/__init__.py": "",
        "orchestrator/_infra/constraints.txt": "torch==2.13.0\n",
        "trm_model/__init__.py": "",
        "other/secret.py": "KEY = 1",
        "trm_orchestrator-9.dist-info/METADATA": "Name: trm-orchestrator\nVersion: 9\nRequires-Dist: torch\n"
        "Requires-Dist: ruff; extra == 'dev'\n",
        "trm_orchestrator-9.dist-info/RECORD": "orchestrator/__init__.py,,\norchestrator/_infra/constraints.txt,,\n"
        "trm_model/__init__.py,,\norchestrator/old.py,,\n../../bin/trm,,\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    wheel = PathDistribution(tmp_path / "trm_orchestrator-9.dist-info")
    monkeypatch.setattr(project, "distribution", lambda _: wheel)
    found = find_project(tmp_path)
    assert set(found.files) == {name for name in files if not name.startswith(("other", "trm_orch"))}
    assert requirements(found) == ["torch"] and "trm-orchestrator 9, as installed" in str(found)
    before = environment_name(found, "3.11")
    (found.root / found.constraints).write_text("torch==2.14.0\n")
    assert environment_name(found, "3.11") != before
    with pytest.raises(CloudError, match="from its source"):
        monkeypatch.setattr(local_copy, "find_project", lambda: found)
        local_copy.copy_project(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_sweep_that_reads_a_file_of_this_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "puzzles.txt").write_text("")
    require_portable(small_sweep())
    weights = tmp_path / "start.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CloudError, match=r"start\.safetensors, which is not uploaded"):
        require_portable(small_sweep(**{"train.start_from": f"{weights}#sha256={'0' * 64}"}))
    with pytest.raises(CloudError, match=r"puzzles\.txt, which is not uploaded"):
        require_portable(small_sweep(**{"data.source": str(tmp_path / "puzzles.txt")}))


def test_environment_is_made_once_for_the_same_requirements(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "requirements", lambda _: [])  # the real ones are 2 GB
    place = tmp_path / "top/deployments/s"
    (place / "project").mkdir(parents=True)
    (place / "project/constraints.txt").write_text("")
    plain = Options(hosts=("box",), ssh_config=box.config, python=sys.executable)
    with Connection("box", box.config) as connection:
        found = inspect(connection, sys.executable)
        interpreter = install(connection, str(tmp_path / "top"), str(place), found, plain)
        assert Path(interpreter).is_relative_to(tmp_path / "top/environments") and Path(interpreter).exists()
        complete = Path(interpreter).parents[1] / "complete"
        before = complete.stat().st_mtime_ns
        assert install(connection, str(tmp_path / "top"), str(place), found, plain) == interpreter
        assert complete.stat().st_mtime_ns == before
        newer = found._replace(python="3.99.0")
        assert install(connection, str(tmp_path / "top"), str(place), newer, plain) != interpreter


@pytest.mark.slow
def test_packages_that_cannot_be_installed_are_one_line(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "requirements", lambda _: ["./no-such-package"])
    place = tmp_path / "top/deployments/s"
    (place / "project").mkdir(parents=True)
    (place / "project/constraints.txt").write_text("")
    plain = Options(hosts=("box",), ssh_config=box.config, python=sys.executable)
    with Connection("box", box.config) as connection:
        found = inspect(connection, sys.executable)
        with pytest.raises(CloudError, match=r"box: ERROR: .*no-such-package"):
            install(connection, str(tmp_path / "top"), str(place), found, plain)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's own files lie."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_record_of_others_decides_nothing_that_runs(box: Box, state: Path, tmp_path: Path) -> None:
    storage, marker = open_storage(str(tmp_path / "runs")), tmp_path / "executed"
    config = tmp_path / "config"
    config.write_text(f"Host *\n  ProxyCommand touch {marker}\n")
    payload = tmp_path / "payload"
    payload.write_text(f"#!/bin/sh\ntouch {marker}\n")
    payload.chmod(0o755)
    plain = {"name": "small", "backend": "ssh", "storage": f"{tmp_path}/runs", "created_s": 1.0, "is_remote": True}
    machine = Machine(name="box", usd_per_hour=1.0, up_s=1.0)
    for options in (
        Options(hosts=("box",), ssh_config=str(config)),
        Options(hosts=("box",), ssh_config=box.config),
        Options(hosts=("box",), ssh_config=box.config, end_command=f"touch {marker}"),
    ):
        record = Deployment(
            **plain, options=options, state="up", machines=(machine,), place=str(tmp_path), interpreter=str(payload)
        )
        storage.write(deployments.key_of("small"), to_json_bytes(record.plain()))
        for open_it in (launch.reopen, lambda name, storage: launch.down(name, storage, keep=False), launch.find_up):
            with pytest.raises(CloudError, match=r"no command of yours .*: trm cloud status small box"):
                open_it("small", storage)
        named = Options(hosts=("box",), ssh_config=box.config)
        with pytest.raises(CloudError, match="has nothing of 'small' any more"):  # whatever the record says
            launch.prepare(small_sweep(), "ssh", named, Limits(), storage)
        own.forget(storage, "small")
    assert not marker.exists()


def test_launch_of_another_computer_is_found_after_ones_own_is_down(box: Box, state: Path, tmp_path: Path) -> None:
    storage, place = open_storage(str(tmp_path / "runs")), box.home / ".trm-cloud/deployments/small"
    plain = {"name": "small", "backend": "ssh", "storage": f"{place}/runs", "is_remote": True}
    mine = Deployment(**plain, created_s=1.0, state="down", options=Options(hosts=("box",)))
    deployments.save(storage, mine)
    named = Options(hosts=("box",), ssh_config=box.config)
    assert launch.reopen("small", storage)[1] == mine
    assert launch.reopen("small", storage, named)[1].state == "down", "nothing of it is there"
    there = open_storage(f"{place}/runs")
    deployments.save(there, Deployment(**plain, created_s=2.0, state="submitted"))
    try:
        _, found = launch.reopen("small", storage, named)
        assert (found.created_s, found.state, found.place) == (2.0, "submitted", str(place))
        _, closing = launch.down("small", storage, keep=False)
        assert f"removed box:{place}" in " ".join(closing.ended) and box.left() == []
    finally:
        shutil.rmtree(box.home / ".trm-cloud", ignore_errors=True)


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    record = Deployment(name="big", backend="aws", storage="s3://b/p", created_s=1.0, state="down")
    storage.write(deployments.key_of("small"), to_json_bytes(record.plain()))
    with pytest.raises(CloudError, match="is the record of another deployment, 'big'"):
        deployments.find(storage, "small")


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    record = Deployment(name="small", backend="aws", storage="s3://b/p", created_s=1.0, state="down").plain()
    storage.write(deployments.key_of("small"), to_json_bytes({**record, "version": 2}))
    with pytest.raises(CloudError, match=r"small\.json is not a record.*version.*\. Use the version that wrote it"):
        deployments.find(storage, "small")


@pytest.mark.parametrize("values", [{"up_s": float("inf")}, {"up_s": -1e308}, {"usd_per_hour": float("nan")}])
def test_numbers_that_cannot_be_are_refused(values: dict[str, float], tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    record = {
        "name": "s",
        "backend": "ssh",
        "storage": "/x",
        "created_s": 1.0,
        "machines": [{"name": "b", "up_s": 1.0}],
    }
    record["machines"] = [{"name": "b", "up_s": 1.0} | values]
    storage.write(deployments.key_of("s"), json.dumps(record).encode())
    with pytest.raises(CloudError, match=r"s\.json is not a record of a deployment"):
        deployments.find(storage, "s")


def test_the_end_command_is_in_no_record(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    options = Options(hosts=("box",), end_command="curl -H 'Authorization: Bearer hunter2hunter2' https://cloud")
    record = Deployment(name="s", backend="ssh", storage="/x", created_s=1.0, options=options)
    deployments.save(storage, record)
    assert b"hunter2" not in storage.read(deployments.key_of("s"))


@pytest.mark.parametrize(
    "answer",
    ["", "python=abc\nhome=/h", "python=3.11.7", "home=/h\npython=3.11.7\ncores=many\nfree=-", "home=/h\npython=3.1"],
)
def test_a_machine_that_answers_nonsense_is_one_line(answer: str) -> None:
    class Odd(Connection):
        def run(self, script: str, data: bytes | None = None, **options: Any) -> Result:
            return Result(0, answer, "")

    try:
        found = inspect(Odd("box"), "python3")
    except CloudError as error:
        assert "\n" not in str(error) and "box" in str(error)
    else:
        assert (found.cores, found.free_bytes) == (1.0, 0)


def test_a_record_does_not_choose_what_is_removed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "runs"))
    record = Deployment(name="s", backend="ssh", storage="/x", created_s=1.0, state="submitted")
    backend = SshBackend(Options(hosts=("box",)), storage)
    for place in ("/home/me", "/home/me/.trm-cloud/deployments/other", "/home/me/x/deployments/s"):
        with pytest.raises(CloudError, match="only a folder below"):
            backend.down(record.model_copy(update={"place": place}), keep=False)
    own = "/home/me/.trm-cloud/deployments/s"
    for place in ("/", own, f"{own}/worker-1/..", f"{own}/../t/worker-1", f"{own}/worker-x", "/deployments/s/worker-1"):
        worker = Worker(host="box", place=place)
        with pytest.raises(CloudError, match="only a folder below"):
            backend.down(record.model_copy(update={"place": own, "workers": (worker,)}), keep=False)
