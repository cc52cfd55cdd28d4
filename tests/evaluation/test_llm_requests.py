"""Language models: retries, and a budget that is never exceeded."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evaluation.llm.answers import Answers
from orchestrator.evaluation.llm.endpoint import Endpoint, EndpointError, Request, RetryableError
from orchestrator.evaluation.llm.ledger import Ledger, Prices
from orchestrator.evaluation.llm.measure import RunStatus, most_usd
from orchestrator.evaluation.llm.questions import Question
from orchestrator.evaluation.llm.score import summarise
from orchestrator.records.stored import DamagedRecordError
from orchestrator.storage import LocalStorage
from tests.support.llm import (
    PRICES,
    PUZZLES,
    QUICK,
    measurement,
    oracle,
    plan_of,
    solution,
)
from tests.support.llm_server import Say, chat_server, dripping_server
from trm_data import Dataset


def test_prices_are_dollars_per_million_tokens() -> None:
    prices = Prices(usd_per_mtok_in=3.0, usd_per_mtok_out=15.0)
    assert prices.usd(1_000_000, 0) == 3.0 and prices.usd(0, 2_000_000) == 30.0
    assert prices.usd(1_000, 200) == pytest.approx(0.003 + 0.003)


def test_most_that_a_question_can_cost_is_a_token_per_byte_and_the_longest_answer(questions: list[Question]) -> None:
    question = questions[0]
    sent = most_usd(question, Prices(1e6, 0.0), 500)
    assert len(question.text.encode()) < sent <= len(question.text.encode()) + 100
    assert most_usd(question, Prices(0.0, 1e6), 500) == 500


def test_ledger_gives_the_limit_out_to_the_last_cent_and_no_more() -> None:
    ledger = Ledger(1.0, 0.25)
    assert ledger.reserve(0.75) and ledger.spent_usd == 0.25
    ledger.settle(0.75, 0.5)
    assert ledger.spent_usd == 0.75
    assert not ledger.reserve(0.26)
    assert ledger.reserve(0.25)


class Pauses(threading.Event):
    """What a run waits with: it notes each pause, and does not make it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []
        self.is_limited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.asked_s.append(timeout or 0.0)
        if self.asked_s[-1] > 300:
            self.is_limited.set()
        return self.is_set()


def test_rate_limit_is_waited_out_by_everybody(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    solve, pauses = oracle(questions, set(range(PUZZLES))), Pauses()

    def answer(text: str, number: int) -> Say:
        if number == 2:
            return Say(status=429, headers={"Retry-After": "600"}, body="{}")
        assert number < 2 or pauses.is_limited.wait(120)  # those that were under way when the limit was told
        return solve(text, number)

    with chat_server(answer) as server:
        run, answers, ledger = measurement(dataset, server, tmp_path, stop=pauses)
        assert run.run(questions) is RunStatus.COMPLETE
    free = 2 + QUICK.concurrency  # the first two, the refused one, and those under way
    assert sum(pause_s > 300 for pause_s in pauses.asked_s) > PUZZLES + 1 - free, "the others, and the refused one"
    assert len(server.heard) == PUZZLES + 1 and answers.lost == 0
    assert ledger.spent_usd == pytest.approx(PUZZLES * PRICES.usd(100, 200))


def test_long_retry_after_ends_the_run_in_one_line(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "daily limit"}})
    with chat_server(lambda *_: Say(status=429, headers={"Retry-After": "7200"}, body=body)) as server:
        run, answers, _ = measurement(dataset, server, tmp_path)
        with pytest.raises(EndpointError, match=r"asks to wait 120 minutes \(rate limit: daily limit\)"):
            run.run(questions)
    assert len(server.heard) == 1 and answers.lost == 0


BROKEN = [
    Say(status=500, body=json.dumps({"error": {"message": "overloaded"}})),
    Say(status=503, body="<html>busy</html>"),
    Say(body="{"),
    Say(body=json.dumps({"choices": []})),
    Say(body=json.dumps({"choices": [{"message": {"content": [1]}}]})),
    Say(hang_up=True),
    Say(delay_s=10.0),
]


