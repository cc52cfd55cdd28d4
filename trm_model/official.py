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

import re
from collections.abc import Mapping

from torch import Tensor

from trm_model.checkpoint import CheckpointError
from trm_model.config import ModelConfig
from trm_model.recursion import Model

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
