"""Two processes with half the batch each follow one process with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from test_model_train import TINY, assert_close, final_tensors, run, tiny

from trm_data import build

PROGRAM = """
import sys
from pathlib import Path
import torch.distributed as dist
from trm_data import open_dataset
from trm_model.checkpoint import LocalCheckpoints
from trm_model.config import TrialConfig
from trm_model.train import train

config, data, folder, rank = TrialConfig.model_validate_json(sys.argv[1]), *sys.argv[2:5]
dist.init_process_group("gloo", init_method=f"file://{folder}.rendezvous", rank=int(rank), world_size=2)
for event in train(config, open_dataset(Path(data)), checkpoints=LocalCheckpoints(Path(folder))):
    pass
dist.destroy_process_group()
"""


def test_two_processes_follow_one_over_twenty_steps(tmp_path: Path) -> None:
    config = tiny(train={"max_steps": 20}, optimizer={"lr": 5e-4}, runtime={"evaluate_every": 20})
    dataset = build(config.data.request(), tmp_path / "data")
    run(config, dataset, tmp_path / "one")
    arguments = [config.model_dump_json(), str(dataset.path), str(tmp_path / "two")]
    ranks = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments, str(rank)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert_close(one, two)
    assert one["carry/halted_B"].shape == (TINY["train"]["batch_size"],)
