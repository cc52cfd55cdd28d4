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
    ],
)  # fmt: skip
def test_user_and_password_and_signatures_are_not_shown(url: str, shown: str) -> None:
    assert shown_address(url) == shown and "hunter2" not in shown


def test_urls_within_a_message_are_cleaned_and_the_rest_stays() -> None:
    text = 'API request to "http://me:hunter2@host:5000/version" failed; see https://host/help (twice)'
    assert hide_credentials(text) == 'API request to "http://host:5000/version" failed; see https://host/help (twice)'


def test_only_the_host_of_a_webhook_is_shown() -> None:
    assert shown_webhook("https://hooks.example.com/T1/hunter2?x=1") == "https://hooks.example.com/..."
