"""All questions of a measurement, several at a time, until they are answered, the money is used up, or someone stops
it. Whatever ends it, the same command goes on where it was left.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.evaluation.llm.answers import Answer, Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, EndpointError, Reply, TryAgain
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.questions import Question, read_answer
from orchestrator.evaluation.llm.score import is_exact
from trm_data import Dataset

LONGEST_WAIT_S = 900.0
"""An endpoint that asks for more patience than this is left alone until the command is run again."""
LONGEST_BACKOFF_S = 60.0
GIVE_UP_AFTER = 3
"""Questions in a row that no try gets answered: then the endpoint is taken to be gone."""
_WRAPPING_TOKENS = 64
"""What a chat template may add to a question."""


def most_usd(question: Question, prices: Prices, most_tokens: int) -> float:
    """The most that one try at a question can cost: a token is at least a byte long."""
    return prices.usd(len(question.text.encode()) + _WRAPPING_TOKENS, most_tokens)


class Ending(StrEnum):
    """Why a run of the questions ended."""

    COMPLETE = "complete"
    BUDGET = "budget"
    INTERRUPTED = "interrupted"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try."""

    attempts: int = 2
    concurrency: int = 4
    retries: int = 6
    backoff_s: float = 1.0
    """Before the first retry; doubled for each further one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    items: int
    solved: int
    usd: float


class Interview:
    """Asks what has no answer yet. A second attempt is only paid for where the first is wrong: pass@2 is the same."""

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
        tell: Callable[[Progress], None] = lambda _: None,
        rng: random.Random,
    ) -> None:
        self._dataset = dataset
        self._endpoint = endpoint
        self._answers = answers
        self._ledger = ledger
        self._prices = prices
        self._effort = effort
        self._stop = stop
        self._tell = tell
        self._rng = rng
        self._lock = threading.Lock()
        self._most_out = endpoint.request.max_tokens
        self._calm_at = 0.0
        self._has_answered = False
        self._given_up = 0
        self._exhausted = False
        self._done: dict[int, bool] = {}

    def run(self, questions: Sequence[Question]) -> Ending:
        """Ask until the end.

        Raises:
            EndpointError: the endpoint is none, refuses, or went away.
        """
        still_open = []
        for question in questions:
            if self._is_settled(question):
                self._note(question)
            else:
                still_open.append(question)
        if still_open:
            self._take(still_open[0])  # alone: whether the endpoint is one is worth one question
            self._fan_out(still_open[1:])
        if len(self._done) == len(questions):
            return Ending.COMPLETE
        if self._exhausted:
            return Ending.BUDGET
        return Ending.INTERRUPTED if self._stop.is_set() else Ending.UNANSWERED

    def _fan_out(self, questions: Sequence[Question]) -> None:
        with ThreadPoolExecutor(self._effort.concurrency, thread_name_prefix="llm") as pool:
            futures = [pool.submit(self._take, question) for question in questions]
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
        return is_exact(dataset, question, read_answer(answer.text, dataset.manifest.family, dataset.grid_shape[0]))

    def _note(self, question: Question) -> None:
        tries = [self._answers.get(question.item, number) for number in range(1, self._effort.attempts + 1)]
        with self._lock:
            self._done[question.item] = any(self._is_right(question, answer) for answer in tries)
            self._tell(Progress(len(self._done), sum(self._done.values()), self._ledger.spent_usd))

    def _take(self, question: Question) -> None:
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
        """Ask until there is an answer; None if there is none to be had."""
        reason = ""
        for number in range(self._effort.retries + 1):
            self._stop.wait(max(0.0, self._calm_at - time.monotonic()))
            if self._stop.is_set():
                return None
            most = most_usd(question, self._prices, self._most_out)
            if not self._ledger.reserve(most):
                self._exhausted = True
                self._stop.set()
                return None
            try:
                return self._try(question, attempt, most)
            except TryAgain as error:
                reason = error.reason
                self._pause(error, number)
        with self._lock:
            self._given_up += 1
            if self._given_up >= GIVE_UP_AFTER:
                raise EndpointError(
                    f"{self._endpoint.url} stopped answering: {reason}", "Run the same command later: nothing is lost"
                )
        return None

    def _try(self, question: Question, attempt: int, most_usd: float) -> Answer:
        spent = most_usd  # until the contrary is known
        try:
            name = self._answers.announce(question.item, attempt, most_usd)
            try:
                reply = self._endpoint.ask(question.text)
            except (TryAgain, EndpointError) as raised:
                error = self._judged(raised)
                if isinstance(error, EndpointError) or not error.may_have_cost:
                    spent = 0.0
                    self._answers.withdraw(name)
                raise error from None
            spent = self._prices.usd(reply.tokens_in, reply.tokens_out)
            answer = Answer.of(reply, item=question.item, attempt=attempt, asked=name, usd=spent, now_s=time.time())
            self._answers.keep(answer)
        finally:
            self._ledger.settle(most_usd, spent)
        self._heard(reply)
        return answer

    def _judged(self, error: TryAgain | EndpointError) -> TryAgain | EndpointError:
        """Before the first reply, what is unreachable or talks garbage is taken to be no endpoint at all."""
        if isinstance(error, TryAgain) and not self._has_answered and error.kind in _FOREIGN:
            words = _FOREIGN[error.kind].format(url=self._endpoint.url, reason=error.reason)
            return EndpointError(words, "Check --endpoint: it often ends in /v1")
        return error

    def _heard(self, reply: Reply) -> None:
        with self._lock:
            self._has_answered = True
            self._given_up = 0
            self._most_out = max(self._most_out, reply.tokens_out)  # not every endpoint keeps to its limit

    def _pause(self, error: TryAgain, number: int) -> None:
        if error.wait_s > LONGEST_WAIT_S:
            raise EndpointError(
                f"{self._endpoint.url} asks to wait {error.wait_s / 60:.0f} minutes ({error.reason})",
                "Run the same command later: nothing is paid for twice",
            )
        if error.kind == "busy":  # it is the endpoint that is busy, so everybody waits
            self._calm_at = max(self._calm_at, time.monotonic() + error.wait_s)
        backoff_s = min(LONGEST_BACKOFF_S, self._effort.backoff_s * 2**number) * self._rng.uniform(0.5, 1.0)
        self._stop.wait(max(error.wait_s, backoff_s))


_FOREIGN = {
    "garbage": "{url} is no OpenAI-compatible endpoint: {reason}",
    "unreachable": "no language model answers at {url}: {reason}",
}
