"""Ask all questions of a measurement in parallel, within a budget. Repeating the command resumes an interrupted run."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.evaluation.llm.answers import Answer, Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, EndpointError, Reply, RetryableError
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.questions import Question, read_answer
from orchestrator.evaluation.llm.score import is_exact
from trm_data import Dataset

LONGEST_WAIT_S = 900.0
"""A Retry-After above this ends the run."""
LONGEST_BACKOFF_S = 60.0
MOST_UNANSWERED = 3
"""Questions in a row that stay unanswered after all retries before the run ends."""
_WRAPPING_TOKENS = 64
"""Upper bound of the tokens that a chat template adds to a question."""


def most_usd(question: Question, prices: Prices, most_tokens: int) -> float:
    """Return the maximum cost of one request in US dollars: a token is at least one byte long."""
    return prices.usd(len(question.text.encode()) + _WRAPPING_TOKENS, most_tokens)


class RunStatus(StrEnum):
    """List how a run of a measurement can end."""

    COMPLETE = "complete"
    BUDGET = "budget"
    INTERRUPTED = "interrupted"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Effort:
    """Limit attempts, retries and parallel requests."""

    attempts: int = 2
    concurrency: int = 4
    retries: int = 6
    backoff_s: float = 1.0
    """Before the first retry; doubled for each further one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Hold the number of questions settled and solved so far, and the dollars spent."""

    items: int
    solved: int
    usd: float


class Measurement:
    """Ask every question without an answer. A second attempt is made only if the first is wrong, which keeps pass@2
    exact."""

    def __init__(
        self,
        dataset: Dataset,
        endpoint: Endpoint,
        answers: Answers,
        ledger: Ledger,
        prices: Prices,
        effort: Effort,
        *,
        stop: threading.Event,
        on_progress: Callable[[Progress], None] = lambda _: None,
        rng: random.Random,
    ) -> None:
        self._dataset = dataset
        self._endpoint = endpoint
        self._answers = answers
        self._ledger = ledger
        self._prices = prices
        self._effort = effort
        self._stop = stop
        self._on_progress = on_progress
        self._rng = rng
        self._lock = threading.Lock()
        self._most_out = endpoint.request.max_tokens
        self._resume_at = 0.0
        self._has_answered = False
        self._unanswered = 0
        self._exhausted = False
        self._done: dict[int, bool] = {}

    def run(self, questions: Sequence[Question]) -> RunStatus:
        """Ask all open questions.

        Raises:
            EndpointError: no endpoint at this address, or it refuses, or it stopped answering.
        """
        still_open = []
        for question in questions:
            if self._is_settled(question):
                self._note(question)
            else:
                still_open.append(question)
        if still_open:
            self._ask_question(still_open[0])  # alone: a wrong address costs one request, not several
            self._fan_out(still_open[1:])
        if len(self._done) == len(questions):
            return RunStatus.COMPLETE
        if self._exhausted:
            return RunStatus.BUDGET
        return RunStatus.INTERRUPTED if self._stop.is_set() else RunStatus.UNANSWERED

    def _fan_out(self, questions: Sequence[Question]) -> None:
        with ThreadPoolExecutor(self._effort.concurrency, thread_name_prefix="llm") as pool:
            futures = [pool.submit(self._ask_question, question) for question in questions]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _is_settled(self, question: Question) -> bool:
        tries = [self._answers.get(question.item, number) for number in range(1, self._effort.attempts + 1)]
        return any(self._is_right(question, answer) for answer in tries) or all(tries)

    def _is_right(self, question: Question, answer: Answer | None) -> bool:
        if answer is None or answer.finish == "length":
            return False
        dataset = self._dataset
        return is_exact(dataset, question, read_answer(answer.text, dataset.kind, dataset.grid_shape[0]))

    def _note(self, question: Question) -> None:
        tries = [self._answers.get(question.item, number) for number in range(1, self._effort.attempts + 1)]
        with self._lock:
            self._done[question.item] = any(self._is_right(question, answer) for answer in tries)
            self._on_progress(Progress(len(self._done), sum(self._done.values()), self._ledger.spent_usd))

    def _ask_question(self, question: Question) -> None:
        for number in range(1, self._effort.attempts + 1):
            if self._stop.is_set():
                return
            answer = self._answers.get(question.item, number) or self._answer(question, number)
            if answer is None:
                return
            if self._is_right(question, answer):
                break
        self._note(question)

    def _answer(self, question: Question, attempt: int) -> Answer | None:
        """Ask until there is an answer; return None if the run stops or all retries fail."""
        reason = ""
        for number in range(self._effort.retries + 1):
            self._stop.wait(max(0.0, self._resume_at - time.monotonic()))
            if self._stop.is_set():
                return None
            most = most_usd(question, self._prices, self._most_out)
            if not self._ledger.reserve(most):
                self._exhausted = True
                self._stop.set()
                return None
            try:
                return self._try(question, attempt, most)
            except RetryableError as error:
                reason = error.reason
                self._pause(error, number)
        with self._lock:
            self._unanswered += 1
            if self._unanswered >= MOST_UNANSWERED:
                raise EndpointError(
                    f"{self._endpoint.url} stopped answering: {reason}", "Run the same command later: nothing is lost"
                )
        return None

    def _try(self, question: Question, attempt: int, most_usd: float) -> Answer:
        spent = most_usd  # a request with an unknown outcome counts at its maximum
        try:
            name = self._answers.record_attempt(question.item, attempt, most_usd)
            try:
                reply = self._endpoint.ask(question.text)
            except (RetryableError, EndpointError) as raised:
                error = self._classify(raised)
                if isinstance(error, EndpointError) or not error.may_have_cost:
                    spent = 0.0
                    self._answers.withdraw(name)
                raise error from None
            spent = self._prices.usd(reply.tokens_in, reply.tokens_out)
            answer = Answer.of(reply, item=question.item, attempt=attempt, asked=name, usd=spent, now_s=time.time())
            self._answers.keep(answer)
        finally:
            self._ledger.settle(most_usd, spent)
        self._note_reply(reply)
        return answer

    def _classify(self, error: RetryableError | EndpointError) -> RetryableError | EndpointError:
        """Convert a failure before the first reply to an error: the address is probably wrong."""
        if isinstance(error, RetryableError) and not self._has_answered and error.kind in _NOT_AN_ENDPOINT:
            words = _NOT_AN_ENDPOINT[error.kind].format(url=self._endpoint.url, reason=error.reason)
            return EndpointError(words, "Check --endpoint: it often ends in /v1")
        return error

    def _note_reply(self, reply: Reply) -> None:
        with self._lock:
            self._has_answered = True
            self._unanswered = 0
            self._most_out = max(self._most_out, reply.tokens_out)  # not every endpoint respects max_tokens

    def _pause(self, error: RetryableError, number: int) -> None:
        if error.wait_s > LONGEST_WAIT_S:
            raise EndpointError(
                f"{self._endpoint.url} asks to wait {error.wait_s / 60:.0f} minutes ({error.reason})",
                "Run the same command later: nothing is paid for twice",
            )
        if error.kind == "busy":  # a rate limit holds for all threads
            self._resume_at = max(self._resume_at, time.monotonic() + error.wait_s)
        backoff_s = min(LONGEST_BACKOFF_S, self._effort.backoff_s * 2**number) * self._rng.uniform(0.5, 1.0)
        self._stop.wait(max(error.wait_s, backoff_s))


_NOT_AN_ENDPOINT = {
    "garbage": "{url} is not an OpenAI-compatible endpoint: {reason}",
    "unreachable": "no language model answers at {url}: {reason}",
}
