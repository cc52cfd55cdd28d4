"""Send one question over HTTP to an endpoint with OpenAI's chat protocol.

The client library's own retries are off: what a try may have cost has to be known for each of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from trm_data.errors import UserError, first_line
from trm_data.files import load_json

if TYPE_CHECKING:
    import openai

CONNECT_S = 20.0
MAX_REPLY_BYTES = 16 * 2**20
"""Most bytes of a response: the longest answers of language models have less than one million."""
MAX_TOKENS = 10**9
"""Most tokens of a response that can have been counted: no model reads or writes so many."""
_MESSAGE_LENGTH = 200
"""Most characters of a server's words in a line."""
_REDIRECTIONS = range(300, 400)
"""Statuses that are refused: following one would send the question, or none, to an address that nobody named."""


class EndpointError(UserError):
    """Raised for an endpoint error that retries cannot fix: a wrong address, a refused key, an unknown model."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold a completed response."""

    text: str
    finish: str
    """`stop`, `length` if it was cut off, or another reason of the endpoint."""
    tokens_in: int
    tokens_out: int
    estimated: bool
    """Whether the endpoint did not report the tokens; then they are upper bounds."""
    model: str
    """The model that the endpoint reports."""
    seconds: float


class RetryableError(Exception):
    """Raised for a request without a reply that may succeed when it is repeated."""

    def __init__(self, reason: str, kind: Literal["busy", "lost", "garbage", "unreachable"], wait_s: float = 0.0):
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        """busy: rate limit. lost: sent, no reply. garbage: not a valid reply. unreachable: not sent."""
        self.wait_s = wait_s
        """Shortest wait that the endpoint requests."""

    @property
    def may_have_cost(self) -> bool:
        """Return whether the model may have generated an answer that was lost."""
        return self.kind in ("lost", "garbage")