@pytest.mark.parametrize("broken", BROKEN, ids=["500", "503", "cut JSON", "no choice", "no text", "hang-up", "slow"])
def test_broken_reply_is_asked_for_again(
    broken: Say, dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    """What may have cost money without an answer stays counted, at the most that it can have cost."""
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(lambda text, number: broken if number == 4 else solve(text, number)) as server:
        run, answers, ledger = measurement(dataset, server, tmp_path, timeout_s=5.0 if broken.delay_s else 120.0)
        assert run.run(questions) is RunStatus.COMPLETE
        assert len(server.heard) == PUZZLES + 1
    assert answers.lost == (0 if broken.status >= 500 else 1)
    assert ledger.spent_usd == pytest.approx(answers.spent_usd + answers.lost_usd)
    again = Answers(LocalStorage(tmp_path))
    assert (again.spent_usd, again.lost_usd) == pytest.approx((answers.spent_usd, answers.lost_usd))


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (Say(body=" " * 5_000), "the reply is longer than 4,096 bytes"),
        (Say(status=503, body=" " * 5_000), "status 503: an answer of more than 4,096 bytes"),
        (Say(headers={"Content-Length": "9"}, hang_up=True), ""),
    ],
)
def test_a_reply_without_end_is_not_read(
    say: Say, reason: str, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.evaluation.llm.endpoint.MAX_REPLY_BYTES", 4096)
    with chat_server(lambda text, number: say) as server:
        endpoint = Endpoint(server.url, Request("m", 10), key=None, timeout_s=120.0)
        with pytest.raises(RetryableError) as caught:
            endpoint.ask(questions[0].text)
    assert reason in caught.value.reason


def _caught(say: Say, question: Question) -> Exception:
    """What a question raises that is answered so."""
    with chat_server(lambda text, number: say) as server:
        endpoint = Endpoint(server.url, Request("m", 10), key=None, timeout_s=120.0)
        with pytest.raises((RetryableError, EndpointError)) as caught:
            endpoint.ask(question.text)
    return caught.value


@pytest.mark.parametrize("body", ["[" * 100_000, '{"error":' * 10_000 + "1" + "}" * 10_000])
@pytest.mark.parametrize(("status", "reason"), [(200, "not a chat completion"), (400, "status 400"), (429, "rate")])
def test_a_deeply_nested_reply_is_no_reply(body: str, status: int, reason: str, questions: list[Question]) -> None:
    assert reason in str(_caught(Say(status=status, body=body), questions[0]))


@pytest.mark.parametrize(
    ("status", "location"), [(301, "http://other/v1"), (302, "http://[::bad"), (307, "/v1"), (300, None), (304, None)]
)
def test_a_redirection_is_refused_and_named(status: int, location: str | None, questions: list[Question]) -> None:
    """Followed, it would send the question to an address that nobody named; its text has no limit either."""
    say = Say(status=status, body="", headers={"Location": location} if location else {})
    found = _caught(say, questions[0])
    assert isinstance(found, EndpointError) and f"(status {status})" in str(found)


@pytest.mark.parametrize("headers", [{"Content-Length": "1000"}, {"Content-Encoding": "gzip"}])
def test_a_refusal_counts_whose_text_breaks_off(headers: dict[str, str], questions: list[Question]) -> None:
    """It was taken for a lost answer, which is asked for again and counted at its greatest cost."""
    found = _caught(Say(status=401, body="{", headers={**headers, "Connection": "close"}), questions[0])
    assert isinstance(found, EndpointError) and "status 401" in str(found)


@pytest.mark.parametrize("date", ["Mon, 01 Jan 2020 00:00:00 +999999999999999", "Mon, 99 Jan 9999 00:00:00 GMT", "x"])
def test_a_pause_that_is_no_date_is_none(date: str, questions: list[Question]) -> None:
    found = _caught(Say(status=429, body="busy", headers={"Retry-After": date}), questions[0])
    assert isinstance(found, RetryableError) and found.wait_s == 0


def test_a_refusal_controls_no_terminal(questions: list[Question]) -> None:
    assert "\x1b" not in str(_caught(Say(status=401, body="\x1b[2J\x07 no"), questions[0]))


def test_counts_that_no_model_has_are_estimated_and_words_can_be_written(questions: list[Question]) -> None:
    completion = {
        "choices": [{"message": {"content": "a\ud800"}, "finish_reason": "stop\n\x1b"}],
        "model": "m\ud800" * 1000,
        "usage": {"prompt_tokens": 10**400, "completion_tokens": 1, "total_tokens": 10**401},
    }
    with chat_server(lambda text, number: Say(body=json.dumps(completion))) as server:
        reply = Endpoint(server.url, Request("m", 10), key=None, timeout_s=120.0).ask(questions[0].text)
    assert reply.estimated and reply.tokens_out == 10 and PRICES.usd(reply.tokens_in, reply.tokens_out) < 1
    assert reply.finish == "stop" and len(reply.model) < 300
    assert (reply.text + reply.model).encode()


def test_a_reply_that_begins_and_does_not_end_has_a_time_limit() -> None:
    """Each part arrives in time, the last one never does."""
    with pytest.raises(RetryableError, match="no reply in time") as caught, dripping_server() as url:
        Endpoint(url, Request("m", 10), key=None, timeout_s=0.5).ask("?")
    assert caught.value.kind == "lost"


def test_question_that_never_gets_an_answer_is_left_for_the_next_run(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    solve = oracle(questions, set(range(PUZZLES)))

    def answer(text: str, number: int) -> Say:
        return Say(status=500, body="{}") if text == questions[5].text else solve(text, number)

    with chat_server(answer) as server:
        run, _, _ = measurement(dataset, server, tmp_path)
        assert run.run(questions) is RunStatus.UNANSWERED
    with chat_server(solve) as server:
        run, _, _ = measurement(dataset, server, tmp_path)
        assert run.run(questions) is RunStatus.COMPLETE
        assert [heard.question for heard in server.heard] == [questions[5].text]


def test_endpoint_that_goes_away_ends_the_run(dataset: Dataset, questions: list[Question], tmp_path: Path) -> None:
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(lambda text, n: solve(text, n) if n < 3 else Say(status=502, body="gone")) as server:
        run, answers, _ = measurement(dataset, server, tmp_path)
        with pytest.raises(EndpointError, match="stopped answering: status 502: gone"):
            run.run(questions)
    assert sum(answers.get(question.item, 1) is not None for question in questions) == 3


def test_truncated_and_unreadable_answers_are_wrong_and_counted(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    known = {question.text: question for question in questions}

    def answer(text: str, _: int) -> Say:
        item = known[text].item
        if item == 0:
            return Say(solution(known[text]), finish="length")
        return Say("I give up." if item == 1 else solution(known[text]))

    with chat_server(answer) as server:
        run, answers, _ = measurement(dataset, server, tmp_path)
        run.run(questions)
    found = summarise(plan_of(dataset), dataset, questions, answers, 1)
    assert (found.truncated, found.unreadable) == (1, 1)
    assert found.metrics["exact_accuracy"] == pytest.approx((PUZZLES - 2) / PUZZLES)


def test_newer_name_of_the_token_limit_is_used_where_it_is_asked_for(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    solve, refusal = oracle(questions, set()), "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."

    def answer(text: str, number: int) -> Say:
        refused = Say(status=400, body=json.dumps({"error": {"message": refusal}}))
        return refused if "max_tokens" in server.heard[number].body else solve(text, number)

    with chat_server(answer) as server:
        run, _, _ = measurement(dataset, server, tmp_path)
        assert run.run(questions) is RunStatus.COMPLETE
        assert server.heard[-1].body["max_completion_tokens"] == 1_000 and len(server.heard) == PUZZLES + 1


@given(
    st.floats(0, 50),
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), max_size=30),
    st.integers(1, 6),
)
def test_ledger_never_passes_its_limit(limit: float, questions: list[tuple[float, float]], at_once: int) -> None:
    """Whatever the order in which answers come back, with at most `at_once` under way."""
    ledger, under_way = Ledger(limit, 0.0), []
    for most, share in questions:
        if len(under_way) == at_once:
            ledger.settle(*under_way.pop(0))
        room = limit - ledger.spent_usd - sum(m for m, _ in under_way)
        while under_way and most > room - 1e-9:  # it would wait for one of these to come back
            ledger.settle(*under_way.pop(0))
            room = limit - ledger.spent_usd - sum(m for m, _ in under_way)
        if ledger.reserve(most):
            under_way.append((most, most * share))
        assert ledger.spent_usd + sum(m for m, _ in under_way) <= limit + 1e-9


def test_run_stops_before_the_limit_and_a_higher_one_goes_on(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    most = PRICES.usd(len(questions[0].text.encode()) + 64, 1_000)
    limit = most + 4.5 * PRICES.usd(100, 200)
    solve = oracle(questions, set(range(PUZZLES)))
    with chat_server(solve) as server:
        run, answers, ledger = measurement(dataset, server, tmp_path, limit_usd=limit)
        assert run.run(questions) is RunStatus.BUDGET
        assert 3 <= len(server.heard) <= 5 and answers.spent_usd == ledger.spent_usd <= limit
        first = len(server.heard)
        run, answers, _ = measurement(dataset, server, tmp_path, limit_usd=10.0)
        assert run.run(questions) is RunStatus.COMPLETE
        assert len(server.heard) == PUZZLES and first < PUZZLES


def test_nothing_is_asked_once_a_question_did_not_fit_the_limit(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    """Cheaper questions after it would leave out the expensive ones, and so change what is measured."""
    first, *others = questions[:4]
    expensive = dataclasses.replace(others[0], text=others[0].text + " " * 1_000_000)
    one_at_a_time = dataclasses.replace(QUICK, concurrency=1)
    with chat_server(oracle(questions, set())) as server:
        run, *_ = measurement(dataset, server, tmp_path, limit_usd=0.5, effort=one_at_a_time)
        assert run.run([first, expensive, *others[1:]]) is RunStatus.BUDGET
        assert len(server.heard) == 1


def test_uncounted_tokens_are_charged_at_the_most_that_they_can_be(
    dataset: Dataset, questions: list[Question], tmp_path: Path
) -> None:
    with chat_server(lambda *_: Say("<answer></answer>", tokens=None)) as server:
        run, answers, _ = measurement(dataset, server, tmp_path)
        run.run(questions[:1])
    answer = answers.get(0, 1)
    assert answer is not None and answer.estimated
    assert answer.usd == PRICES.usd(len(questions[0].text.encode()), 1_000)


@pytest.mark.parametrize("key", ["answers/000003-1.json", "asked/000003-1-01.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"usd_at_most": "much"}'])
def test_damaged_answer_is_named_in_one_line(key: str, data: bytes, tmp_path: Path) -> None:
    """What it has cost is not known, so that the run does not go on as if it had cost nothing."""
    folder = LocalStorage(tmp_path)
    folder.write(key, data)
    with pytest.raises(DamagedRecordError, match=key) as caught:
        Answers(folder)
    assert "\n" not in str(caught.value)


def test_stray_file_among_the_requests_does_not_end_a_run(tmp_path: Path) -> None:
    folder = LocalStorage(tmp_path)
    folder.write("asked/000003-1-04.json", b'{"usd_at_most": 0.5}')
    folder.write("asked/000003-1-04 (copy).json", b'{"usd_at_most": 0.5}')
    assert Answers(folder).record_attempt(3, 1, 0.25) == "000003-1-05"
