"""Answers of made-up language models, and measurements of them."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, Request
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.measure import Effort, Measurement
from orchestrator.evaluation.llm.questions import Question
from orchestrator.results.llm_results import Plan
from orchestrator.storage import LocalStorage
from tests.support.llm_server import ChatServer, Say
from trm_data import DataRequest, Dataset, build

PUZZLES = 12
PRICES = Prices(1.0, 10.0)
TRM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
QUICK = Effort(attempts=1, concurrency=3, retries=4, backoff_s=0.01)


def lines(cells: np.ndarray, side: int) -> str:
    return "\n".join("".join(str(int(cell) - 1) for cell in row) for row in cells.reshape(side, side))


def solution(question: Question) -> str:
    return f"First I look.\n<answer>\n{lines(question.label, 4)}\n</answer>"


def wrong(question: Question) -> str:
    return f"<answer>\n{lines((question.label - 1) % 4 + 2, 4)}\n</answer>"


def oracle(questions: list[Question], solved: set[int]) -> Callable[[str, int], Say]:
    """Solves the items named, at the first attempt."""
    known = {question.text: question for question in questions}

    def answer(text: str, _: int) -> Say:
        question = known[text]
        return Say(solution(question) if question.item in solved else wrong(question))

    return answer


def measurement(
    dataset: Dataset,
    server: ChatServer,
    folder: Path,
    *,
    effort: Effort = QUICK,
    limit_usd: float = 100.0,
    timeout_s: float = 120.0,
    stop: threading.Event | None = None,
    max_tokens: int = 1_000,
    prices: Prices = PRICES,
) -> tuple[Measurement, Answers, Ledger]:
    answers = Answers(LocalStorage(folder))
    ledger = Ledger(limit_usd, answers.spent_usd + answers.lost_usd)
    endpoint = Endpoint(server.url, Request("m", max_tokens), key=None, timeout_s=timeout_s)
    run = Measurement(
        dataset, endpoint, answers, ledger, prices, effort, stop=stop or threading.Event(), rng=random.Random(0)
    )
    return run, answers, ledger


def arc_dataset(folder: Path, tasks: dict[str, Any]) -> Dataset:
    """Evaluation tasks from JSON files, and one training task that nobody is asked."""
    source = folder / "source"
    training = {"0000000a": {"train": [{"input": [[9]], "output": [[8]]}], "test": [{"input": [[8]], "output": [[9]]}]}}
    for subset, found in (("training", training), ("evaluation", tasks)):
        (source / subset).mkdir(parents=True)
        for name, task in found.items():
            (source / subset / f"{name}.json").write_text(json.dumps(task))
    request = DataRequest(benchmark="arc-agi-1", source=str(source), num_validation=0, allow_overlaps=("all",))
    return build(request, folder / "datasets")


def plan_of(dataset: Dataset, **changes: Any) -> Plan:
    values = {"benchmark": dataset.benchmark, "fingerprint": dataset.fingerprint, "split": "test"}
    return Plan(**{**values, "endpoint": "http://x/v1", "model": "M", "max_tokens": 100, **changes})
