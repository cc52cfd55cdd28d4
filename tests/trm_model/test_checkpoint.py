"""Checkpoints of large tables: row deltas over a base, complete, atomic, shared by all that need it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records.checkpoints import StoredCheckpoints
from orchestrator.storage import open_storage
from tests.trm_model.test_train import assert_same, run, tiny
from trm_data import Dataset, build
from trm_model.checkpoints.run_checkpoints import RunCheckpoints
from trm_model.checkpoints.store import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    LocalCheckpoints,
    copy,
    newest_checkpoint,
    pack,
    read,
    read_header,
    unpack,
)
from trm_model.checkpoints.store import checkpoint_names as names_of
from trm_model.checkpoints.table_deltas import CHANGED_AT, TABLE, join
from trm_model.checkpoints.trained import load_trained
from trm_model.config import TrialConfig
from trm_model.training.events import Checkpointed

ROWS, WIDTH = 2048, 256  # two megabytes, twice what is worth a base

HEADER = {"config": {}, "id_map_hash": "", "vocab_size": 6, "seq_len": 16, "num_identifiers": 0}


class MemoryStore:
    """Files in a dict."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def read(self, name: str) -> bytes:
        return self.files[name]

    def names(self) -> list[str]:
        return sorted(self.files)

    def delete(self, name: str) -> None:
        del self.files[name]


class Run:
    """A run whose only state is a table, of which every step changes some rows."""

    def __init__(self, store: CheckpointStore) -> None:
        self.kept = RunCheckpoints(store)
        self.step = 0
        self.table, self.changed_at = torch.zeros(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.int32)
        found = self.kept.restore(lambda _: None)
        if found is not None:
            self.step = found.step
            self.table, self.changed_at = found.tensors[TABLE], found.tensors[CHANGED_AT]

    def change(self, rows: int) -> None:
        self.step += 1
        chosen = np.random.default_rng(self.step).permutation(ROWS)[:rows]
        self.table[chosen] += self.step
        self.changed_at[chosen] = self.step

    def save(self, keep: int = 2, best_step: int | None = None) -> int:
        state = Checkpoint({TABLE: self.table, CHANGED_AT: self.changed_at}, HEADER | {"step": self.step})
        written = self.kept.write(state)
        self.kept.prune(keep=keep, best_step=best_step)
        return written.num_bytes


def bases(store: CheckpointStore) -> list[str]:
    return [name for name in store.names() if name.startswith("base-")]


@settings(max_examples=12, deadline=None)
@given(
    changes=st.lists(st.tuples(st.sampled_from([0, 1, 40, 600, ROWS]), st.booleans(), st.booleans()), max_size=12),
    keep=st.integers(1, 3),
)
def test_every_kept_checkpoint_is_whole_whatever_was_changed_resumed_and_deleted(
    changes: list[tuple[int, bool, bool]], keep: int
) -> None:
    store = MemoryStore()
    running, tables, best = Run(store), {}, None
    for rows, is_best, resumes in changes:
        if resumes:
            running = Run(store)
        running.change(rows)
        best = running.step if is_best else best
        running.save(keep, best)
        tables[running.step] = running.table.clone()
        kept = [read(store, name) for name in names_of(store)]
        assert kept[-1].step == running.step
        assert len(kept) <= keep
        if best is not None and keep > 1:
            assert best in {checkpoint.step for checkpoint in kept}
        for checkpoint in kept:
            assert torch.equal(checkpoint.tensors[TABLE], tables[checkpoint.step])
        assert len(bases(store)) <= len(kept)


