"""Read the `all_config.yaml` of an official run as a configuration, and write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml

from trm_data.errors import UserError, first_line
from trm_data.yaml_text import parse_yaml
from trm_model.checkpoints.store import CheckpointError
from trm_model.config import ModelConfig, TrialConfig

NAME = "all_config.yaml"
_ACT = "TinyRecursiveReasoningModel_ACTV1"
_CLASSES = {
    ("trm", 1): f"trm@{_ACT}",
    ("trm", 0): f"trm_singlez@{_ACT}",
    ("trm", 6): f"trm_hier6@{_ACT}",
    ("hrm", 1): "hrm@HierarchicalReasoningModel_ACTV1",
    ("direct", 1): "transformers_baseline@Model_ACTV2",
}
"""(variant, latents) -> module and class below `recursive_reasoning`."""
_MODELS = {name: key for key, name in _CLASSES.items()} | {
    "hrm_act_v1@HierarchicalReasoningModel_ACTV1": ("hrm", 1)  # HRM's own repository
}
"""Last part of the module's name and class -> (variant, latents)."""
_POSITIONS = {"rope": "rotary", "learned": "learned", "none": "none"}
_LOSS = "losses@ACTLossHead"
_ARCH = {
    *(
        "name",
        "loss",
        "H_cycles",
        "L_cycles",
        "H_layers",
        "L_layers",
        "hidden_size",
        "num_heads",
        "expansion",
        "causal",
    ),
    *("pos_encodings", "rope_theta", "rms_norm_eps", "halt_max_steps", "halt_exploration_prob", "no_ACT_continue"),
    *("puzzle_emb_ndim", "puzzle_emb_len", "mlp_t", "forward_dtype", "batch_size", "seq_len", "vocab_size"),
    "num_puzzle_identifiers",
}
"""The settings of the official classes."""
_REMEDY = "Correct it, or move it away and give a recipe"


def config_from_official(path: Path) -> TrialConfig:
    """Return the settings in an `all_config.yaml`. Which data it was trained on is not part of them.

    Raises:
        CheckpointError: the file is missing or lacks a setting.
    """
    try:
        return _parse(parse_yaml(path.read_text()), str(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path}", "Give a recipe, or the all_config.yaml of the run") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", _REMEDY) from error
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(f"{path} lacks or misspells a setting: {error.what}", _REMEDY) from None
    except Exception as error:  # a value of any other type: each fails in its own way
        what = f"{path} lacks or misspells a setting: {first_line(error)}"
        raise CheckpointError(what, _REMEDY) from error


