"""Show results: one HTML page, and tables for the terminal, Markdown, CSV, JSON and LaTeX."""

from __future__ import annotations

from orchestrator.results.report.page import Report

__all__ = ["Report"]
