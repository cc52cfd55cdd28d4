"""Official TRM / HRM checkpoints in and out, by renaming tensors.

    official                         here
    z_H, H_init, H_level             answer: start_0, recursion.answer_network
    z_L, L_init, L_level             latent: start_1, recursion.latent_network
    embed_tokens, lm_head, q_head    token_embedding, answer_head, halt_head
    puzzle_emb                       puzzle_embedding

Official names may start with `_orig_mod.` (a compiled model) and `model.` (inside its loss head); both are optional
here.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor

from trm_data.files import write_atomic
from trm_model.artifact import pack_weights
from trm_model.checkpoint import CheckpointError
from trm_model.config import ModelConfig, TrialConfig
from trm_model.recursion import Model, build_model

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
_WRAPPERS = re.compile(r"^(_orig_mod\.|model\.|inner\.)+")


def official_name(name: str, config: ModelConfig) -> str:
    """The official name, below `inner`, of one of our tensors."""
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
    """The model's tensors under official names, as the official loss head saves them."""
    return {
        f"model.inner.{official_name(name, model.config)}": value.detach().clone()
        for name, value in model.state_dict().items()
    }


def read_official(path: Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint file. Nothing in it is executed.

    Raises:
        CheckpointError: no such file, or it holds something else than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}", "Name the file step_<number> of an official run") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a plain PyTorch checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict", "Name the file step_<number> of an official run")
    return state


def official_sizes(state: Mapping[str, Tensor], config: ModelConfig) -> tuple[int, int]:
    """(vocabulary, rows of the puzzle-embedding table) of an official state dict."""
    named = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    try:
        table = named["puzzle_emb.weights"] if config.puzzle_embedding_len else None
        return named["embed_tokens.embedding_weight"].shape[0], 0 if table is None else table.shape[0]
    except KeyError as error:
        raise CheckpointError(f"the checkpoint has no tensor {error}", "Is it a TRM or HRM checkpoint?") from error


_ARCHITECTURES = {"hrm": "hrm", "transformers_baseline": "direct"}


def config_from_official(path: Path) -> TrialConfig:
    """The settings in the `all_config.yaml` that an official run writes beside its checkpoints.

    Raises:
        CheckpointError: the file is missing or lacks a setting.
    """
    try:
        facts = yaml.safe_load(path.read_text())
        arch = facts["arch"]
        module = str(arch["name"]).split("@")[0].rsplit(".", 1)[-1]
        variant = _ARCHITECTURES.get(module, "trm")
        is_mlp = bool(arch.get("mlp_t", False))
        model = {
            "variant": variant,
            "mixer": "mlp" if is_mlp else "attention",
            "positions": {"rope": "rotary", "learned": "learned"}.get(arch["pos_encodings"], "none"),
            "hidden_size": arch["hidden_size"],
            "num_heads": arch["num_heads"],
            "expansion": arch["expansion"],
            "num_layers": arch["H_layers"] if variant == "direct" else arch["L_layers"],
            "cycles": arch["H_cycles"],
            "latent_steps": arch.get("L_cycles", 1),
            "num_latents": {"trm_singlez": 0, "trm_hier6": 6}.get(module, 1),
            "supervision_steps": arch["halt_max_steps"],
            "halt_exploration": arch["halt_exploration_prob"],
            "puzzle_embedding_len": arch.get("puzzle_emb_len") or -(-arch["puzzle_emb_ndim"] // arch["hidden_size"]),
            "puzzle_embedding_size": _unless(arch["puzzle_emb_ndim"], arch["hidden_size"]),
        }
        if variant == "trm" and not arch.get("no_ACT_continue", True):
            model["halting"] = "continue"
        optimizer = {
            "lr": facts["lr"],
            "weight_decay": facts["weight_decay"],
            "betas": (facts["beta1"], facts["beta2"]),
            "warmup_steps": facts["lr_warmup_steps"],
            "lr_min_ratio": facts["lr_min_ratio"],
            "puzzle_embedding_lr": facts["puzzle_emb_lr"],
            "puzzle_embedding_weight_decay": facts["puzzle_emb_weight_decay"],
            "ema_rate": facts.get("ema_rate", 0.999) if facts.get("ema") else 0.0,
        }
        train = {"batch_size": facts["global_batch_size"]}
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path}", "Give a recipe, or the all_config.yaml of the run") from error
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} lacks or misspells a setting: {error}", "Give a recipe instead") from error
    return TrialConfig.parse({"model": model, "optimizer": optimizer, "train": train}, str(path))


def _unless(value: int, usual: int) -> int | None:
    return None if value in (0, usual) else value


def import_official(
    path: Path, config: TrialConfig | None, *, seq_len: int, id_map_hash: str, step: int = 0
) -> tuple[Model, bytes]:
    """An official checkpoint as a model and as a weights-only checkpoint file of ours.

    `config` None reads the `all_config.yaml` beside it.

    Raises:
        CheckpointError: unreadable, or the configuration does not fit the tensors.
    """
    config = config or config_from_official(path.with_name("all_config.yaml"))
    state = read_official(path)
    vocab_size, num_identifiers = official_sizes(state, config.model)
    model = build_model(config.model, vocab_size=vocab_size, seq_len=seq_len, num_identifiers=num_identifiers)
    with torch.no_grad():
        load_official(model, state)
    return model, pack_weights(model, config, step=step, id_map_hash=id_map_hash, imported_from=path.name)


def export_official(model: Model, path: Path) -> None:
    """Write a model as the official code would have saved it."""
    buffer = io.BytesIO()
    torch.save(to_official(model), buffer)
    write_atomic(path, buffer.getvalue())
