"""Match the trials of a sweep on one axis: give each the number of steps that makes it equal to the base.

At equal steps a deep recursion costs more than a shallow one, and one that keeps its puzzles for N_sup steps sees
fewer of them. So every comparison names its axis, which decides the number of steps:

- `steps`: as the configuration says.
- `puzzles`: until `train.max_puzzles` have been presented, at most `train.max_steps` steps.
- `flops`: as many steps as cost what the base costs in its own.
"""

from __future__ import annotations

from typing import Literal

from trm_data.benchmarks import resolve_benchmark
from trm_data.errors import ConfigError
from trm_model.config import TrialConfig

Axis = Literal["steps", "puzzles", "flops"]


def shape_of(config: TrialConfig) -> dict[str, int]:
    """Return `seq_len` and `vocab_size` of the configuration's benchmark, for the cost functions."""

    benchmark = resolve_benchmark(config.data.benchmark)
    return {"seq_len": benchmark.side**2, "vocab_size": benchmark.vocab_size}


def training_flops(config: TrialConfig, steps: int | None = None) -> float:
    """Compute the FLOPs of training, forward and backward, for `steps` steps (default: all) of a run."""
    from trm_model import cost

    train, shape = config.train, shape_of(config)
    count = train.max_steps if steps is None else steps
    # The curriculum changes the depth at shares of the run; each stretch counts with its own.
    depths = [(0.0, config.model.cycles, config.model.latent_steps), *train.depth_curriculum]
    ends = [min(count, share * train.max_steps) for share, _, _ in depths[1:]] + [count]
    done, total = 0.0, 0.0
    for (_, cycles, latent_steps), end in zip(depths, ends, strict=True):
        model = config.model.model_copy(update={"cycles": cycles, "latent_steps": latent_steps})
        total += max(0.0, end - done) * cost.train_flops(model, **shape, frozen=train.freezes_network)
        done = max(done, end)
    return train.batch_size * total


def match_axis(config: TrialConfig, base: TrialConfig, axis: Axis) -> TrialConfig:
    """Return the configuration with the steps that make it equal to the base on an axis.

    Raises:
        ConfigError: the configuration sets what the axis decides.
    """
    if axis == "puzzles" and config.train.max_puzzles is None:
        raise ConfigError("equal='puzzles' needs to know how many", "Set train.max_puzzles in the base")
    if axis == "puzzles" and config.train.max_puzzles != base.train.max_puzzles:
        raise ConfigError("train.max_puzzles differs between trials with equal='puzzles'", "Leave it to the base")
    if axis != "flops":
        return config
    if config.train.max_puzzles is not None:
        raise ConfigError("train.max_puzzles would end trials before equal='flops' is reached", "Leave it out")
    steps = max(1, round(base.train.max_steps * training_flops(base) / training_flops(_as_long(config, base))))
    runtime = config.runtime
    every = runtime.evaluate_every
    if every is not None and every == base.runtime.evaluate_every:  # as many evaluations as the base has
        runtime = runtime.model_copy(update={"evaluate_every": max(1, every * steps // base.train.max_steps)})
    train = config.train.model_copy(update={"max_steps": steps})
    return config.model_copy(update={"train": train, "runtime": runtime})


def _as_long(config: TrialConfig, base: TrialConfig) -> TrialConfig:
    """Return the configuration with the base's number of steps."""
    return config.model_copy(update={"train": config.train.model_copy(update={"max_steps": base.train.max_steps})})
