"""What importing a module costs, and the old path of `Recursion`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trm_data.errors import ConfigError
from trm_model.config import TrainConfig
from trm_model.device import DTYPES, resolve_device


@pytest.mark.parametrize("module", ["trm_model", "trm_model.config", "trm_model.cost", "trm_model.recipes"])
def test_planning_loads_no_torch(module: str) -> None:
    """`trm sweep plan` and the reports need settings and formulas only."""
    code = f"import sys, {module}; print(sorted({{'torch', 'numba', 'pyarrow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_old_path_of_recursion_works_with_a_warning() -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    from trm_model.recursion import Recursion\n"
        "import trm_model\n"
        "assert Recursion is trm_model.Recursion\n"
        "print(seen[0].category.__name__, seen[0].message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DeprecationWarning trm_model.recursion is now trm_model.model.recursion")


def test_every_precision_has_a_type_and_devices_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DTYPES.keys() == set(TrainConfig.model_fields["dtype"].annotation.__args__)  # type: ignore[union-attr]
    assert resolve_device("cpu") == torch.device("cpu")
    for available, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto") == torch.device(expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no usable CUDA device"):
        resolve_device("cuda")
