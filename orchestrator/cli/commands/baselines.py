"""`trm baselines`: list, check and add published results, and measure language models on the same puzzles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import (
    INPUT_FILE,
    BaselinesOption,
    JsonOption,
    NewBaselinesOption,
    StorageOption,
    TrustOption,
    trust_files,
)
from trm_data.settings import strict_json

app = typer.Typer(help="Published results, and language models on the puzzles of your own runs.", no_args_is_help=True)


@app.command("run-llm")
def run_llm(
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="Address of an OpenAI-compatible endpoint, e.g. http://localhost:8000/v1.")
    ],
    model: Annotated[str, typer.Option("--model", help="The model's name at that endpoint.")],
    benchmark: Annotated[
        str, typer.Option("--benchmark", help="A built dataset's name or folder, or a benchmark: see `trm data list`.")
    ],
    max_usd: Annotated[float, typer.Option("--max-usd", min=0, help="Limit in US dollars, which is never exceeded.")],
    usd_in: Annotated[
        float | None, typer.Option("--usd-per-mtok-in", min=0, help="Price of a million prompt tokens.")
    ] = None,
    usd_out: Annotated[
        float | None, typer.Option("--usd-per-mtok-out", min=0, help="Price of a million tokens of the answer.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of puzzles: the first ones of the split.")] = 50,
    attempts: Annotated[int, typer.Option("--attempts", min=1, max=2, help="Attempts at each puzzle.")] = 2,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=256, help="Number of parallel questions.")
    ] = 4,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=16, help="Maximum tokens of an answer, reasoning included.")
    ] = 16_000,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, help="Sampling temperature; the endpoint's default if left out."),
    ] = None,
    reasoning_effort: Annotated[
        str | None, typer.Option("--reasoning-effort", help="low, medium or high, if the model supports it.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="Seconds to wait for an answer.")] = 600.0,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Retries per question.")] = 6,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the key; OPENAI_API_KEY if left out.", **INPUT_FILE)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    storage: StorageOption = "runs",
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a language model the puzzles that your own models are scored on, and rank it with them.

    Every answer is stored: the same command resumes, and pays for nothing twice.

    Examples:

    trm baselines run-llm --endpoint http://localhost:8000/v1 --model qwen3 --benchmark sudoku-6x6 --limit 100
    --max-usd 0 --usd-per-mtok-in 0 --usd-per-mtok-out 0

    trm baselines run-llm --endpoint https://api.openai.com/v1 --model gpt-5-mini --benchmark arc-agi-1 --limit 20
    --max-usd 5 --usd-per-mtok-in 0.25 --usd-per-mtok-out 2 --api-key-file key.txt
    """
    from orchestrator.cli.run_llm import LlmOptions, ask_all
    from orchestrator.evaluation.llm.measure import Effort

    trust_files(trust)
    options = LlmOptions(
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
    raise typer.Exit(ask_all(options, storage, as_json))


@app.command("list")
def list_(
    benchmark: Annotated[str | None, typer.Argument(help="One benchmark; all if left out.", show_default=False)] = None,
    baselines: BaselinesOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Print the published rows and your own as CSV: a script filters them, a spreadsheet opens them.

    Example: trm baselines list sudoku-extreme
    """
    from orchestrator.results.baselines import load_baselines, write_baselines
    from orchestrator.results.baselines.own import OwnBaselines
    from orchestrator.storage import open_storage

    own = OwnBaselines(open_storage(storage), baselines).read()
    rows = load_baselines(benchmark, own)
    print(strict_json([row.plain() for row in rows], indent=1) if as_json else write_baselines(rows).decode().rstrip())


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A CSV in the form of `trm baselines list`.", **INPUT_FILE)],
) -> None:
    """Check a file of published rows: every row needs a source, a split and a possible score, every curve two points.

    Example: trm baselines check my-rows.csv
    """
    from orchestrator.cli.views.console import out
    from orchestrator.results.baselines import check_point, load_baselines, read_baselines
    from orchestrator.sweep.text import plural

    rows = read_baselines(file)
    known = load_baselines(None, rows)
    for row in rows:
        check_point(row, known, least=2)
    out.print(f"{file}: {plural(len(rows), 'row')}, all well-formed")


@app.command()
def add(
    benchmark: Annotated[str, typer.Option("--benchmark", help="What was scored: see `trm data list`.")],
    system: Annotated[str, typer.Option("--system", help="Name of the row.")],
    score: Annotated[float, typer.Option("--score", help="Per cent.")],
    source: Annotated[str, typer.Option("--source", help="Where the score was read.")],
    date: Annotated[str, typer.Option("--date", help="Date of the source: 2026, 2026-11 or 2026-11-22.")],
    kind: Annotated[str, typer.Option("--kind", help="trm, hrm, direct, llm, system or human.")],
    split: Annotated[str, typer.Option("--split", help="test, public-eval, semi-private, ...")],
    metric: Annotated[str, typer.Option("--metric", help="exact_accuracy, pass@1 or pass@2.")],
    items: Annotated[int | None, typer.Option("--items", help="Puzzles scored, if the source says.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Seeds averaged, if the source says.")] = None,
    passes: Annotated[int | None, typer.Option("--passes", help="Supervision steps at evaluation.")] = None,
    votes: Annotated[int | None, typer.Option("--votes", help="Views per puzzle that vote on the answer.")] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Answers per attempt that are combined: rollouts, samples.")
    ] = None,
    curve: Annotated[str, typer.Option("--curve", help="The model, if it has rows at other numbers of passes.")] = "",
    train_puzzles: Annotated[
        int | None, typer.Option("--train-puzzles", help="Training puzzles before augmentation.")
    ] = None,
    correct: Annotated[
        str | None, typer.Option("--correct", help="What counts: label (the stored answer) or valid (any).")
    ] = None,
    train_gpu_hours: Annotated[float | None, typer.Option("--train-gpu-hours", help="GPU-hours of training.")] = None,
    train_gpu: Annotated[str, typer.Option("--train-gpu", help="Type of these GPUs.")] = "",
    params: Annotated[int | None, typer.Option("--params", help="Parameters of the model.")] = None,
    usd_per_task: Annotated[float | None, typer.Option("--usd-per-task", help="Cost per puzzle in US dollars.")] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="single, ensemble or search.")] = "single",
    role: Annotated[str, typer.Option("--role", help="headline, reproduction or ablation.")] = "headline",
    evidence: Annotated[str, typer.Option("--evidence", help="verified, claimed or quoted.")] = "claimed",
    detail: Annotated[str, typer.Option("--detail", help="Further details of the result.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing row of this result.")] = False,
    baselines: NewBaselinesOption = None,
    storage: StorageOption = "runs",
) -> None:
    """Add a published result of your own; `trm leaderboard` ranks it where it can be compared.

    Example: trm baselines add --benchmark maze-hard --system "Our TRM" --kind trm --split test --metric exact_accuracy
    --score 88.1 --items 1000 --passes 16 --samples 1 --train-puzzles 1000 --source "arXiv 2601.00001" --date 2026-01
    """
    from orchestrator.cli.views.console import out
    from orchestrator.results.baselines import Baseline, check_point, load_baselines
    from orchestrator.results.baselines.own import OwnBaselines, check_benchmark
    from orchestrator.storage import open_storage
    from trm_data.errors import ConfigError

    check_benchmark(benchmark)
    values = {"benchmark": benchmark, "system": system, "score": score, "source": source, "date": date, "kind": kind}
    values |= {"split": split, "metric": metric, "items": items, "seeds": seeds, "params": params, "role": role}
    values |= {"passes": passes, "votes": votes, "samples": samples, "curve": curve, "train_puzzles": train_puzzles}
    values |= {"correct": correct, "train_gpu_hours": train_gpu_hours, "train_gpu": train_gpu}
    values |= {"cost_per_task_usd": usd_per_task, "protocol": protocol, "evidence": evidence, "detail": detail}
    row = Baseline.parse(values)
    own = OwnBaselines(open_storage(storage), baselines)
    known = load_baselines(None, own.read())
    if not replace and row.key in {other.key for other in known}:
        raise ConfigError(f"{system!r} has this row of {benchmark} already", "Add --replace to change its figures")
    check_point(row, known)
    own.put([row])
    out.print(f"{row.system}, {row.benchmark}, {row.split}, {row.metric}: {row.score:g} % in {own.where}")


@app.command()
def update(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|ADDRESS",
            help="An export of the ARC Prize leaderboard: a path or http(s)://.",
            show_default=False,
        ),
    ],
    date: Annotated[
        str | None, typer.Option("--date", help="Day of the export, e.g. 2026-11-22; its own if it states one.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write new and changed rows to your own baselines.")] = False,
    baselines: NewBaselinesOption = None,
    storage: StorageOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Compare a newer export of the ARC Prize leaderboard with the known rows; with --write, adopt what is new.

    Example: trm baselines update https://arcprize.org/media/data/leaderboard/v2.json
    """
    from orchestrator.cli.views.baselines import show_update
    from orchestrator.results.baselines import load_baselines
    from orchestrator.results.baselines.arc_prize import compare, read_export
    from orchestrator.results.baselines.own import OwnBaselines
    from orchestrator.storage import open_storage
    from trm_data.errors import ConfigError

    export = read_export(source)
    day = date or export.date
    if day is None:
        raise ConfigError("the export does not say of which day it is", "Name it: --date 2026-11-22")
    own = OwnBaselines(open_storage(storage), baselines)
    found = compare(export, load_baselines(None, own.read()), day)
    if write and found.rows:
        own.put(found.rows)
    show_update(found, own.where if write and found.rows else "", as_json)
