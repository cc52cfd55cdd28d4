"""Implement `trm baselines run-llm`."""

from __future__ import annotations

import ipaddress
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.views.console import BuildBar, bar, err, out
from orchestrator.errors import SweepError, command_line
from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, Request
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.measure import Effort, Measurement, Progress, RunStatus, most_usd
from orchestrator.evaluation.llm.questions import Question, load_questions
from orchestrator.evaluation.llm.score import summarise
from orchestrator.execution.signals import stop_signals
from orchestrator.records.datasets import find
from orchestrator.results.llm_results import Measured, Plan, measurement_folder, store
from orchestrator.results.report.markup import dollars
from orchestrator.results.stats import wilson
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from trm_data import Dataset
from trm_data.addresses import has_credentials, split_address
from trm_data.errors import ConfigError, UserError

KEY_VARIABLE = "OPENAI_API_KEY"
_EXIT_CODES = {
    RunStatus.COMPLETE: 0,
    RunStatus.BUDGET: 4,
    RunStatus.UNANSWERED: 1,
    RunStatus.INTERRUPTED: 130,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmOptions:
    """Hold the options of the command line."""

    endpoint: str
    model: str
    benchmark: str
    split: str
    limit: int
    max_usd: float
    usd_in: float | None
    usd_out: float | None
    max_tokens: int
    temperature: float | None
    reasoning_effort: str | None
    timeout_s: float
    api_key_file: Path | None
    effort: Effort


def ask_all(options: LlmOptions, url: str, as_json: bool) -> int:
    """Ask, print and store. Return the exit code: 0 complete, 1 some unanswered, 4 limit reached, 130 interrupted."""
    prices, key = _prices(options), api_key(options.endpoint, options.api_key_file)
    storage = open_storage(url)
    with BuildBar() as progress:
        dataset = find(storage, options.benchmark, progress)
    questions = load_questions(dataset, options.split, options.limit)
    _check_affordable(questions[0], options, prices)
    plan = Plan(
        benchmark=dataset.benchmark,
        fingerprint=dataset.fingerprint,
        split=options.split,
        endpoint=options.endpoint.rstrip("/"),
        model=options.model,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        reasoning_effort=options.reasoning_effort,
    )
    folder = measurement_folder(storage, plan)
    request = Request(plan.model, plan.max_tokens, plan.temperature, plan.reasoning_effort)
    endpoint = Endpoint(plan.endpoint, request, key=key, timeout_s=options.timeout_s)
    try:
        with _alone(folder, plan):
            folder.create("measurement.json", to_json_bytes(plan.plain()))
            answers = Answers(folder)
            ledger = Ledger(options.max_usd, answers.spent_usd + answers.lost_usd)
            ending = _measure(options, dataset, questions, endpoint, answers, ledger, prices)
            measured = None
            if ending is RunStatus.COMPLETE:
                measured = summarise(plan, dataset, questions, answers, options.effort.attempts)
                store(folder, measured)
    finally:
        endpoint.close()
    _show_status(ending, ledger, answers, questions)
    if measured is not None:
        _show(measured, storage, as_json)
    return _EXIT_CODES[ending]


def _prices(options: LlmOptions) -> Prices:
    if options.usd_in is None or options.usd_out is None:
        raise ConfigError(
            "--max-usd needs prices to keep",
            "Give --usd-per-mtok-in and --usd-per-mtok-out; 0 for a server of your own",
        )
    return Prices(options.usd_in, options.usd_out)


def _check_affordable(question: Question, options: LlmOptions, prices: Prices) -> None:
    most = most_usd(question, prices, options.max_tokens)
    if most > options.max_usd:
        raise ConfigError(
            f"one answer can cost {dollars(most)}, more than --max-usd {dollars(options.max_usd)} leaves",
            "Raise --max-usd or lower --max-tokens",
        )


def api_key(endpoint: str, file: Path | None) -> str | None:
    """Return the key from a file, or from the environment if it is not sent unencrypted to another machine.

    Raises:
        ConfigError: the endpoint is not an address or contains credentials, or the file holds no key.
    """
    parts = split_address(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--endpoint {endpoint!r} is not an address", "Example: https://api.openai.com/v1")
    if has_credentials(endpoint):
        raise ConfigError(
            f"--endpoint {endpoint!r} contains credentials, and the endpoint is recorded",
            f"Leave them out: set {KEY_VARIABLE}, or give --api-key-file",
        )
    if file is None:
        return os.environ.get(KEY_VARIABLE) if parts.scheme == "https" or _is_here(parts.hostname) else None
    try:
        key = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key in {file}: {error}") from None
    if not key or not key.isascii() or any(character.isspace() for character in key):
        raise ConfigError(f"{file} holds no key", "It should hold one line with the key alone")
    return key


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _alone(folder: Storage, plan: Plan) -> Iterator[None]:
    """Allow one process per measurement: two would pay twice."""
    try:
        lock = Lease(folder, plan.name).__enter__()
    except SweepError:
        raise UserError(
            f"{plan.model} is already being measured by another process", "Wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _measure(
    options: LlmOptions,
    dataset: Dataset,
    questions: list[Question],
    endpoint: Endpoint,
    answers: Answers,
    ledger: Ledger,
    prices: Prices,
) -> RunStatus:
    stop = threading.Event()
    threading.Thread(target=_wait_for_stop, args=(stop,), daemon=True).start()
    with stop_signals(stop), bar() as progress:
        task = progress.add_task(options.model, total=len(questions), note="")

        def show_progress(done: Progress) -> None:
            note = f"{done.solved} solved, {dollars(done.usd)} of {dollars(options.max_usd)}"
            progress.update(task, completed=done.items, note=note)

        measurement = Measurement(
            dataset,
            endpoint,
            answers,
            ledger,
            prices,
            options.effort,
            stop=stop,
            on_progress=show_progress,
            rng=random.Random(0),
        )
        return measurement.run(questions)


def _wait_for_stop(stop: threading.Event) -> None:
    stop.wait()
    err.print("finishing open requests, which cost money; press Ctrl-C again to abandon them")


def _show_status(ending: RunStatus, ledger: Ledger, answers: Answers, questions: list[Question]) -> None:
    spent = f"{dollars(ledger.spent_usd)} spent"
    if answers.lost:
        spent += f", of it at most {dollars(answers.lost_usd)} on {answers.lost} questions without an answer"
    open_items = sum(answers.get(question.item, 1) is None for question in questions)
    endings = {
        RunStatus.COMPLETE: "complete",
        RunStatus.BUDGET: f"stopped before exceeding --max-usd {dollars(ledger.limit_usd)}; raise it to continue",
        RunStatus.UNANSWERED: "some questions have no answer; run the same command again",
        RunStatus.INTERRUPTED: "stopped; run the same command to resume",
    }
    err.print(f"{endings[ending]}: {len(questions) - open_items} of {len(questions)} sent, {spent}")


def _show(measured: Measured, storage: Storage, as_json: bool) -> None:
    if as_json:
        print(to_json_bytes(measured.plain()).decode(), end="")
        return
    name = "pass@2" if "pass@2" in measured.metrics else "pass@1" if "pass@1" in measured.metrics else "exact_accuracy"
    first = measured.metrics.get("pass@1", measured.metrics["exact_accuracy"])
    low, high = wilson(first, measured.puzzles)
    out.print(
        f"{measured.plan.model}: {100 * first:.1f} % of the first {measured.puzzles:,} {measured.plan.benchmark} "
        f"{measured.plan.split} puzzles at the first attempt (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    )
    if name == "pass@2":
        out.print(f"{100 * measured.metrics['pass@2']:.1f} % within two attempts")
    if measured.truncated or measured.unreadable:
        out.print(f"{measured.truncated} cut off at the token limit, {measured.unreadable} without a whole grid")
    out.print(f"{dollars(measured.usd / measured.puzzles)} per puzzle; {storage.url}/llm/{measured.name}")
    ranked = command_line("leaderboard", measured.plan.benchmark, storage=storage.url)
    out.print(f"ranked with everything else: {ranked}", soft_wrap=True)
