"""Compute what a configuration costs, without running it: FLOPs, activation bytes, state bytes, checkpoint bytes.

A multiply-add counts as two FLOPs; only matrix products are counted, as `torch.utils.flop_counter` does. Figures are
per example (one sequence, one supervision step) unless named otherwise. L tokens, D width, V vocabulary, I inner width.
"""

from __future__ import annotations

from trm_model.config import ModelConfig, TrialConfig, inner_size

_BYTES = {"float32": 4, "bfloat16": 2, "float32-fast": 4}
_PROCESS_BYTES = 620_000_000  # Python, torch, numba and their pools on a CPU, measured with torch 2.13


def _tokens(config: ModelConfig, seq_len: int) -> int:
    return seq_len + config.puzzle_embedding_len


def network_flops(config: ModelConfig, *, seq_len: int) -> int:
    """Return the FLOPs of one forward application of the network to one example."""
    tokens, width = _tokens(config, seq_len), config.hidden_size
    channel = 6 * tokens * width * inner_size(width, config)
    if config.mixer == "mlp":
        mix = 6 * width * tokens * inner_size(tokens, config)
    else:
        mix = 8 * tokens * width * width + 4 * tokens * tokens * width
    return config.num_layers * (channel + mix)


def _applications(config: ModelConfig) -> tuple[int, int]:
    """Return network applications per supervision step: (without gradient, with gradient)."""
    if config.variant == "direct":
        return 0, 1
    per_cycle = config.latent_steps + 1
    graded = 2 if config.one_step_gradient else per_cycle
    return config.cycles * per_cycle - graded, graded


def _head_flops(config: ModelConfig, seq_len: int, vocab_size: int) -> int:
    return 2 * config.hidden_size * (seq_len * vocab_size + 2)


def forward_flops(config: ModelConfig, *, seq_len: int, vocab_size: int) -> int:
    """Return the FLOPs of one supervision step of evaluation."""
    return sum(_applications(config)) * network_flops(config, seq_len=seq_len) + _head_flops(
        config, seq_len, vocab_size
    )


def train_flops(config: ModelConfig, *, seq_len: int, vocab_size: int, frozen: bool = False) -> int:
    """Return the FLOPs of one supervision step of training: forward, backward (twice the part with gradient),
    continue head.

    Args:
        frozen: only puzzle embeddings are trained. The backward pass then computes no gradient of a weight, which is
            half of it; of a product of two activations, in attention, it computes both.
    """
    applications = _applications(config)[1]
    graded = applications * network_flops(config, seq_len=seq_len) + _head_flops(config, seq_len, vocab_size)
    forward = forward_flops(config, seq_len=seq_len, vocab_size=vocab_size)
    passes = 2 if config.learns_continue else 1
    if not frozen:
        return passes * forward + 2 * graded
    tokens = _tokens(config, seq_len)
    mixing = 4 * tokens * tokens * config.hidden_size if config.mixer == "attention" else 0
    return passes * forward + graded + applications * config.num_layers * mixing


def recompute_flops(config: TrialConfig, *, seq_len: int) -> int:
    """Return the FLOPs that a supervision step of training takes in addition, where its backward pass recomputes.

    Not part of `train_flops`: what a run has learned from does not depend on how its gradient was computed.
    """
    if config.runtime.recompute == "none":
        return 0
    return _applications(config.model)[1] * network_flops(config.model, seq_len=seq_len)


def num_parameters(config: ModelConfig, *, seq_len: int, vocab_size: int) -> int:
    """Return the number of trained weights, without the puzzle-embedding table."""
    tokens, width = _tokens(config, seq_len), config.hidden_size
    mix = 3 * tokens * inner_size(tokens, config) if config.mixer == "mlp" else 4 * width * width
    network = config.num_layers * (mix + 3 * width * inner_size(width, config))
    networks = 1 if config.shares_network or config.variant == "direct" else 2
    positions = tokens * width if config.positions == "learned" else 0
    return networks * network + 2 * vocab_size * width + positions + 2 * width + 2


def activation_bytes(config: TrialConfig, *, seq_len: int, vocab_size: int, device: str = "cuda") -> int:
    """Return the bytes that a forward pass keeps for its backward pass: examples of a micro-batch and the cast
    weights."""
    model, dtype = config.model, config.train.dtype
    examples = min(config.runtime.micro_batch_size or config.train.batch_size, config.train.batch_size)
    cast = 2 * num_parameters(model, seq_len=seq_len, vocab_size=vocab_size) if dtype == "bfloat16" else 0
    shape = {"seq_len": seq_len, "vocab_size": vocab_size}
    runtime = config.runtime
    one = example_activation_bytes(
        model, dtype=dtype, device=device, compiled=runtime.compile, recompute=runtime.recompute, **shape
    )
    return examples * one + cast


