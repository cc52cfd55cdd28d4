"""Convert official TRM and HRM checkpoints in both directions, by renaming tensors.

    official                         here
    z_H, H_init, H_level             answer: start_0, recursion.answer_network
    z_L, L_init, L_level             latent: start_1, recursion.latent_network
    embed_tokens, lm_head, q_head    token_embedding, answer_head, halt_head
    puzzle_emb                       puzzle_embedding

Official names may start with `_orig_mod.` (a compiled model) and `model.` (inside its loss head); both are optional
here.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from trm_data.errors import MAX_NAMED, DataError, first_line, is_out_of_memory
from trm_data.files import write_atomic, write_output
from trm_data.sources import hub
from trm_data.sources.files import parse_address
from trm_model.checkpoints.official_config import NAME, config_from_official, config_to_official
from trm_model.checkpoints.store import CheckpointError
from trm_model.checkpoints.trained import MOST_CELLS, pack_weights
from trm_model.config import ModelConfig, TrialConfig
from trm_model.model.recursion import Model, build_model

_OUTER = {
    "token_embedding": "embed_tokens.embedding_weight",
    "position_embedding": "embed_pos.embedding_weight",
    "answer_head": "lm_head.weight",
    "halt_head": "q_head.weight",
    "halt_bias": "q_head.bias",
    "puzzle_embedding.weight": "puzzle_emb.weights",
}
_BLOCK = {
    "attention.qkv": "self_attn.qkv_proj.weight",
    "attention.out": "self_attn.o_proj.weight",
    "token_mixer.gate_up": "mlp_t.gate_up_proj.weight",
    "token_mixer.down": "mlp_t.down_proj.weight",
    "swiglu.gate_up": "mlp.gate_up_proj.weight",
    "swiglu.down": "mlp.down_proj.weight",
}
_OFFICIAL = "Name the file step_<number> of an official run"
SHARED = "shared"
"""`Dataset.id_map_hash` where all puzzles share one embedding."""
_WRAPPERS = re.compile(r"^(_orig_mod\.|model\.|inner\.)+")


def official_name(name: str, config: ModelConfig) -> str:
    """Return the official name, below `inner`, of one of our tensors."""
    if name in _OUTER:
        return _OUTER[name]
    if name.startswith("start_"):
        return f"{_official_state(int(name.removeprefix('start_')), config)}_init"
    _, network, _, index, *rest = name.split(".")
    level = "H_level" if network == "answer_network" or config.variant == "direct" else "L_level"
    return f"{level}.layers.{index}.{_BLOCK['.'.join(rest)]}"


def _official_state(index: int, config: ModelConfig) -> str:
    if config.num_latents == 0 and config.variant != "direct":
        return "L"  # the single-latent model has no z_H
    if index == 0:
        return "H"
    return "L" if config.num_latents == 1 else f"L{index}"


def load_official(model: Model, state: Mapping[str, Tensor]) -> None:
    """Copy an official state dict into a model.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape: the checkpoint has another configuration.
    """
    theirs = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    ours = {official_name(name, model.config): value for name, value in model.state_dict().items()}
    for name in sorted(theirs.keys() ^ ours.keys()):
        side = "has no" if name in ours else "has an unknown"
        raise CheckpointError(f"the checkpoint {side} tensor {name!r}", "Give the recipe that it was trained with")
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            raise CheckpointError(
                f"{name} is {tuple(theirs[name].shape)} in the checkpoint and {tuple(value.shape)} in the model",
                "Give the recipe and dataset that it was trained with",
            )
        value.copy_(theirs[name])


def to_official(model: Model) -> dict[str, Tensor]:
    """Return the model's tensors under official names, as the official loss head saves them."""
    return {
        f"model.inner.{official_name(name, model.config)}": value.detach().clone()
        for name, value in model.state_dict().items()
    }