class _RefusedError(Exception):
    """Raised within the client library for a response with an error status, before the library reads its body."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(f"status {status}")
        self.status, self.headers, self.text = status, headers, text


class _TooLongError(Exception):
    """Raised for a response that is longer than the limit."""


class _LateError(Exception):
    """Raised for a response that has begun and does not end in time."""


@dataclass(frozen=True, slots=True)
class Request:
    """Hold the parameters of a request other than the question."""

    model: str
    max_tokens: int
    temperature: float | None = None
    reasoning_effort: str | None = None


class Endpoint:
    """Send questions to a chat endpoint. Thread-safe."""

    def __init__(self, url: str, request: Request, *, key: str | None, timeout_s: float) -> None:
        self.url = url
        self.request = request
        self._openai = _library()
        self._limit_field = "max_tokens"
        timeout = self._openai.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        self._timeout_s = timeout_s
        client = self._openai.DefaultHttpxClient(event_hooks={"response": [partial(_refuse, timeout_s=timeout_s)]})
        # Private servers need no key, but the library requires a non-empty one.
        self._client: openai.OpenAI = self._openai.OpenAI(
            base_url=url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=client
        )

    def close(self) -> None:
        """Close every connection, including those of open requests."""
        self._client.close()

    def ask(self, question: str) -> Reply:
        """Send one question and wait for the reply.

        Raises:
            RetryableError: no reply, but a retry may succeed.
            EndpointError: retries cannot succeed.
        """
        started = time.monotonic()
        try:
            body = self._post(question, started + self._timeout_s)
        except _RefusedError as refused:
            if self._limit_field == "max_tokens" and "max_completion_tokens" in refused.text:
                self._limit_field = "max_completion_tokens"  # the only name that newer OpenAI models accept
                return self.ask(question)
            raise self._refusal(refused) from None
        except self._openai.APITimeoutError as error:
            sent = "connect" not in type(error.__cause__).__name__.lower()
            raise RetryableError("no reply in time", "lost" if sent else "unreachable") from None
        except self._openai.APIConnectionError as error:
            sent = "connect" not in type(error.__cause__).__name__.lower()
            raise RetryableError(first_line(error.__cause__ or error), "lost" if sent else "unreachable") from None
        return self._read(body, question, time.monotonic() - started)

    def _post(self, question: str, deadline: float) -> str:
        options: dict[str, Any] = {self._limit_field: self.request.max_tokens}
        if self.request.temperature is not None:
            options["temperature"] = self.request.temperature
        if self.request.reasoning_effort is not None:
            options["reasoning_effort"] = self.request.reasoning_effort
        sent = self._client.chat.completions.with_streaming_response.create(
            model=self.request.model, messages=[{"role": "user", "content": question}], **options
        )
        with _unwrapped(self._openai.APIConnectionError), sent as raw:
            try:
                return _limited(raw.iter_bytes(), deadline)
            except _TooLongError:
                raise RetryableError(f"the reply is longer than {MAX_REPLY_BYTES:,} bytes", "garbage") from None
            except Exception as error:  # the library passes on those of its HTTP client, whichever it is
                raise RetryableError(_broken_off(error), "lost") from None

    def _refusal(self, error: _RefusedError) -> Exception:
        status, text = error.status, _message_of(error.text)
        wait_s = _retry_after_s(error.headers.get("retry-after"))
        if status == 429 and "insufficient_quota" not in error.text:
            return RetryableError(f"rate limit: {text}", "busy", wait_s)
        if status in (408, 409) or status >= 500:
            return RetryableError(f"status {status}: {text}", "busy", wait_s)
        if status in _REDIRECTIONS:
            location = _shown(error.headers.get("location", ""))
            return EndpointError(
                f"{self.url} redirects to {location or 'no address'} (status {status})",
                "Give the address that answers with --endpoint",
            )
        remedy = {
            401: "Give a valid key with --api-key-file",
            403: "Give a key that may use this model with --api-key-file",
            404: "Check --endpoint, which often ends in /v1, and --model",
        }.get(status, "Check --model and the options")
        return EndpointError(f"{self.url} refuses the question with status {status}: {text}", remedy)

    def _read(self, body: str, question: str, seconds: float) -> Reply:
        try:
            value = load_json(body)
            choice = value["choices"][0]
            text = choice["message"].get("content") or ""
            finish = _shown(str(choice.get("finish_reason") or "unknown"))
            reported = _shown(str(value.get("model") or ""))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RetryableError(f"the reply is not a chat completion: {_message_of(body)}", "garbage") from None
        if not isinstance(text, str):
            raise RetryableError("the reply holds no text", "garbage")
        text = text.encode(errors="replace").decode()  # JSON may hold half a character, which no file can
        tokens = _counted(value.get("usage"))
        tokens_in, tokens_out = tokens or (len(question.encode()), self.request.max_tokens)
        return Reply(text, finish, tokens_in, tokens_out, tokens is None, reported, seconds)


def _refuse(response: Any, timeout_s: float) -> None:
    """Raise a _RefusedError for a redirection or a response with an error status. A hook of the HTTP client."""
    if response.status_code >= _REDIRECTIONS.start:
        try:
            text = _limited(response.iter_bytes(), time.monotonic() + timeout_s)
        except _TooLongError:
            text = f"an answer of more than {MAX_REPLY_BYTES:,} bytes"
        except Exception as error:  # the status is known, and says what to do, whatever became of the text
            text = _broken_off(error)
        raise _RefusedError(response.status_code, response.headers, text)


@contextmanager
def _unwrapped(kind: type[Exception]) -> Iterator[None]:
    """Raise a _RefusedError itself where a version of the library wraps what a hook raises in its own error."""
    try:
        yield
    except kind as error:
        if isinstance(error.__cause__, _RefusedError):
            raise error.__cause__ from None
        raise


def _broken_off(error: Exception) -> str:
    """Return why the rest of a response has not arrived."""
    is_late = isinstance(error, _LateError) or "timeout" in type(error).__name__.lower()
    return "no reply in time" if is_late else first_line(error)


def _limited(chunks: Iterable[bytes], deadline: float) -> str:
    """Return the text of a response.

    Raises:
        _TooLongError: it is longer than the limit.
        _LateError: its end has not arrived at the deadline; the HTTP client limits the wait for each part only.
    """
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise _TooLongError
        if time.monotonic() > deadline:
            raise _LateError
    return body.decode(errors="replace")


def _library() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            "asking a language model needs the package openai", "Install it: pip install 'openai>=3,<4'"
        ) from None
    return openai


def _counted(usage: object) -> tuple[int, int] | None:
    """Return (prompt, completion) tokens; hidden reasoning, which may be in the total only, counts as completion."""
    if not isinstance(usage, dict):
        return None
    given, made, total = (usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    if type(given) is not int or type(made) is not int or min(given, made) < 0:
        return None
    made = max(made, total - given if type(total) is int else 0)
    return (given, made) if max(given, made) <= MAX_TOKENS else None


def _message_of(body: str) -> str:
    """Extract the message of a response body, in one line."""
    try:
        error = load_json(body)
        while isinstance(error, dict) and (inner := error.get("error") or error.get("message") or error.get("detail")):
            error = inner
        text = error if isinstance(error, str) else body
    except ValueError:
        text = "an HTML page" if "<html" in body[:500].lower() or body.lstrip()[:1] == "<" else body
    return _shown(text)


def _shown(text: str) -> str:
    """Return a server's words in one line, cut, and without characters that would control a terminal."""
    text = "".join(char if char.isprintable() else " " for char in text[: 16 * _MESSAGE_LENGTH])
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}..."


def _retry_after_s(header: str | None) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 without one."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