def example_activation_bytes(
    config: ModelConfig,
    *,
    seq_len: int,
    vocab_size: int,
    dtype: str = "bfloat16",
    device: str = "cuda",
    compiled: bool = False,
    recompute: str = "none",
) -> int:
    """Return the bytes that one example keeps for the backward pass (with the memory-saving attention kernels).

    With `recompute`, that is the input of each part that is computed again, and what one such part keeps meanwhile.

    On a CPU, attention under bfloat16 is computed in float32 (`precision.widens_attention`). A compiled network keeps
    the gated values of each SwiGLU, too, but no transposed copy of the norm of a token mixer.
    """
    tokens, width, size = _tokens(config, seq_len), config.hidden_size, _BYTES[dtype]
    state = tokens * width * size
    channel = 2 * tokens * inner_size(width, config) * size + 4 * tokens  # pre-activations, scale of the norm
    if config.mixer == "mlp":
        # The transposed input, its norm, and the copy transposed back; the pre-activations and the scale of the norm.
        mix = 3 * state + 2 * width * inner_size(tokens, config) * size + 4 * width
    else:
        wide = dtype == "bfloat16" and device == "cpu"
        attention = 4 * tokens * width * (4 if wide else size)  # query, key, value (one tensor) and what they mix to
        if config.positions == "rotary":
            attention += 2 * tokens * width * (4 if wide else size)
        mix = attention + (state if wide else 0) + state + 4 * tokens * (config.num_heads + 1)
    if compiled:
        channel += tokens * inner_size(width, config) * size
        if config.mixer == "mlp":
            mix += width * inner_size(tokens, config) * size - 2 * state
    block = mix + channel + state
    graded = _applications(config)[1]
    # The head's input without the puzzle tokens; the loss in float64: logits, branch taken, reciprocal, three numbers
    # per cell; the embedded symbols.
    ends = seq_len * (width * size + vocab_size * 17 + 3 * 8 + 5)
    first_input = 0 if config.mixer == "mlp" else state  # an MLP mixer keeps its transposed copy instead
    if recompute == "cycle":
        return graded * state + config.num_layers * block + ends
    if recompute == "block":
        return graded * config.num_layers * state + block + ends
    return graded * (config.num_layers * block + first_input) + ends


def table_bytes(config: ModelConfig, *, num_identifiers: int) -> int:
    """Return the bytes of the float32 puzzle-embedding table."""
    return 4 * num_identifiers * config.puzzle_embedding_width


def _num_states(config: ModelConfig) -> int:
    return 1 if config.variant == "direct" else 1 + config.num_latents


def state_bytes(config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int) -> int:
    """Return the bytes of weights, gradient, optimizer moments, averages, carry and table, which stay allocated
    between steps."""
    model, optimizer = config.model, config.optimizer
    parameters = num_parameters(model, seq_len=seq_len, vocab_size=vocab_size)
    averages = {rate for rate in (optimizer.ema_rate, *optimizer.further_ema_rates) if rate}
    # Weights, gradient and two moments; Muon has a velocity besides the moments of AdamW.
    copies = 1 if config.train.freezes_network else 4 + (1 if optimizer.name == "muon" else 0) + len(averages)
    carry = _carry_bytes(config, seq_len)
    return 4 * copies * parameters + carry + table_bytes(model, num_identifiers=num_identifiers)


def _carry_bytes(config: TrialConfig, seq_len: int) -> int:
    model = config.model
    per_state = _tokens(model, seq_len) * model.hidden_size * _BYTES[config.train.dtype]
    return config.train.batch_size * (_num_states(model) * per_state + 2 * seq_len + 9)


def peak_bytes(
    config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int, device: str = "cuda"
) -> int:
    """Return the peak memory of training in bytes: of the GPU, or of the whole process if it runs on the CPU."""
    shape = {"seq_len": seq_len, "vocab_size": vocab_size, "num_identifiers": num_identifiers}
    return process_bytes(device) + training_bytes(config, device=device, **shape)


def training_bytes(
    config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int, device: str = "cuda"
) -> int:
    """Return `peak_bytes` without the memory of a process in addition to its training.

    State, activations, and the largest moment of the backward pass: the gradients inside one SwiGLU.
    """
    model, size = config.model, _BYTES[config.train.dtype]
    shape = {"seq_len": seq_len, "vocab_size": vocab_size}
    tokens, width = _tokens(model, seq_len), model.hidden_size
    inner = tokens * inner_size(width, model)
    if model.mixer == "mlp":
        inner = max(inner, width * inner_size(tokens, model))
    examples = min(config.runtime.micro_batch_size or config.train.batch_size, config.train.batch_size)
    kept = state_bytes(config, num_identifiers=num_identifiers, **shape)
    return kept + activation_bytes(config, device=device, **shape) + 4 * inner * size * examples


def process_bytes(device: str) -> int:
    """Return the bytes of a process in addition to its training, as measured on one machine; 0 for a GPU."""
    return _PROCESS_BYTES if device == "cpu" else 0


def checkpoint_bytes(config: TrialConfig, *, seq_len: int, vocab_size: int, num_identifiers: int) -> int:
    """Return the bytes of one whole checkpoint with its table: the state without the gradient. If the table is
    large, checkpoints share a base and most are far smaller (`table_deltas`)."""
    parameters = num_parameters(config.model, seq_len=seq_len, vocab_size=vocab_size)
    whole = state_bytes(config, seq_len=seq_len, vocab_size=vocab_size, num_identifiers=num_identifiers)
    return whole if config.train.freezes_network else whole - 4 * parameters
