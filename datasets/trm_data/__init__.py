"""Build, load, augment and draw puzzle data. Imports nothing of the layers above.

    dataset = build(DataRequest(benchmark="sudoku-6x6"), Path("data"))
    loader = TrainLoader(dataset, batch_size=64, num_augmentations=100, seed=0)
    batch = loader.fetch(step=0, slots=np.arange(64))

Names are imported when they are first used: `import trm_data` loads neither numba nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm_data.benchmarks import Benchmark, list_benchmarks, resolve_benchmark
    from trm_data.building.build import build, import_official, open_dataset
    from trm_data.building.identity import find, fingerprint
    from trm_data.building.official_export import export
    from trm_data.config import DataConfig, DataRequest
    from trm_data.dataset.loader import Batch, EvalBatch, TrainLoader, eval_batches
    from trm_data.dataset.prefetch import Prefetcher
    from trm_data.dataset.reader import Dataset
    from trm_data.dataset.render import draw, save_png
    from trm_data.dataset.verification import verify

_HOMES = {
    "benchmarks": ("Benchmark", "list_benchmarks", "resolve_benchmark"),
    "building.build": ("build", "import_official", "open_dataset"),
    "building.identity": ("find", "fingerprint"),
    "config": ("DataConfig", "DataRequest"),
    "dataset.reader": ("Dataset",),
    "dataset.loader": ("Batch", "EvalBatch", "TrainLoader", "eval_batches"),
    "building.official_export": ("export",),
    "dataset.prefetch": ("Prefetcher",),
    "dataset.render": ("draw", "save_png"),
    "dataset.verification": ("verify",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "Benchmark",
    "DataConfig",
    "DataRequest",
    "Dataset",
    "EvalBatch",
    "Prefetcher",
    "TrainLoader",
    "build",
    "draw",
    "eval_batches",
    "export",
    "find",
    "fingerprint",
    "import_official",
    "list_benchmarks",
    "open_dataset",
    "resolve_benchmark",
    "save_png",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
