"""Downloads of puzzle sources: their size is limited, and secrets of their addresses are shown and kept nowhere."""

from __future__ import annotations

import http.server
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import call
from tests.support.infra import in_a_thread
from trm_data import DataRequest, build
from trm_data.addresses import hide_credentials, shown_webhook
from trm_data.errors import ConfigError, DataError, UserError
from trm_data.generators.sudoku import generate
from trm_data.sources.files import parse_address, read

LIMIT = 2_000_000
"""Bytes, in these tests."""
MUCH = 100 * LIMIT
SECRET = "hunter2hunter2"
LIST = "".join("".join(map(str, puzzle)).replace("0", ".") + "\n" for puzzle in generate(4, 24, 6, 0).puzzles)
SIZES = ["--num-train", "8", "--num-validation", "4", "--num-test", "4"]


class Server(http.server.ThreadingHTTPServer):
    """Answers by the name of the file, and counts what it sends."""

    daemon_threads = True
    sent = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("ETag", f'"{"0" * 40}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name == "failing.txt":
            self.send_error(500, self.path)
        elif name == "moved.txt":
            self.send_response(302)
            self.send_header("Location", f"file:///etc/passwd?token={SECRET}")
            self.end_headers()
        elif name in ("good.txt", "cut.txt", "bad.txt"):
            content = (LIST if name != "bad.txt" else "no puzzle\n").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) * (2 if name == "cut.txt" else 1)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_response(200)
            if name == "large.txt":
                self.send_header("Content-Length", str(MUCH))
            self.end_headers()
            with suppress(OSError):
                while self.server.sent < MUCH:
                    self.wfile.write(bytes(100_000))
                    self.server.sent += 100_000


@pytest.fixture
def server() -> Iterator[Server]:
    with in_a_thread(Server(("127.0.0.1", 0), Handler)) as running:
        yield running


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TRM_MAX_DOWNLOAD_GB", str(LIMIT / 1e9))
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("name", ["endless.txt", "large.txt"])
def test_download_above_the_limit_is_refused_before_much_of_it_has_been_read(
    name: str, server: Server, url: str, tmp_path: Path
) -> None:
    request = DataRequest(benchmark="sudoku-4x4", source=f"{url}/{name}")
    message = rf"{url}/{name} is larger than 0\.002 GB, the limit for a download.*TRM_MAX_DOWNLOAD_GB"
    with pytest.raises(DataError, match=message):
        build(request, tmp_path)
    assert server.sent < MUCH / 2 and list(tmp_path.iterdir()) == []


def test_download_from_the_hub_above_the_limit_fills_no_disk(
    server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that the hub states before the download need not be the one that follows."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    request = DataRequest(benchmark="sudoku-extreme", source=f"hf://owner/endless?endpoint={url}")
    with pytest.raises(DataError, match=r"hf://owner/endless/train.csv is larger than 0\.002 GB"):
        build(request, tmp_path / "data")
    assert server.sent < MUCH / 2
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) <= LIMIT


def test_smaller_file_is_downloaded_and_the_limit_must_be_a_number(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = DataRequest(benchmark="sudoku-4x4", source=f"{url}/good.txt", num_train=8, num_validation=4, num_test=4)
    assert build(request, tmp_path / "good").counts["train"] == 8
    for text in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("TRM_MAX_DOWNLOAD_GB", text)
        with pytest.raises(ConfigError, match=f"TRM_MAX_DOWNLOAD_GB='{text}' is not a number of gigabytes"):
            build(request, tmp_path / "bad")


BAD: dict[str, Callable[[str], str]] = {
    "missing": lambda url: f"{url}/../none?token={SECRET}",
    "server error": lambda url: f"{url}/failing.txt?token={SECRET}",
    "redirection": lambda url: f"{url}/moved.txt?token={SECRET}",
    "broken off": lambda url: f"{url}/cut.txt?token={SECRET}",
    "too large": lambda url: f"{url}/endless.txt?token={SECRET}",
    "no puzzles": lambda url: f"{url}/bad.txt?token={SECRET}",
    "other content": lambda url: f"{url}/good.txt?token={SECRET}#sha256={'0' * 64}",
    "unreachable": lambda url: f"http://127.0.0.1:1/good.txt?token={SECRET}",
    "space in the query": lambda url: f"{url}/good.txt?x=a b&token={SECRET}",
    "unknown name of the parameter": lambda url: f"{url}/failing.txt?x={SECRET}",
    "password": lambda url: f"http://me:{SECRET}@127.0.0.1:1/good.txt",
    "password as a port": lambda url: f"http://me:{SECRET}",
    "unknown scheme": lambda url: f"ftp://host/good.txt?token={SECRET}",
    "unknown fragment": lambda url: f"{url}/good.txt?token={SECRET}#part",
    "secret in the fragment": lambda url: f"{url}/good.txt#token={SECRET}",
    "s3": lambda url: f"s3://bucket/x?secret_key={SECRET}&endpoint_override={url}&scheme=none",
    "s3, space": lambda url: f"s3://bucket/x?a b=c&secret_key={SECRET}",
    "hub": lambda url: f"hf://owner/none?endpoint=http://me:{SECRET}@127.0.0.1:1",
}


@pytest.mark.parametrize("case", BAD)
def test_no_error_of_a_download_shows_a_secret_of_the_address(
    case: str, url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    words = ["data", "build", "sudoku-4x4", "--source", BAD[case](url), *SIZES, "--storage", str(tmp_path)]
    code, out, err = call(capfd, "-vv", *words)
    assert code == 2 and "error: " in err and SECRET not in out + err
    assert not [record for record in caplog.records if SECRET in hide_credentials(record.getMessage())]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_dataset_of_a_signed_address_holds_no_secret(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for name in ("token", "x"):
        words = ["data", "build", "sudoku-4x4", "--source", f"{url}/good.txt?{name}={SECRET}", *SIZES]
        code, out, err = call(capfd, "-vv", *words, "--storage", str(tmp_path))
        assert code == 0, err
        assert SECRET not in out + err + caplog.text
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) >= 3 and not any(SECRET.encode() in content for content in kept)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Max retries exceeded with url: /x.txt?token=hunter2 (Caused by timeout)",
            "Max retries exceeded with url: /x.txt?token=... (Caused by timeout)",
        ),
        ("GET '/x?v=1&X-Amz-Signature=hunter2&n=2'", "GET '/x?v=1&X-Amz-Signature=...&n=2'"),
        ("is it so? token=5 stays, and so does max_tokens=5", "is it so? token=5 stays, and so does max_tokens=5"),
    ],
)
def test_secrets_in_the_path_that_a_library_quotes_are_not_shown(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown


@pytest.mark.parametrize("address", ["http://[::bad", "http://u:secret@[x/y", "s3://a\u2100b/", "https://x:99999/"])
def test_an_address_that_cannot_be_split_is_one_line(address: str) -> None:
    """The text of an error may quote it, whatever it is."""
    assert "secret" not in str(UserError(f"cannot read {address}"))
    assert "secret" not in shown_webhook(address)
    with pytest.raises(DataError):
        read(parse_address(address))


@pytest.mark.parametrize("address", ["hf://owner", "hf://owner/name", "hf://owner//file", "hf://o/n@refs/pr/1/"])
def test_an_address_on_the_hub_without_a_file_is_one_line(address: str) -> None:
    with pytest.raises(DataError, match="OWNER/NAME/FILE"):
        read(parse_address(address))