def _parse(facts: dict[str, Any], where: str) -> TrialConfig:
    arch = facts["arch"]
    variant, num_latents = _known(arch, where)
    size, width = arch["puzzle_emb_ndim"], arch["hidden_size"]
    model = {
        "variant": variant,
        "mixer": "mlp" if arch.get("mlp_t", False) else "attention",
        "positions": _POSITIONS[arch["pos_encodings"]],
        "hidden_size": width,
        "num_heads": arch["num_heads"],
        "expansion": arch["expansion"],
        "num_layers": arch["H_layers"] if variant == "direct" else arch["L_layers"],
        "cycles": arch["H_cycles"],
        "latent_steps": arch.get("L_cycles", 1),
        "num_latents": num_latents,
        "supervision_steps": arch["halt_max_steps"],
        "halt_exploration": arch["halt_exploration_prob"],
        "puzzle_embedding_len": (variant == "trm" and arch.get("puzzle_emb_len", 16)) or -(-size // width),
        "puzzle_embedding_size": None if size in (0, width) else size,
        "rope_theta": arch.get("rope_theta", 10000.0),
        "norm_epsilon": arch.get("rms_norm_eps", 1e-5),
    }
    if variant == "direct":
        model["halting"] = "compare"
    elif variant == "trm" and not arch.get("no_ACT_continue", True):
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
    train = {
        "batch_size": facts["global_batch_size"],
        "dtype": arch.get("forward_dtype", "bfloat16"),
        "loss": str(arch.get("loss", {}).get("loss_type", "stablemax_cross_entropy")).partition("_")[0],
    }
    values = {"model": model, "optimizer": optimizer, "train": train, "seed": facts.get("seed", 0)}
    return TrialConfig.parse(values, where)


def _known(arch: dict[str, Any], where: str) -> tuple[str, int]:
    """Return variant and latents of an architecture of the official code.

    Raises:
        CheckpointError: it is none, in its class or in a setting; the weights of another one would be scored wrongly.
    """
    model, loss = str(arch["name"]).partition("@"), arch.get("loss", {}).get("name", _LOSS)
    name = f"{model[0].rsplit('.', 1)[-1]}@{model[2]}"
    position = arch["pos_encodings"]
    if name not in _MODELS:
        _refuse(where, "arch.name", arch["name"], f"is none of the official models {', '.join(_MODELS)}")
    if loss != _LOSS:
        _refuse(where, "arch.loss.name", loss, f"is not the official {_LOSS}")
    if position not in _POSITIONS:
        _refuse(where, "arch.pos_encodings", position, f"is none of {', '.join(_POSITIONS)}")
    for setting in sorted(arch.keys() - _ARCH):
        if arch[setting]:  # what a fork has added and switched on
            _refuse(where, f"arch.{setting}", arch[setting], "is no setting of the official models")
    variant, num_latents = _MODELS[name]
    if variant == "hrm" and arch["H_layers"] != arch["L_layers"]:
        _refuse(where, "arch.H_layers", arch["H_layers"], f"differs from L_layers={arch['L_layers']}: not supported")
    return variant, num_latents


def _refuse(where: str, setting: str, value: object, why: str) -> NoReturn:
    raise CheckpointError(f"{where}: {setting}={str(value)[:80]!r} {why}", _REMEDY)


def config_to_official(config: TrialConfig) -> bytes:
    """Return the `all_config.yaml` of a configuration.

    Raises:
        CheckpointError: the official code has no such model; names the setting.
    """
    model, optimizer = config.model, config.optimizer
    layers, is_direct = model.num_layers, model.variant == "direct"
    latents = 1 if is_direct else model.num_latents
    if (model.variant, latents) not in _CLASSES:
        raise _unknown("num_latents", latents)
    arch = {
        "name": f"recursive_reasoning.{_CLASSES[model.variant, latents]}",
        "loss": {"name": "losses@ACTLossHead", "loss_type": f"{config.train.loss}_cross_entropy"},
        "H_cycles": 1 if is_direct else model.cycles,
        "L_cycles": 1 if is_direct else model.latent_steps,
        "H_layers": layers if model.variant in ("hrm", "direct") else 0,
        "L_layers": 0 if is_direct else layers,
        "halt_max_steps": model.supervision_steps,
        "halt_exploration_prob": model.halt_exploration,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "expansion": model.expansion,
        "pos_encodings": {ours: theirs for theirs, ours in _POSITIONS.items()}[model.positions],
        "mlp_t": model.mixer == "mlp",
        "puzzle_emb_ndim": model.puzzle_embedding_width,
        "puzzle_emb_len": model.puzzle_embedding_len,
        "no_ACT_continue": not model.learns_continue,
        "forward_dtype": config.train.dtype,
        "rope_theta": model.rope_theta,
        "rms_norm_eps": model.norm_epsilon,
    }
    facts = {
        "arch": arch,
        "global_batch_size": config.train.batch_size,
        "lr": optimizer.lr,
        "lr_min_ratio": optimizer.lr_min_ratio,
        "lr_warmup_steps": optimizer.warmup_steps,
        "weight_decay": optimizer.weight_decay,
        "beta1": optimizer.betas[0],
        "beta2": optimizer.betas[1],
        "puzzle_emb_lr": optimizer.puzzle_embedding_lr,
        "puzzle_emb_weight_decay": optimizer.puzzle_embedding_weight_decay,
        "ema": bool(optimizer.ema_rate),
        "ema_rate": optimizer.ema_rate,
        "seed": config.seed,
    }
    _check_same(model, _parse(facts, NAME).model)
    return yaml.safe_dump(facts, sort_keys=False).encode()


def _check_same(own: ModelConfig, official: ModelConfig) -> None:
    """Raise an error for settings that the official code would compute differently. Halting only matters in
    training."""
    skipped = {"halting", "cycles", "latent_steps", "num_latents"} if own.variant == "direct" else {"halting"}
    other = _resolved(official)
    for name, value in _resolved(own).items():
        if name not in skipped and other[name] != value:
            raise _unknown(name, value)


def _resolved(model: ModelConfig) -> dict[str, Any]:
    """Return the settings, with None replaced by its meaning."""
    return model.plain() | {
        "shared_network": model.shares_network,
        "gradient": "step" if model.one_step_gradient else "cycle",
        "puzzle_embedding_size": model.puzzle_embedding_width,
    }


def _unknown(name: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"the official code has no model with {name}={value}", "It can be kept and evaluated here, not exported there"
    )
