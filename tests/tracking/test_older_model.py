"""A model that commit a9a5703 has registered loads: it was registered with copies of the packages of that time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.older import unpack_older

LOAD = """
import json, sys
import numpy as np
import mlflow
uri, folder = sys.argv[1:]
client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
client.create_registered_model("trm-sudoku-4x4-generated")
client.create_model_version("trm-sudoku-4x4-generated", folder)
model = mlflow.pyfunc.load_model("models:/trm-sudoku-4x4-generated/1")
grids = np.random.default_rng(0).integers(1, 6, (3, 4, 4))
import trm_model
print(json.dumps({"answers": np.shape(model.predict(grids)), "code": trm_model.__file__}))
"""


def test_a_model_with_the_former_layout_of_the_packages_loads_and_answers(migrated: Path, tmp_path: Path) -> None:
    folder = unpack_older("model", tmp_path)
    assert (folder / "code" / "trm_model" / "think.py").exists(), "a module of the former layout"
    shutil.copy(migrated, tmp_path / "mlflow.db")
    arguments = [f"sqlite:///{tmp_path}/mlflow.db", str(folder)]
    done = subprocess.run([sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] == [3, 4, 4]
    assert Path(found["code"]).is_relative_to(folder), "its own copies, not the installed packages"
