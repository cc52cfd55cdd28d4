"""A small server that speaks the protocols of AWS which moto lacks: the Price List API, spot prices, and refusals."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

PRICES = {"g6e.2xlarge": 2.5, "p5.4xlarge": 7.0, "m7i.xlarge": 0.21}
"""On-demand prices of the server, in every region."""
SPOT = {"us-east-1a": 0.9, "us-east-1b": 1.1, "us-east-1c": 1.3}
"""Spot prices of g6e.2xlarge by zone; each zone has an older one, ten times as high."""


class _Answers(BaseHTTPRequestHandler):
    refusal: tuple[str, str] | None = None
    action: str | None = None
    """What is refused; everything, if None."""
    region: str | None = None
    """Where it is refused; everywhere, if None."""
    forward: str | None = None
    """Server that answers everything else."""

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        target = self.headers.get("X-Amz-Target", "")
        is_refused = self.action is None or f"Action={self.action}&" in f"{body}&"
        is_refused &= self.region is None or f"/{self.region}/" in self.headers.get("Authorization", "")
        if self.refusal is not None and is_refused:
            self._refuse(*self.refusal, is_json=bool(target))
        elif self.forward is not None:
            self._forward(body.encode())
        elif target.endswith("GetProducts"):
            wanted = {each["Field"]: each["Value"] for each in json.loads(body)["Filters"]}
            products = [_product(wanted["instanceType"])] if wanted["instanceType"] in PRICES else []
            self._send(200, "application/x-amz-json-1.1", json.dumps({"PriceList": products}))
        elif parse_qs(body)["Action"] == ["DescribeSpotPriceHistory"]:
            self._send(200, "text/xml", _history())
        else:
            self._refuse("InvalidAction", "unknown", is_json=False)

    do_GET = do_HEAD = do_PUT = do_POST

    def _forward(self, body: bytes) -> None:
        request = urllib.request.Request(f"{self.forward}{self.path}", body or None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "content-length", "accept-encoding"):
                request.add_header(name, value)
        with urllib.request.urlopen(request) as answer:
            self._send(answer.status, answer.headers.get("Content-Type", ""), answer.read().decode())

    def _refuse(self, code: str, message: str, *, is_json: bool) -> None:
        if is_json:
            self._send(400, "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message}))
            return
        error = f"<Code>{code}</Code><Message>{message}</Message>"
        host = self.headers.get("Authorization", "")
        wrapped = {
            "/s3/": f"<Error>{error}</Error>",
            "/ec2/": f"<Response><Errors><Error>{error}</Error></Errors></Response>",
        }
        body = next((text for name, text in wrapped.items() if name in host), None)
        self._send(400, "text/xml", body or f"<ErrorResponse><Error>{error}</Error></ErrorResponse>")

    def _send(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


def _product(instance: str) -> str:
    rate = {"unit": "Hrs", "pricePerUnit": {"USD": str(PRICES[instance])}}
    free = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0000000000"}}
    terms = {"OnDemand": {"offer": {"priceDimensions": {"rate": rate, "free": free}}}}
    return json.dumps({"product": {"attributes": {"instanceType": instance}}, "terms": terms})


def _history() -> str:
    items = "".join(
        f"<item><instanceType>g6e.2xlarge</instanceType><productDescription>Linux/UNIX</productDescription>"
        f"<spotPrice>{usd * factor}</spotPrice><timestamp>{day}T00:00:00.000Z</timestamp>"
        f"<availabilityZone>{zone}</availabilityZone></item>"
        for zone, usd in SPOT.items()
        for day, factor in (("2026-11-02", 1), ("2026-11-01", 10))
    )
    return (
        '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<spotPriceHistorySet>{items}</spotPriceHistorySet></DescribeSpotPriceHistoryResponse>"
    )


@contextmanager
def aws_server(
    refusal: tuple[str, str] | None = None,
    *,
    action: str | None = None,
    region: str | None = None,
    forward: str | None = None,
) -> Iterator[str]:
    """Serve prices, or refuse requests with a code and a message. Credentials in the environment are made up.

    Args:
        action: of EC2, the only one that is refused.
        region: the only one that refuses.
        forward: server that answers all other requests.
    """
    values = {"refusal": refusal, "action": action, "region": region, "forward": forward}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Answers,), values))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
                patch.delenv(name, raising=False)
            for name, value in made_up_credentials().items():
                patch.setenv(name, value)
            patch.setenv("AWS_ENDPOINT_URL", url)
            yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def made_up_credentials() -> dict[str, str]:
    """Variables of the environment with which boto3 asks no real account."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
