"""Define the pages of `trm ui`: the sweeps of a storage, and the report of each, which follow the records.

    /                                     the sweeps
    /leaderboard                          the report of everything, as `trm leaderboard` writes it
    /sweeps/NAME                          the report of one sweep; its figures follow the records
    /api/sweeps                           JSON of the start page, with an ETag
    /api/sweeps/NAME/DATASET/trials       trials that have changed since a version
    /api/sweeps/NAME/DATASET/curves       curves of some trials
    /static/FILE                          scripts and styles

Nothing else is served; every answer forbids the browser to store it and to load anything from elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.results.report.page import SCRIPTS, Live, environment, script_text
from orchestrator.results.report.storage_page import storage_report
from orchestrator.results.report.views import Study
from orchestrator.web.feed import StorageFeed
from trm_data.errors import UserError
from trm_data.settings import finite, strict_json

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MOST_CURVES = 100
"""Curves in one answer."""
_TEMPLATES = Path(__file__).parent / "templates"

Tools = Callable[[], dict[str, Any]]
"""Returns for each other server its address and whether it answers, and links to the sweeps in it."""


class Pages:
    """Answer the requests. Reading a storage blocks, so it happens in a thread."""

    def __init__(self, feed: StorageFeed, tools: Tools) -> None:
        self._feed = feed
        self._tools = tools
        self._reports: dict[str, tuple[str, str]] = {}

    async def start(self, request: Request) -> Response:
        """Answer with the start page, which asks for the sweeps itself."""
        style = environment().get_template("style.css").render()
        text = (_TEMPLATES / "start.html").read_text().replace("/* style */", style)
        return HTMLResponse(text)

    async def script(self, request: Request) -> Response:
        """Answer with a script of the pages."""
        name = request.path_params["name"]
        if name == "start.js":
            text = (_TEMPLATES / name).read_text()
        elif name in SCRIPTS:
            text = str(script_text(name))
        else:
            return _not_found()
        return Response(text, media_type="text/javascript")

    async def sweeps(self, request: Request) -> Response:
        """Answer with the sweeps, or 304 if nothing has changed since the answer with the ETag of the request."""
        content = await run_in_threadpool(self._sweeps)
        body = strict_json(content, sort_keys=True).encode()
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(body, media_type="application/json", headers={"ETag": etag})

    def _sweeps(self) -> dict[str, Any]:
        return {"storage": self._feed.storage.url, "sweeps": self._feed.summaries(), "tools": self._tools()}

    async def trials(self, request: Request) -> Response:
        """Answer with the trials that have changed."""
        query = request.query_params
        settings = [name for name in query.get("settings", "").split("\n") if name]
        return await _json(
            self._feed.news, request.path_params["name"], request.path_params["data"], query.get("since", ""), settings
        )

    async def curves(self, request: Request) -> Response:
        """Answer with the curves of the named trials."""
        wanted = [trial_id for trial_id in request.query_params.get("trials", "").split(",") if trial_id]
        return await _json(self._feed.curves, request.path_params["name"], wanted[:MOST_CURVES])

    async def report(self, request: Request) -> Response:
        """Answer with the report of one sweep."""
        name = request.path_params["name"]
        if name not in await run_in_threadpool(self._feed.names):
            return _not_found()
        return HTMLResponse(await run_in_threadpool(self._report, name))

    def _report(self, name: str) -> str:
        view = self._feed.sweep(name).view()
        version, page = self._reports.get(name, ("", ""))
        if version != view.address:

            def live(study: Study) -> Live:
                return Live(f"/api/sweeps/{name}/{study.fingerprint}", view.address)

            page = storage_report(self._feed.storage, view.shown, datetime.now(UTC), live=live).html()
            self._reports[name] = (view.address, page)
        return page

    async def leaderboard(self, request: Request) -> Response:
        """Answer with the report of all sweeps."""
        return HTMLResponse(await run_in_threadpool(self._leaderboard))

    def _leaderboard(self) -> str:
        records = [record for name in self._feed.names() for record in self._feed.sweep(name).view().shown]
        return storage_report(self._feed.storage, records, datetime.now(UTC), is_served=True).html()


async def _json(read: Callable[..., Any], *arguments: Any) -> Response:
    try:
        return JSONResponse(finite(await run_in_threadpool(read, *arguments)))
    except KeyError:
        return _not_found()


def _not_found() -> Response:
    return PlainTextResponse("There is nothing here; the start page is /\n", 404)


async def _user_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503)


async def _failed(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    return PlainTextResponse(f"This page failed: {type(error).__name__}: {error}\n", 500)


async def _missing(request: Request, error: Exception) -> Response:
    return _not_found()


def pages(feed: StorageFeed, tools: Tools = dict) -> Starlette:
    """Return the application of the pages of a storage.

    Args:
        tools: what the start page says of MLflow and Optuna.
    """
    answers = Pages(feed, tools)
    routes = [
        Route("/", answers.start),
        Route("/leaderboard", answers.leaderboard),
        Route("/sweeps/{name}", answers.report),
        Route("/api/sweeps", answers.sweeps),
        Route("/api/sweeps/{name}/{data}/trials", answers.trials),
        Route("/api/sweeps/{name}/{data}/curves", answers.curves),
        Route("/static/{name}", answers.script),
    ]
    return Starlette(routes=routes, exception_handlers={UserError: _user_error, 404: _missing, 500: _failed})
