"""A run in several processes whose parts die, fail or are abandoned: nothing hangs and nothing stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.infra import wait_until_ended
from tests.trm_model.test_train import crew_of, tiny
from trm_data import Dataset, build
from trm_data.errors import ConfigError, UserError, is_out_of_space
from trm_data.files import private_folder
from trm_model.checkpoints.store import LocalCheckpoints
from trm_model.training.events import Started
from trm_model.training.launch import ProcessLostError, train_in_processes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tiny().data.request(), tmp_path_factory.mktemp("data"))


def name_of_a_dead_process() -> str:
    """Return the name of a temporary file whose owner has ended."""
    command = [sys.executable, "-c", "from trm_data.files import temporary_name; print(temporary_name())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def listening(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses on which processes accept TCP connections."""
    sockets = [each for process in processes for each in process.net_connections("tcp")]
    return {str(each.laddr.ip) for each in sockets if each.status == psutil.CONN_LISTEN}


def test_death_of_a_process_ends_all_and_is_told(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(train={"max_steps": 100_000}, runtime={"evaluate_every": 100_000, "log_every": 5})
    store = LocalCheckpoints(tmp_path)
    rendezvous = private_folder("ranks")
    left = rendezvous / name_of_a_dead_process()
    left.touch()
    running = train_in_processes(config, dataset, processes=2, checkpoints=store)
    assert isinstance(next(running), Started)
    next(running)
    assert not left.exists(), "what a killed run left"
    crew = crew_of()
    assert len(crew) == 2
    assert listening([*crew, psutil.Process()]) <= {"127.0.0.1", "::1"}, "nobody else may connect"
    crew[1].send_signal(signal.SIGKILL)
    with pytest.raises(ProcessLostError, match=r"process 1 of 2 died with signal 9\. Start the run again"):
        list(running)
    assert not crew_of() and not list(rendezvous.glob(f"*{os.getpid()}*"))


class FullCheckpoints(LocalCheckpoints):
    """Checkpoints on a disk that is full, which another library says in its own way."""

    def names(self) -> list[str]:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise LookupError("no names") from None


def test_error_of_a_process_keeps_what_it_came_from(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="no names") as raised:
        list(train_in_processes(tiny(), dataset, processes=2, checkpoints=FullCheckpoints(tmp_path)))
    assert is_out_of_space(raised.value) and "in names" in raised.value.__notes__[0]


CALLER = """
import sys
from pathlib import Path
from trm_data import open_dataset
from trm_model.checkpoints.store import LocalCheckpoints
from trm_model.config import TrialConfig
from trm_model.training.launch import train_in_processes

config, data, folder = TrialConfig.model_validate_json(sys.argv[1]), open_dataset(Path(sys.argv[2])), Path(sys.argv[3])
for event in train_in_processes(config, data, processes=2, checkpoints=LocalCheckpoints(folder)):
    print(event.step, flush=True)
"""


def test_killed_caller_leaves_no_process_behind(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny(train={"max_steps": 100_000}, runtime={"evaluate_every": 100_000})
    command = [sys.executable, "-c", CALLER, config.model_dump_json(), str(dataset.path), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        crew = crew_of(caller.pid)
        assert len(crew) == 2
        caller.kill()
    wait_until_ended(crew)


@pytest.mark.slow
def test_abandoned_run_leaves_no_process_behind(dataset: Dataset, tmp_path: Path) -> None:
    running = train_in_processes(tiny(), dataset, processes=2, checkpoints=LocalCheckpoints(tmp_path))
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not crew_of()


def test_mistake_found_by_a_process_is_the_callers_own_error(dataset: Dataset, tmp_path: Path) -> None:
    config, store = tiny(), LocalCheckpoints(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.batch_size=8 cannot be shared evenly by 3 processes"):
        next(train_in_processes(config, dataset, processes=3, checkpoints=store))
    store.write("step-00000001.safetensors", b"PK of another program")
    with pytest.raises(UserError, match=r"step-00000001\.safetensors is not a checkpoint"):
        list(train_in_processes(config, dataset, processes=2, checkpoints=store))
    assert not crew_of()
