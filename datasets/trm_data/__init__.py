"""Build, load, augment and draw puzzle data. Imports nothing of the layers above.

    dataset = build(DataRequest(benchmark="sudoku-6x6"), Path("data"))
    loader = TrainLoader(dataset, batch_size=64, num_augmentations=100, seed=0)
    batch = loader.fetch(step=0, slots=np.arange(64))

Names are imported when they are first used: `import trm_data` loads neither numba nor pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_data.lazy import lazy_names

if TYPE_CHECKING:
    from trm_data.benchmarks import Benchmark, list_benchmarks, resolve_benchmark
    from trm_data.building.build import build, import_official, open_dataset
    from trm_data.building.identity import find, fingerprint
    from trm_data.building.official_export import export_official
    from trm_data.config import DataConfig, DataRequest
    from trm_data.dataset.loader import Batch, EvalBatch, TrainLoader, eval_batches
    from trm_data.dataset.reader import Dataset
    from trm_data.dataset.render import draw, save_png
    from trm_data.dataset.verification import verify
    from trm_data.puzzles.kinds import PuzzleKind

__all__ = [
    "Batch",
    "Benchmark",
    "DataConfig",
    "DataRequest",
    "Dataset",
    "EvalBatch",
    "PuzzleKind",
    "TrainLoader",
    "build",
    "draw",
    "eval_batches",
    "export_official",
    "find",
    "fingerprint",
    "import_official",
    "list_benchmarks",
    "open_dataset",
    "resolve_benchmark",
    "save_png",
    "verify",
]

__getattr__ = lazy_names(
    globals(),
    {
        ".benchmarks": ("Benchmark", "list_benchmarks", "resolve_benchmark"),
        ".building.build": ("build", "import_official", "open_dataset"),
        ".building.identity": ("find", "fingerprint"),
        ".config": ("DataConfig", "DataRequest"),
        ".dataset.reader": ("Dataset",),
        ".dataset.loader": ("Batch", "EvalBatch", "TrainLoader", "eval_batches"),
        ".building.official_export": ("export_official",),
        ".dataset.render": ("draw", "save_png"),
        ".dataset.verification": ("verify",),
        ".puzzles.kinds": ("PuzzleKind",),
    },
)
