"""A built dataset, mapped into memory. Cheap to open, safe to send to another process, never changed."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trm_data.dataset.integrity import order_of, read_checked
from trm_data.dataset.manifest import AUGMENTATIONS, Augmentation, Manifest
from trm_data.dataset.schema import SPLITS
from trm_data.errors import ConfigError, nearest
from trm_data.jit import Bytes, Words
from trm_data.puzzles.arc import MOST_AUGMENTATIONS
from trm_data.puzzles.symmetry import augmentation_name

MOST_DERIVED = 2**31
"""Augmented copies of a Sudoku, each derived from the puzzle's key and the number of the copy."""


class Dataset:
    """P puzzles with E examples of L cells; see `schema.py` for the columns.

    Its files are as they were built and every value is in range, see `integrity.py`: the kernels rely on it.

    Raises:
        DataError: the folder is no dataset, is damaged or changed, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = Manifest.read(path)
        content = read_checked(path, self.manifest)
        self._content = content
        self.names: list[str] = content.puzzles.column("name").to_pylist()
        self.keys: Words = content.keys
        self.puzzle: NDArray[np.int32] = content.puzzle
        self.split: Bytes = content.split
        self.inputs: Bytes = content.inputs
        self.labels: Bytes = content.labels
        self.shapes: Bytes = content.shapes

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path]]:
        return Dataset, (self.path,)  # the other process maps the same files

    @property
    def fingerprint(self) -> str:
        """Return sha256 of the request, the source bytes and the builder version."""
        return self.manifest.fingerprint

    @property
    def benchmark(self) -> str:
        """Return the name under which results are ranked."""
        return self.manifest.benchmark

    @property
    def generated(self) -> bool:
        """Return whether the puzzles were made here: such results are never ranked with published ones."""
        return self.manifest.generated

    @property
    def vocab_size(self) -> int:
        """Return the number of distinct cell values, padding 0 included."""
        return self.manifest.vocab_size

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Return rows and columns of the grid that a model reads."""
        return self.manifest.grid_shape

    @property
    def seq_len(self) -> int:
        """L: cells per example."""
        return self.grid_shape[0] * self.grid_shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of puzzles per split."""
        return self.manifest.counts

    @cached_property
    def is_answered(self) -> NDArray[np.bool_]:
        """Return (E) whether the answer of every example is known. Only test inputs of ARC tasks may come without one.

        The shape decides, not the cells: an unknown answer is a grid of 0x0, and its label of padding alone would also
        match a model that answers nothing.
        """
        known: NDArray[np.bool_] = self.shapes[:, 2] > 0
        return known

    @property
    def num_unanswered(self) -> dict[str, int]:
        """Return the number of examples per split whose answer is not known; they are in no score."""
        counts = np.bincount(self.split[~self.is_answered], minlength=len(SPLITS))
        return dict(zip(SPLITS, counts.tolist(), strict=True))

    @property
    def augmentation(self) -> Augmentation:
        """Return the kind of symmetry that augmented copies are drawn from."""
        return self.manifest.augmentation

    @cached_property
    def codes(self) -> tuple[Words, NDArray[np.int64]]:
        """Return the listed augmentations: codes, and P + 1 bounds of every puzzle's part of them."""
        codes, owners = self._content.codes, self._content.owners
        assert codes is not None and owners is not None, "available only where augmentations are listed"
        return codes, np.searchsorted(owners, np.arange(len(self.names) + 1)).astype(np.int64)

    @property
    def num_listed(self) -> NDArray[np.int64]:
        """Return (P) the number of listed augmentations of every puzzle."""
        return np.diff(self.codes[1])

    @property
    def places(self) -> NDArray[np.uint16] | None:
        """Return the listed translations of augmented training examples, or None where they are derived."""
        return self._content.places

    @cached_property
    def place_starts(self) -> NDArray[np.int64]:
        """Return (P) where the listed translations of every puzzle begin."""
        trained = np.bincount(self.puzzle[self.split == 0], minlength=len(self.names))
        sizes: NDArray[np.int64] = trained * (1 + self.num_listed)
        return np.cumsum(sizes) - sizes

    @property
    def is_listed(self) -> bool:
        """Return whether augmentations are listed, not derived from the puzzle's key."""
        return AUGMENTATIONS in self.manifest.files

    @property
    def has_identifiers(self) -> bool:
        """Return whether puzzles have embeddings of their own (ARC); otherwise all share row 0."""
        return self.manifest.ids != "shared"

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Return the examples of some splits, in order.

        Raises:
            ConfigError: there is no such split, or all of them are empty.
        """
        for split in splits:
            if split not in SPLITS:
                raise ConfigError(f"unknown split {split!r}", nearest(split, SPLITS))
        rows = np.flatnonzero(np.isin(self.split, [SPLITS.index(split) for split in splits]))
        if not rows.size:
            named = " or ".join(splits)
            raise ConfigError(f"{self.benchmark} has no {named} puzzles", f"Build it with num_{splits[0]} above 0")
        return rows

    def puzzle_index(self, puzzle: int | str) -> int:
        """Return the number of a puzzle given by name or number.

        Raises:
            ConfigError: there is no such puzzle.
        """
        if isinstance(puzzle, str) and puzzle in self.names:
            return self.names.index(puzzle)
        if isinstance(puzzle, int) or puzzle.isdecimal():
            if 0 <= int(puzzle) < len(self.names):
                return int(puzzle)
            raise ConfigError(f"no puzzle {puzzle} in {self.benchmark}", f"It has 0 to {len(self.names) - 1}")
        raise ConfigError(f"no puzzle {puzzle!r} in {self.benchmark}", nearest(puzzle, self.names))

    def split_of(self, row: int) -> str:
        """Return the split of an example."""
        return SPLITS[self.split[row]]

    def title(self, puzzle: int) -> str:
        """Return a line that names a puzzle: benchmark, name, source and rating."""
        source, rating = (self._content.puzzles.column(name)[puzzle].as_py() for name in ("source", "rating"))
        rated = "" if rating is None else f", rating {rating:g}"
        return f"{self.benchmark}   {self.names[puzzle]}   ({source}{rated})"

    def check_augmentations(self, num_augmentations: int) -> None:
        """Raises ConfigError if this dataset cannot serve so many augmented copies."""
        most = {"none": 0, "dihedral": 7, "arc": MOST_AUGMENTATIONS, "sudoku": MOST_DERIVED}[self.augmentation]
        if self.is_listed and self.manifest.ids != "native":
            most = int(self.num_listed.max(initial=0))
        if not 0 <= num_augmentations <= most:
            raise ConfigError(
                f"num_augmentations={num_augmentations} is not possible for {self.benchmark}", f"Take 0 to {most}"
            )

    def num_views(self, num_augmentations: int) -> NDArray[np.int64]:
        """Return (P) augmented views for a vote, the original apart, when `num_augmentations` are requested.

        Puzzles with an embedding of their own (ARC) have the views that were listed for them. Puzzles that share an
        embedding can be seen through any symmetry, whatever copies an imported dataset lists for training.

        Raises:
            ConfigError: there are fewer symmetries than that.
        """
        if self.has_identifiers:
            return self.num_copies(num_augmentations)
        most = order_of(self.manifest) - 1 if self.augmentation == "dihedral" else MOST_DERIVED
        if not 0 <= num_augmentations <= most:
            raise ConfigError(
                f"{self.benchmark} has no {num_augmentations} augmented views of a puzzle", f"Take 0 to {most}"
            )
        return np.full(len(self.names), num_augmentations, np.int64)

    def num_copies(self, num_augmentations: int) -> NDArray[np.int64]:
        """Return (P) the augmented copies that every puzzle really has, the original apart."""
        self.check_augmentations(num_augmentations)
        if not self.is_listed:
            return np.full(len(self.names), num_augmentations, np.int64)
        return np.minimum(self.num_listed, num_augmentations)

    def identifier_maps(self, num_augmentations: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return embedding rows: `layers[k] + ranks[p]` is the row of copy k of puzzle p; row 0 is blank.

        Native rows are augmentation-major and puzzles ranked by how many copies they have, so that every layer is
        gapless and the rows for 10 augmentations are the first rows of those for 1000. Upstream rows are puzzle-major
        and always those of the whole build.

        Returns:
            layers (num_augmentations + 1), ranks (P).
        """
        copies = self.num_copies(num_augmentations)
        listed = self.num_listed
        if self.manifest.ids == "upstream":
            return np.arange(num_augmentations + 1), 1 + np.cumsum(listed + 1) - (listed + 1)
        ranks = np.empty(len(copies), np.int64)
        ranks[np.argsort(-listed, kind="stable")] = np.arange(len(copies))
        sizes = [int((copies >= k).sum()) for k in range(num_augmentations)]
        return np.cumsum([1, *sizes]), ranks

    def num_identifiers(self, num_augmentations: int) -> int:
        """Return the number of rows of the embedding table, the blank row 0 included; 1 where puzzles share it."""
        if not self.has_identifiers:
            return 1
        copies = self.num_copies(num_augmentations)
        if self.manifest.ids == "upstream":
            copies = self.num_listed
        return int(1 + (copies + 1).sum())

    def identifier_of(self, puzzle: int) -> int:
        """Return the embedding row of a puzzle as it is, without augmentation; 0 where puzzles share it."""
        if not self.has_identifiers:
            return 0
        layers, ranks = self.identifier_maps(0)
        return int(layers[0] + ranks[puzzle])

    def identifiers(self, num_augmentations: int) -> list[str]:
        """Return what every embedding row stands for, in the official notation; row 0 is `<blank>`.

        Raises:
            ConfigError: puzzles share their embedding.
        """
        if not self.has_identifiers:
            raise ConfigError(f"the puzzles of {self.benchmark} share one identifier")
        layers, ranks = self.identifier_maps(num_augmentations)
        codes, bounds = self.codes
        upstream = self.manifest.ids == "upstream"
        copies = np.diff(bounds) if upstream else self.num_copies(num_augmentations)
        names = ["<blank>"] * self.num_identifiers(num_augmentations)
        for p, puzzle in enumerate(self.names):
            listed = codes[bounds[p] : bounds[p] + copies[p]].tolist()
            for k, code in enumerate([0, *listed]):
                row = ranks[p] + (k if upstream else layers[k])
                names[row] = augmentation_name(puzzle, code)
        return names

    def id_map_hash(self, num_augmentations: int) -> str:
        """Names the meaning of every embedding row; equal only if row i is the same puzzle seen the same way."""
        if not self.has_identifiers:
            return "shared"
        layers, ranks = self.identifier_maps(num_augmentations)
        codes, bounds = self.codes
        upstream = self.manifest.ids == "upstream"
        copies = np.diff(bounds) if upstream else self.num_copies(num_augmentations)
        hasher = hashlib.sha256(b"upstream" if upstream else np.ascontiguousarray(layers).tobytes())
        for p in np.argsort(ranks):
            used = codes[bounds[p] : bounds[p] + copies[p]]
            hasher.update(self.names[p].encode() + b"\0" + used.tobytes())
        return hasher.hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Return what a trial's record says about its data."""
        manifest = self.manifest
        return {
            "benchmark": self.benchmark,
            "fingerprint": self.fingerprint,
            "generated": self.generated,
            "counts": dict(self.counts),
            "source": manifest.source,
            "licence": manifest.licence,
            "vocab_size": self.vocab_size,
            "grid_shape": list(self.grid_shape),
        }
