"""`trm baselines`: published results, rows of your own, and language models measured on the same puzzles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StorageOption

app = typer.Typer(help="Published results and language models beside your own runs.", no_args_is_help=True)


@app.command("run-llm")
def run_llm(
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Address of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")
    ],
    model: Annotated[str, typer.Option("--model", help="The model's name at that endpoint.")],
    benchmark: Annotated[
        str, typer.Option("--benchmark", help="A built dataset's name or folder, or a benchmark: see `trm data list`.")
    ],
    max_usd: Annotated[float, typer.Option("--max-usd", min=0, help="Dollars that are never exceeded.")],
    usd_in: Annotated[
        float | None, typer.Option("--usd-per-mtok-in", min=0, help="Price of a million prompt tokens.")
    ] = None,
    usd_out: Annotated[
        float | None, typer.Option("--usd-per-mtok-out", min=0, help="Price of a million tokens of the answer.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Puzzles: the first so many of the split.")] = 50,
    attempts: Annotated[int, typer.Option("--attempts", min=1, max=2, help="Attempts at each puzzle.")] = 2,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Questions at a time.")] = 4,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=16, help="Longest answer, thoughts included.")
    ] = 16_000,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="The endpoint's own if left out.")
    ] = None,
    reasoning_effort: Annotated[
        str | None, typer.Option("--reasoning-effort", help="low, medium or high, where the model takes it.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds to wait for an answer.")] = 600.0,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Further tries at a question.")] = 6,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the key; OPENAI_API_KEY if left out.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Ask a language model the puzzles that your own models are scored on, and rank it beside them.

    Every answer is stored: the same command goes on where it was left, and pays for nothing twice.

    Examples:

    trm baselines run-llm --endpoint http://localhost:8000/v1 --model qwen3 --benchmark sudoku-6x6 --limit 100
    --max-usd 0 --usd-per-mtok-in 0 --usd-per-mtok-out 0

    trm baselines run-llm --endpoint https://api.openai.com/v1 --model gpt-5-mini --benchmark arc-agi-1 --limit 20
    --max-usd 5 --usd-per-mtok-in 0.25 --usd-per-mtok-out 2 --api-key-file key.txt
    """
    from orchestrator.cli.language_model import Asked, ask_all
    from orchestrator.llm.measure import Effort

    asked = Asked(
        endpoint=endpoint,
        model=model,
        benchmark=benchmark,
        split=split,
        limit=limit,
        max_usd=max_usd,
        usd_in=usd_in,
        usd_out=usd_out,
        max_tokens=max_tokens,
        temperature=temperature,
        reasoning_effort=reasoning_effort,
        timeout_s=timeout_s,
        api_key_file=api_key_file,
        effort=Effort(attempts=attempts, concurrency=concurrency, retries=retries),
    )
    raise typer.Exit(ask_all(asked, storage, as_json))


@app.command("list")
def list_(
    benchmark: Annotated[str | None, typer.Argument(help="One benchmark; all if left out.", show_default=False)] = None,
) -> None:
    """Print the published rows as CSV: a script filters them, a spreadsheet opens them.

    Example: trm baselines list sudoku-extreme
    """
    from orchestrator.baselines import benchmarks, load_baselines, write_baselines
    from trm_data.errors import ConfigError, nearest

    if benchmark is not None and benchmark not in benchmarks():
        raise ConfigError(f"no published rows for benchmark {benchmark!r}", nearest(benchmark, benchmarks()))
    print(write_baselines(load_baselines(benchmark)).decode(), end="")


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A CSV in the form of `trm baselines list`.")]) -> None:
    """Check a file of published rows: every row needs a source, a split and a score that can be.

    Example: trm baselines check my-rows.csv
    """
    from orchestrator.baselines import read_baselines
    from orchestrator.cli.console import out

    out.print(f"{file}: {len(read_baselines(file))} rows, all well-formed")
