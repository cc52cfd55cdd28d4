"""Addresses are shown without their credentials."""

from __future__ import annotations

import pytest

from trm_data.addresses import hide_credentials, shown_address, shown_webhook


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("s3://bucket/runs?region=eu-west-1", "s3://bucket/runs?region=eu-west-1"),
        ("runs", "runs"),
        ("http://me:hunter2@host:5000/mlflow", "http://host:5000/mlflow"),
        ("https://hunter2@host/", "https://host/"),
        ("postgresql+psycopg://me:hunter2@host/db", "postgresql+psycopg://host/db"),
        ("postgresql://host/db?user=me&password=hunter2&sslmode=off", "postgresql://host/db?user=me&password=...&sslmode=off"),
        ("https://host/x?X-Amz-Signature=hunter2&X-Amz-Date=1", "https://host/x?X-Amz-Signature=...&X-Amz-Date=1"),
        ("https://host/x?sv=1&sig=hunter2", "https://host/x?sv=1&sig=..."),
        ("https://host/x#access_token=hunter2", "https://host/x#access_token=..."),
        ("s3://AKIA:hunter2@bucket/x", "s3://bucket/x"),
        ("s3://bucket/x?endpoint_override=http://me:hunter2@host:9000", "s3://bucket/x?endpoint_override=http://host:9000"),
        ("http://me:hunter2/@host/x", "http://host/x"),
        ("http://me:hunter2?@host/x", "http://..."),
        ("http://me:hunter2#@host/x", "http://..."),
        ("http://me:p@hunter2@host/x", "http://host/x"),
        ("http:/me:hunter2@host", "...@host"),
        ("http:me:hunter2@host/x", "...@host/x"),
        ("//me:hunter2@host/x", "//...@host/x"),
        ("me:hunter2@host", "...@host"),
        ("me@example.com:hunter2@host", "...@host"),
        (":hunter2@host", "...@host"),
        ("http:///me:hunter2@host/x", "http://..."),
        ("s3:///hunter2@host/x", "s3://..."),
        ("://me:hunter2@host", "://host"),
        ("https://host/x?pass%77ord=hunter2", "https://host/x?pass%77ord=..."),
        ("https://host/x?pass%2577ord=hunter2", "https://host/x?pass%2577ord=..."),
        ("file?to%6ben=hunter2", "file?to%6ben=..."),
        ("file:///C:/me@x", "file:///C:/me@x"),
    ],
)  # fmt: skip
def test_user_and_password_and_signatures_are_not_shown(url: str, shown: str) -> None:
    assert shown_address(url) == shown and "hunter2" not in shown


def test_urls_within_a_message_are_cleaned_and_the_rest_stays() -> None:
    text = 'API request to "http://me:hunter2@host:5000/version" failed; see https://host/help (twice)'
    assert hide_credentials(text) == 'API request to "http://host:5000/version" failed; see https://host/help (twice)'


def test_only_the_host_of_a_webhook_is_shown() -> None:
    assert shown_webhook("https://hooks.example.com/T1/hunter2?x=1") == "https://hooks.example.com/..."


@pytest.mark.parametrize(
    "address",
    [
        "http:/me:hunter2@host",
        "http:me:hunter2@host/x",
        "http;//me:hunter2@host/x",
        "https:\\\\me:hunter2@host",
        "//me:hunter2@host/x",
        "me:hunter2@host:5432/db",
        "me:hun/hunter2@host",
        "me@example.com:hunter2@host",
        "http://me:hun'hunter2@host/x",
        'http://me:hun"hunter2@host/x',
        "http://me:a'/hunter2@host/x",
        "http://me:a hunter2@host/x",
        "me:hun'hunter2@host/x",
        "://me:hunter2@host",
        "http:///me:hunter2@host",
        "/x?pass%77ord=hunter2",
        "/x?token=a'hunter2",
        "/x?token=a(hunter2",
        "host=db user=me password=hunter2",
    ],
)
@pytest.mark.parametrize(
    "text", ["{}", "cannot open {}.", "storage '{}': no", 'a ("{}") b', "data.source={}", "x,{}", '["{}"]']
)
def test_credentials_of_a_misspelt_address_are_in_no_message(address: str, text: str) -> None:
    assert "hunter2" not in hide_credentials(text.format(address))


@pytest.mark.parametrize(
    "text",
    [
        "me@host:22",
        "me@host:22,you@other:2222",
        "a:22,me@b:22",
        "git@github.com:owner/repository@v2",
        "at 12:30@noon and 2026-11-30T04:40:31@host",
        "C:\\Users\\me@x\\file and C:/Users/me@x",
        "mine.py:Mine#sha256=0a and image:tag@sha256:0a",
        "localhost:5000/name@v2",
        "/home/me/x:y@z and mailto:me@example.com",
        "Error: me@example.com: no such user",
        '{"a":"b@c","d":1,"e":["f@g"],"h":"https://x","i":"y@z"}',
        "{'a':'b@c', 'd':'e@f'}",
        "hf://owner/name@v2/list.csv",
        "see https://host/a, or me@host",
        "losses@ACTLossHead: key=3 tokens=5",
    ],
)
def test_text_without_credentials_stays(text: str) -> None:
    assert hide_credentials(text) == text


@pytest.mark.parametrize("text", ["a:" * 40_000, "a:,@" * 20_000, "x" * 80_000 + "://", "a:'" * 30_000, "?a=" * 30_000])
def test_long_texts_are_read_once(text: str) -> None:
    hide_credentials(text + "@=://")


@pytest.mark.parametrize(
    "name",
    ["AZURE_STORAGE_KEY", "SLACK_WEBHOOK_URL", "GITHUB_PAT", "DB_PASS", "PGPASS", "AZURE_STORAGE_CONNECTION_STRING"],
)
def test_values_of_secret_variables_are_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter2/hunter2")
    assert hide_credentials("x hunter2/hunter2 hunter2%2Fhunter2") == "x ... ..."


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "SSH_KEY_PATH", "TOKEN_FILE", "PATH", "BYPASS", "WEBHOOK_FILE"]
)
def test_values_of_other_variables_are_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter2/hunter2")
    assert hide_credentials("hunter2/hunter2") == "hunter2/hunter2"