def local_official(name: str, *, needs_settings: bool) -> Path:
    """Return the file of an official run that an argument names: a path, or `hf://OWNER/NAME[@REVISION]/FILE`.

    A file of the hub is downloaded, together with the `all_config.yaml` next to it.

    Args:
        needs_settings: without that file there are no settings.

    Raises:
        UserError: it is no such address, cannot be downloaded, or its settings are missing.
    """
    place = parse_address(name)
    if not place.is_remote:
        return Path(place.base)
    if not place.base.startswith("hf://"):
        raise CheckpointError(f"{place} is neither a file nor hf://OWNER/NAME/FILE", "Download it and name the file")
    path = hub.fetch(place.base, place.query, "model")
    folder = place.base.rpartition("/")[0]
    try:
        hub.fetch(f"{folder}/{NAME}", place.query, "model")
    except DataError as error:
        if needs_settings:
            raise CheckpointError(f"{place} has no {NAME} next to it: {error.what}", "Give its --recipe") from None
    return path


def read_official(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an official checkpoint file. Nothing in it is executed.

    Raises:
        CheckpointError: no such file, or it holds something else than tensors.
    """
    try:
        state = _load(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}", _OFFICIAL) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or first_line(error)}", _OFFICIAL) from error
    except Exception as error:  # a stream of pickle that is not one fails in any way
        if is_out_of_memory(error):
            raise
        raise _not_plain(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict", _OFFICIAL)
    seen: dict[str, str] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not _holds_floats(value):
            what = f"{path} holds {str(name)!r}, which is not a plain tensor of numbers with a name"
            raise CheckpointError(what, _OFFICIAL)
        if (other := seen.setdefault(_WRAPPERS.sub("", name), name)) != name:
            raise CheckpointError(f"{path} holds {other!r} and {name!r}, which are one tensor", "Save it with one")
        if not torch.isfinite(value.float() if value.element_size() == 1 else value).all():
            raise CheckpointError(f"{path} holds values in {name!r} that are no numbers", "Name an earlier checkpoint")
    return state


def _load(path: Path) -> object:
    """Return what a file of `torch.save`, in its present or its former format, or of safetensors holds."""
    with path.open("rb") as content:
        start = content.read(9)
    if not start:
        raise EOFError("it is empty")
    if start[8:] == b"{":
        return safetensors.torch.load_file(path)
    is_zip = start.startswith(b"PK")  # the former format cannot be mapped into memory
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _not_plain(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that holds more than tensors, or is damaged; it names what would be executed."""
    what, text = f"{path} is not a plain PyTorch checkpoint", str(error)
    names = [found[1]] if (found := re.search(r"GLOBAL ([\w.]+)", text)) else []
    with suppress(Exception):  # not of its present format, or damaged
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or names
    if names:
        remedy = "Nothing was executed. Ask for the state dict alone: torch.save(model.state_dict(), FILE)"
        return CheckpointError(f"{what}: it holds {', '.join(names[:MAX_NAMED])}, which loading would execute", remedy)
    if isinstance(error, pickle.UnpicklingError):  # torch explains how to load it unsafely, before the reason
        found = re.search(r"WeightsUnpickler error: *(.*)", text)
        return CheckpointError(f"{what}: {found[1].strip()}" if found and found[1].strip() else what, _OFFICIAL)
    return CheckpointError(f"{what}: {first_line(error)}", _OFFICIAL)


def _holds_floats(value: Tensor) -> bool:
    """Return whether a tensor is dense and has all the values that its shape promises."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
        return False
    return value.is_floating_point() and value.nbytes <= value.untyped_storage().nbytes()


def official_sizes(state: Mapping[str, Tensor], config: ModelConfig) -> tuple[int, int]:
    """Return (vocabulary, rows of the puzzle-embedding table) of an official state dict."""
    table = _size(state, _OUTER["puzzle_embedding.weight"], 0) if config.puzzle_embedding_len else 0
    vocab_size = _size(state, _OUTER["token_embedding"], 0)
    for name, size in ((_OUTER["token_embedding"], vocab_size), (_OUTER["puzzle_embedding.weight"], table)):
        if size is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}", "Is it a TRM or HRM checkpoint?")
    return vocab_size or 0, table or 0


def _size(state: Mapping[str, Tensor], name: str, axis: int) -> int | None:
    """Return the size of a tensor in an official state dict along an axis; None if there is no such tensor.

    Raises:
        CheckpointError: it has fewer axes.
    """
    value = {_WRAPPERS.sub("", each): value for each, value in state.items()}.get(name)
    if value is None:
        return None
    if value.ndim <= axis:
        what = f"{name} has shape {tuple(value.shape)} in the checkpoint"
        raise CheckpointError(what, "Is it a TRM or HRM checkpoint?")
    return value.shape[axis]


def official_cells(state: Mapping[str, Tensor], config: ModelConfig) -> int | None:
    """Return the grid cells of an official state dict; None if no tensor shows them (attention without learned
    positions)."""
    level = "H_level" if config.variant == "direct" else "L_level"
    for name, axis in ((f"{level}.layers.0.{_BLOCK['token_mixer.gate_up']}", 1), (_OUTER["position_embedding"], 0)):
        if (size := _size(state, name, axis)) is not None:
            return size - config.puzzle_embedding_len
    return None


def settings_of(path: Path, recipe: TrialConfig | None) -> TrialConfig:
    """Return the settings of an official checkpoint: its `all_config.yaml`, or a recipe that agrees with it.

    Raises:
        CheckpointError: there is neither, or they contradict each other (another T or n would ruin the score silently).
    """
    yaml_path = path.with_name(NAME)
    if recipe is None:
        return config_from_official(yaml_path)
    if yaml_path.is_file():
        own, official = recipe.model.plain(), config_from_official(yaml_path).model.plain()
        for name in ("cycles", "latent_steps", "num_layers", "num_heads", "mixer", "positions", "puzzle_embedding_len"):
            if own[name] != official[name] and recipe.model.variant != "direct":
                raise CheckpointError(
                    f"model.{name}={own[name]} in the recipe, but {yaml_path} says {official[name]}",
                    "Leave the recipe out, or give the one that it was trained with",
                )
    return recipe


def import_official(
    path: Path,
    config: TrialConfig,
    *,
    seq_len: int | None = None,
    id_map_hash: str = SHARED,
    num_ids: int = 1,
    step: int = 0,
    knows_dataset: bool = True,
    origin: str | None = None,
) -> tuple[Model, bytes]:
    """Convert an official checkpoint to a model and to a weights-only checkpoint file of ours.

    Args:
        config: see `settings_of`.
        knows_dataset: whether `config.data` is what the model was trained on, see
            `check_dataset_is_known`.
        origin: where the file comes from; None for its name.
        seq_len: grid cells; None if a tensor shows it.
        id_map_hash, num_ids: `Dataset.id_map_hash` and `num_identifiers` of the dataset that gave the puzzle ids.

    Raises:
        CheckpointError: unreadable, the configuration does not fit the tensors, or the grid or the ids are unknown.
    """
    state = read_official(path)
    vocab_size, num_identifiers = official_sizes(state, config.model)
    if seq_len is None and (seq_len := official_cells(state, config.model)) is None:
        raise CheckpointError("no tensor of the checkpoint shows the size of the grid", "Name the dataset: --dataset")
    if num_identifiers not in (0, num_ids):
        given = f", but the dataset has {num_ids}" if num_ids > 1 else ", and only the dataset says which is whose"
        raise CheckpointError(
            f"the checkpoint has {num_identifiers} puzzle embeddings{given}",
            "Name the dataset that it was trained on, built with ids=upstream or imported: --dataset",
        )
    if vocab_size < 1 or not 1 <= seq_len <= MOST_CELLS:
        raise CheckpointError(
            f"the checkpoint is of {vocab_size} symbols and {seq_len} cells, which no puzzle has",
            "Give the recipe that it was trained with",
        )
    model = build_model(config.model, vocab_size=vocab_size, seq_len=seq_len, num_identifiers=num_identifiers)
    with torch.no_grad():
        load_official(model, state)
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    notes = {"imported_from": origin or path.name, "imported_sha256": sha256, "knows_dataset": knows_dataset}
    return model, pack_weights(model, config, step=step, id_map_hash=id_map_hash, **notes)


def export_official(model: Model, config: TrialConfig, path: Path) -> None:
    """Write a model as the official code saves it, with an `all_config.yaml` in the same folder.

    Raises:
        CheckpointError: the official code has no such model, or another run's settings lie there.
    """
    settings, yaml_path = config_to_official(config), path.with_name(NAME)
    if yaml_path.is_file() and yaml_path.read_bytes() != settings:
        raise CheckpointError(f"{yaml_path} belongs to another checkpoint", "Name a file in a folder of its own")
    buffer = io.BytesIO()
    torch.save(to_official(model), buffer)
    write_output(path, buffer.getvalue())
    write_atomic(yaml_path, settings)
