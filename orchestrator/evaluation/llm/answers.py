"""Store every reply, and every unanswered request that may have cost money.

asked/000012-1-03.json     try 3 of attempt 1 at item 12: the most that it can cost, written before it is sent
answers/000012-1.json      the reply, written whole; its `asked` file is then deleted
"""

from __future__ import annotations

from orchestrator.evaluation.llm.endpoint import Reply
from orchestrator.records.stored import read_settings
from orchestrator.storage import Storage
from orchestrator.storage.base import to_json_bytes
from trm_data.settings import Settings


class Answer(Settings):
    """Hold a stored reply."""

    item: int
    attempt: int
    """1 or 2."""
    asked: str
    """The try that it answers: a name in `asked/`."""
    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    estimated: bool
    model: str
    seconds: float
    usd: float
    answered_s: float

    @classmethod
    def of(cls, reply: Reply, *, item: int, attempt: int, asked: str, usd: float, now_s: float) -> Answer:
        """Combine a reply with the question that it answers and its cost."""
        return cls(
            item=item,
            attempt=attempt,
            asked=asked,
            text=reply.text,
            finish=reply.finish,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            estimated=reply.estimated,
            model=reply.model,
            seconds=reply.seconds,
            usd=usd,
            answered_s=now_s,
        )


class Asked(Settings):
    """Hold a stored request that may have cost money."""

    usd_at_most: float


class Answers:
    """Manage the answers of one measurement. Each item is written by one thread."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._answers: dict[tuple[int, int], Answer] = {}
        for key in folder.list("answers"):
            answer = read_settings(folder, key, Answer)
            self._answers[answer.item, answer.attempt] = answer
        answered = {answer.asked for answer in self._answers.values()}
        self._open = {
            name: read_settings(folder, key, Asked).usd_at_most
            for key in folder.list("asked")
            if (name := key.removeprefix("asked/").removesuffix(".json")) not in answered
        }

    @property
    def spent_usd(self) -> float:
        """Return the cost of all stored answers in US dollars."""
        return sum(answer.usd for answer in self._answers.values())

    @property
    def lost_usd(self) -> float:
        """Return an upper bound of the cost of requests without an answer, in US dollars."""
        return sum(self._open.values())

    @property
    def lost(self) -> int:
        """Return the number of requests without an answer."""
        return len(self._open)

    def get(self, item: int, attempt: int) -> Answer | None:
        """Return a stored answer; None if there is none."""
        return self._answers.get((item, attempt))

    def record_attempt(self, item: int, attempt: int, usd_at_most: float) -> str:
        """Record that a request is about to be sent; return the name of that record."""
        prefix = f"{item:06d}-{attempt}-"
        ends = [name.removeprefix(prefix) for name in list(self._open) if name.startswith(prefix)]
        tried = [int(end) for end in ends if end.isdecimal()]
        name = f"{prefix}{max(tried, default=0) + 1:02d}"
        self._folder.write(f"asked/{name}.json", to_json_bytes(Asked(usd_at_most=usd_at_most).plain()))
        self._open[name] = usd_at_most
        return name

    def withdraw(self, name: str) -> None:
        """Delete the record of a request that cannot have cost anything."""
        self._folder.delete(f"asked/{name}.json")
        self._open.pop(name, None)

    def keep(self, answer: Answer) -> None:
        """Store an answer and delete the record of its request."""
        self._folder.write(f"answers/{answer.item:06d}-{answer.attempt}.json", to_json_bytes(answer.plain()))
        self._answers[answer.item, answer.attempt] = answer
        self.withdraw(answer.asked)
