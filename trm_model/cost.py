"""What a configuration costs, from the configuration alone: FLOPs, activation bytes, state bytes, checkpoint bytes.

A multiply-add counts as two FLOPs; only matrix products are counted, as `torch.utils.flop_counter` does. Figures are
per example (one sequence, one supervision step) unless named otherwise. L tokens, D width, V vocabulary, I inner width.
"""

from __future__ import annotations

from trm_model.config import ModelConfig, TrialConfig
from trm_model.layers import inner_size

_BYTES = {"float32": 4, "bfloat16": 2}


def _tokens(config: ModelConfig, seq_len: int) -> int:
    return seq_len + config.puzzle_embedding_len


def network_flops(config: ModelConfig, *, seq_len: int) -> int:
    """One application of the network to one example, forward."""
    tokens, width = _tokens(config, seq_len), config.hidden_size
    channel = 6 * tokens * width * inner_size(width, config)
    if config.mixer == "mlp":
        mix = 6 * width * tokens * inner_size(tokens, config)
    else:
        mix = 8 * tokens * width * width + 4 * tokens * tokens * width
    return config.num_layers * (channel + mix)


def _applications(config: ModelConfig) -> tuple[int, int]:
    """Network applications per supervision step: (without gradient, with gradient)."""
    if config.variant == "direct":
        return 0, 1
    per_cycle = config.latent_steps + 1
    graded = 2 if config.one_step_gradient else per_cycle
    return config.cycles * per_cycle - graded, graded


def _head_flops(config: ModelConfig, seq_len: int, vocab_size: int) -> int:
    return 2 * config.hidden_size * (seq_len * vocab_size + 2)


def forward_flops(config: ModelConfig, *, seq_len: int, vocab_size: int) -> int:
    """One supervision step of evaluation."""
    return sum(_applications(config)) * network_flops(config, seq_len=seq_len) + _head_flops(
        config, seq_len, vocab_size
    )


def train_flops(config: ModelConfig, *, seq_len: int, vocab_size: int) -> int:
    """One supervision step of training: forward, backward (twice the graded part), the continue head's pass."""
    graded = _applications(config)[1] * network_flops(config, seq_len=seq_len)
    forward = forward_flops(config, seq_len=seq_len, vocab_size=vocab_size)
    passes = 2 if config.learns_continue else 1
    return passes * forward + 2 * (graded + _head_flops(config, seq_len, vocab_size))


def num_parameters(config: ModelConfig, *, seq_len: int, vocab_size: int) -> int:
    """Trained weights, without the puzzle-embedding table."""
    tokens, width = _tokens(config, seq_len), config.hidden_size
    mix = 3 * tokens * inner_size(tokens, config) if config.mixer == "mlp" else 4 * width * width
    network = config.num_layers * (mix + 3 * width * inner_size(width, config))
    networks = 1 if config.shares_network or config.variant == "direct" else 2
    positions = tokens * width if config.positions == "learned" else 0
    return networks * network + 2 * vocab_size * width + positions + 2 * width + 2


def table_bytes(config: ModelConfig, *, num_identifiers: int) -> int:
    """The puzzle-embedding table, float32."""
    return 4 * num_identifiers * config.hidden_size if config.puzzle_embedding_len else 0


def _num_states(config: ModelConfig) -> int:
    return 1 if config.variant == "direct" else 1 + config.num_latents


def state_bytes(config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int) -> int:
    """Weights, gradient, optimizer moments, average, carry and table: what stays allocated between steps."""
    model = config.model
    parameters = num_parameters(model, seq_len=seq_len, vocab_size=vocab_size)
    copies = 4 + (1 if config.optimizer.ema_rate else 0)
    carry = _carry_bytes(config, seq_len)
    return 4 * copies * parameters + carry + table_bytes(model, num_identifiers=num_identifiers)


def _carry_bytes(config: TrialConfig, seq_len: int) -> int:
    model = config.model
    per_state = _tokens(model, seq_len) * model.hidden_size * _BYTES[config.train.dtype]
    return config.train.batch_size * (_num_states(model) * per_state + 2 * seq_len + 9)


def checkpoint_bytes(config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int) -> int:
    """One checkpoint file: the state without the gradient."""
    parameters = num_parameters(config.model, seq_len=seq_len, vocab_size=vocab_size)
    whole = state_bytes(config, seq_len=seq_len, vocab_size=vocab_size, num_identifiers=num_identifiers)
    return whole - 4 * parameters
