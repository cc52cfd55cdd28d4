"""Results for reading: one HTML page, and tables for the terminal, Markdown, CSV, JSON and LaTeX."""

from __future__ import annotations

from orchestrator.results.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