def test_checkpoints_are_small_while_few_rows_change_and_bytes_stay_near_the_least_possible() -> None:
    store = MemoryStore()
    running = Run(store)
    written = []
    for _ in range(200):
        running.change(ROWS // 100)
        written.append(running.save())
    whole = running.table.nbytes
    assert written[0] < 0.02 * whole
    # Deltas of 1 %, 2 %, ... over a base: the best is a base every sqrt(2 / 1 %) = 14 steps, 14 % of the table a step.
    assert sum(written) / len(written) < 1.25 * 0.14 * whole
    assert len(bases(store)) == 1


def test_unfinished_base_of_a_lost_attempt_is_not_taken_for_another_and_goes_away() -> None:
    store = MemoryStore()
    running = Run(store)
    running.change(ROWS)
    running.save()
    running.change(ROWS)
    running.kept.write(Checkpoint({TABLE: running.table, CHANGED_AT: running.changed_at}, HEADER | {"step": 2}))
    store.delete("step-00000002.safetensors")  # killed after the base and before the checkpoint
    again = Run(store)
    assert again.step == 1
    again.change(5)
    again.save()
    assert torch.equal(read(store, names_of(store)[-1]).tensors[TABLE], again.table)
    assert bases(store) == ["base-00000001.safetensors"]


def test_copied_checkpoint_takes_its_base_along() -> None:
    source, target = MemoryStore(), MemoryStore()
    running = Run(source)
    for rows in (ROWS, 7):
        running.change(rows)
        running.save()
    copy(source, names_of(source)[-1], target)
    assert target.names() == ["base-00000001.safetensors", "step-00000002.safetensors"]
    assert torch.equal(Run(target).table, running.table)


def test_base_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    """A checkpoint from somebody else may name any file of the reader's."""
    store = LocalCheckpoints(tmp_path / "checkpoints")
    running = Run(store)
    running.change(ROWS)
    running.save()
    name = names_of(store)[-1]
    (store.path / "base-00000001.safetensors").rename(tmp_path / "base-00000001.safetensors")
    data = store.read(name)
    header = read_header(data)
    header["table"]["base"]["name"] = "../base-00000001.safetensors"
    store.write(name, pack(safetensors.torch.load(data), header))
    target = MemoryStore()
    for act in (lambda: read(store, name), lambda: Run(store), lambda: copy(store, name, target)):
        with pytest.raises(CheckpointError, match="is not a base's name"):
            act()
    assert target.names() == []


@pytest.mark.parametrize("damage", ["missing", "changed", "cut"])
def test_missing_or_damaged_base_is_one_clear_line(damage: str, tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path)
    running = Run(store)
    running.change(ROWS)
    running.save()
    base = tmp_path / "base-00000001.safetensors"
    data = bytearray(base.read_bytes())
    data[-5] ^= 1
    base.write_bytes(data if damage == "changed" else data[:-7])
    words = r"base-00000001\.safetensors is damaged, and step-00000001\.safetensors needs it"
    if damage == "missing":
        base.unlink()
        words = r"step-00000001\.safetensors needs base-00000001\.safetensors, which is not in the same folder"
    with pytest.raises(CheckpointError, match=words) as told:
        newest_checkpoint(store)
    assert "\n" not in str(told.value)
    with pytest.raises(CheckpointError, match="is not in the same folder"):
        unpack((tmp_path / "step-00000001.safetensors").read_bytes(), "step-00000001.safetensors")


def damaged(data: bytes, damage: str) -> bytes:
    """A checkpoint after a disk or a network has done something to it."""
    if damage == "cut off":
        return data[: len(data) // 2]
    at = {"header": 12, "tensors": len(data) - 3}[damage]
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("damage", ["cut off", "header", "tensors"])
def test_run_resumes_from_the_newest_checkpoint_that_is_whole(damage: str) -> None:
    store = MemoryStore()
    running = Run(store)
    for _ in range(2):
        running.change(5)
        running.save()
    older, newer = names_of(store)
    store.write(newer, damaged(store.read(newer), damage))
    resumed = Run(store)
    assert resumed.step == 1
    resumed.change(5)
    resumed.save()
    assert names_of(store) == [older, newer], "the damaged one does not take the place of the new one"
    assert torch.equal(Run(store).table, running.table)


def test_copies_that_somebody_made_beside_the_checkpoints_are_left_alone() -> None:
    store = MemoryStore()
    running = Run(store)
    for _ in range(2):
        running.change(5)
        running.save()
    strays = ["step-00000002 (copy).safetensors", "step-old.safetensors", "step-"]
    for name in strays:
        store.write(name, b"mine")
    again = Run(store)
    assert again.step == 2
    for _ in range(2):
        again.change(5)
        again.save(keep=1)
    assert set(strays) < set(store.names())
    assert [name for name in names_of(store) if name not in strays] == ["step-00000004.safetensors"]


def test_run_whose_checkpoints_are_all_damaged_begins_again() -> None:
    store = MemoryStore()
    running = Run(store)
    running.change(5)
    running.save()
    for name in store.names():
        store.write(name, damaged(store.read(name), "cut off"))
    resumed = Run(store)
    assert resumed.step == 0 and not resumed.table.any()
    resumed.change(5)
    resumed.save()
    assert Run(store).step == 1


def test_checkpoint_of_another_format_is_refused_and_stays() -> None:
    store = MemoryStore()
    running = Run(store)
    running.change(5)
    running.save()
    (name,) = names_of(store)
    data = store.read(name).replace(b'\\"format\\": 1', b'\\"format\\": 2')
    store.write(name, data)
    with pytest.raises(CheckpointError, match="has format 2"):
        Run(store)
    assert store.read(name) == data


def change_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("step-00000003.safetensors", cut),
        ("step-00000003.safetensors", lambda path: path.write_bytes(b"")),
        ("base-00000003.safetensors", change_last_bit),
        ("base-00000003.safetensors", Path.unlink),
    ],
    ids=["cut", "empty", "changed base", "missing base"],
)
def test_run_resumes_from_the_newest_usable_checkpoint_and_replaces_a_damaged_one(
    file: str, damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalCheckpoints(tmp_path)
    straight = Run(store)
    for rows in (ROWS, 7, ROWS):
        straight.change(rows)
        straight.save()
    assert names_of(store) == ["step-00000002.safetensors", "step-00000003.safetensors"]
    assert bases(store) == ["base-00000001.safetensors", "base-00000003.safetensors"]
    damage(tmp_path / file)
    again = Run(store)
    assert again.step == 2
    assert again.kept.describe_last().endswith("step-00000002.safetensors")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "step-00000003.safetensors is not usable" in caplog.text and file in caplog.text
    again.kept.prune(keep=1, best_step=None)
    assert Run(store).step == 2, "the only usable one stays, although a newer one is in the folder"
    again.change(ROWS)
    again.save()
    assert torch.equal(again.table, straight.table)
    assert torch.equal(Run(store).table, straight.table)
    assert len(names_of(store)) == 2


def test_damaged_checkpoint_is_not_counted_among_those_that_are_kept(tmp_path: Path) -> None:
    store = LocalCheckpoints(tmp_path)
    running = Run(store)
    for _ in range(2):
        running.change(3)
        running.change(3)
        running.save()
    cut(tmp_path / "step-00000004.safetensors")
    again = Run(store)
    again.change(3)
    again.save(keep=1)
    assert names_of(store) == ["step-00000003.safetensors"]


@pytest.fixture(scope="module")
def arc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve made-up tasks; with 100 augmentations each, 1,213 rows of embeddings."""
    folder, rng = tmp_path_factory.mktemp("arc"), np.random.default_rng(0)

    def pairs(count: int) -> list[dict[str, Any]]:
        grids = rng.integers(0, 10, (count, 2, 4, 5)).tolist()
        return [{"input": question, "output": answer} for question, answer in grids]

    for subset in ("training", "evaluation"):
        (folder / subset).mkdir()
        for number in range(6):
            (folder / subset / f"{subset}{number}.json").write_text(json.dumps({"train": pairs(2), "test": pairs(1)}))
    return build(arc_trial(folder).data.request(), folder / "data")


def arc_trial(folder: Path, **sections: Any) -> TrialConfig:
    model = {"mixer": "attention", "positions": "rotary", "cycles": 1, "latent_steps": 1, "num_layers": 1}
    return tiny(
        data={"benchmark": "arc-agi-1", "source": str(folder), "num_augmentations": 100, "num_validation": 1}
        | {"blanks": None, "num_train": None, "num_test": None},
        model=model | {"puzzle_embedding_len": 16, "puzzle_embedding_size": 256},
        train={"batch_size": 2, "max_steps": 12, "dtype": "bfloat16"},
        evaluation={"max_puzzles": 1},
        **{"runtime": {"evaluate_every": 100, "checkpoint_every_s": 1e-9}, **sections},
    )


def whole_state(store: CheckpointStore) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(store)
    assert found is not None
    assert found.tensors[TABLE].count_nonzero()
    return {name: value for name, value in found.tensors.items() if name != CHANGED_AT}


def test_run_with_row_deltas_resumes_bit_for_bit_here_and_on_s3(arc: Dataset, s3_bucket: str, tmp_path: Path) -> None:
    config = arc_trial(tmp_path)
    straight, remote = LocalCheckpoints(tmp_path / "straight"), StoredCheckpoints(open_storage(s3_bucket).sub("run"))
    events = run(config, arc, straight)
    table_bytes = newest_checkpoint(straight).tensors[TABLE].nbytes  # type: ignore[union-attr]
    sizes = [event.num_bytes for event in events if isinstance(event, Checkpointed)]
    assert max(sizes) < table_bytes, sizes
    run(config, arc, remote, stop_at=4)
    run(config, arc, remote)
    assert_same(whole_state(straight), whole_state(remote))
    trained = load_trained(newest_checkpoint(remote))  # type: ignore[arg-type]
    assert trained.model.puzzle_embedding is not None
    assert torch.equal(trained.model.puzzle_embedding.weight, whole_state(straight)[TABLE])


def test_checkpoint_of_an_earlier_version_with_its_table_and_carry_whole_is_gone_on_from(
    arc: Dataset, tmp_path: Path
) -> None:
    config, (straight, old) = arc_trial(tmp_path), (LocalCheckpoints(tmp_path / name) for name in ("straight", "old"))
    run(config, arc, straight)
    run(config, arc, old, stop_at=4)
    found = newest_checkpoint(old)
    assert found is not None and found.step == 4
    tensors = {name: value for name, value in found.tensors.items() if name != CHANGED_AT}
    slots = len(tensors["carry/halted_B"])
    for name in [name for name in tensors if name.startswith("carry/state_")]:
        whole = torch.zeros(slots, *tensors[name].shape[1:], dtype=tensors[name].dtype)
        whole[~tensors["carry/halted_B"]] = tensors[name]
        tensors[name] = whole
    header = {name: value for name, value in found.header.items() if name != "table"}
    for name in old.names():
        old.delete(name)
    old.write("step-00000004.safetensors", pack(tensors, header))
    run(config, arc, old)
    assert_same(whole_state(straight), whole_state(old))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("inputs_BC", lambda v: v.fill_(12), "carry/inputs_BC has values from 12 to 12, outside 0 to 11"),
        ("labels_BC", lambda v: v.fill_(300), "carry/labels_BC has values from 300 to 300, outside 0 to 11"),
        ("labels_BC", lambda v: v.fill_(-1), "carry/labels_BC has values from -1 to -1"),
        ("puzzle_ids_B", lambda v: v.fill_(10**6), "carry/puzzle_ids_B has values from 1000000"),
        ("puzzle_ids_B", lambda v: v.fill_(-1), "carry/puzzle_ids_B has values from -1"),
        ("steps_B", lambda v: v.fill_(99), "carry/steps_B has values from 99 to 99, outside 0 to 3"),
        ("steps_B", lambda v: v[:1], "carry/steps_B has 1 slots, the batch has 2"),
        ("inputs_BC", lambda v: v[:, :100], r"carry/inputs_BC is torch.uint8 of shape \(2, 100\)"),
        ("state_0", lambda v: v[:, :, :3], r"carry/state_0 is torch.bfloat16 of shape"),
        ("state_0", lambda v: torch.zeros(5, *v.shape[1:], dtype=v.dtype), "carry/state_0 has 5 slots"),
        ("halted_B", lambda v: v.long(), "carry/halted_B is torch.int64"),
        ("halted_B", lambda v: None, "its carry has "),
    ],
)
def test_carry_out_of_range_is_one_clear_line(
    name: str, change: Any, message: str, arc: Dataset, tmp_path: Path
) -> None:
    config, store = arc_trial(tmp_path), LocalCheckpoints(tmp_path / "run")
    run(config, arc, store, stop_at=2)
    found = newest_checkpoint(store)
    assert found is not None
    tensors = {key: value.clone() for key, value in found.tensors.items()}
    changed = change(tensors.pop(f"carry/{name}"))
    tensors |= {} if changed is None else {f"carry/{name}": changed}
    header = {key: value for key, value in found.header.items() if key != "table"}
    for file in store.names():
        store.delete(file)
    store.write(f"step-{found.step:08d}.safetensors", pack(tensors, header))
    with pytest.raises(CheckpointError, match=f"the checkpoint at step {found.step} is damaged: {message}") as told:
        run(config, arc, store)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [([0, 9], 4, "rows 0 to 9 of a table of 8"), ([-1, 2], 4, "rows -1 to 2"), ([0], 3, "have shape")],
)
def test_changed_rows_that_are_not_the_tables_are_refused(rows: list[int], width: int, message: str) -> None:
    changes = {"table/rows": torch.tensor(rows), "table/values": torch.ones(len(rows), width)}
    with pytest.raises(ValueError, match=message):
        join(changes, torch.zeros(8, 4), 3)
    store = MemoryStore()
    running = Run(store)
    running.change(5)
    running.save()
    name = names_of(store)[-1]
    whole = safetensors.torch.load(store.files[name])
    header = {"step": 1, "table": read_header(store.files[name])["table"]}
    broken = {"table/rows": torch.tensor(rows) + ROWS, "table/values": whole["table/values"][: len(rows)]}
    with pytest.raises(CheckpointError, match=f"{name} is damaged: "):
        unpack(pack(broken, header), name, store)


@pytest.mark.parametrize(
    "shape", [[-1, 4], [4, -1], [2**62, 4], [2**70, 1], [0, 2**70], [10**12, 4], [4], [], [4, 4, 4], [True, 4], "44", 4]
)
def test_shape_that_no_table_has_is_one_clear_line(shape: Any) -> None:
    base = {"name": "", "sha256": "", "step": 0, "delta_bytes": 0}
    header = HEADER | {"step": 1, "table": {"base": base, "shape": shape, "needed": {}}}
    changes = {"table/rows": torch.zeros(0, dtype=torch.int64), "table/values": torch.zeros(0, 4)}
    with pytest.raises(CheckpointError, match="mine is damaged: ") as told:
        unpack(pack(changes, header), "mine")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("tensors", [{"other": torch.zeros(4, 4)}, {}, {"table": torch.zeros(5, 4)}], ids=range(3))
def test_base_without_the_table_is_one_clear_line(tensors: dict[str, torch.Tensor]) -> None:
    store = MemoryStore()
    store.write("base-1.safetensors", pack(tensors, {}))
    sha256 = hashlib.sha256(store.read("base-1.safetensors")).hexdigest()
    base = {"name": "base-1.safetensors", "sha256": sha256, "step": 0, "delta_bytes": 0}
    header = HEADER | {"step": 1, "table": {"base": base, "shape": [4, 4], "needed": {}}}
    changes = {"table/rows": torch.zeros(0, dtype=torch.int64), "table/values": torch.zeros(0, 4)}
    with pytest.raises(CheckpointError, match=r"mine is damaged: base-1\.safetensors, which it needs, holds"):
        unpack(pack(changes, header), "mine", store)


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6),
    dtypes=st.lists(st.sampled_from(["float64", "float32", "bfloat16", "int64", "int32", "int16", "uint8", "bool"])),
)
def test_file_is_read_by_the_safetensors_library_as_it_was_written(shapes: list[list[int]], dtypes: list[str]) -> None:
    pairs = enumerate(zip(shapes, dtypes, strict=False))
    tensors = {f"x{i}": (10 * torch.rand(shape)).to(getattr(torch, dtype)) for i, (shape, dtype) in pairs}
    tensors |= {f"{name}/turned": value.T for name, value in tensors.items() if value.ndim == 2}
    data = pack(tensors, HEADER | {"step": 3})
    read_back = safetensors.torch.load(data)
    assert read_back.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in read_back.items())
    assert unpack(data).step == 3
