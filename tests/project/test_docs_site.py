"""The documentation is built as a site without a warning: every link leads somewhere, every setting is described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.app import COMMANDS
from trm_model.config import TrialConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def words(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_reference_describes_every_command_and_setting(site: Path) -> None:
    commands, settings = words(site / "reference/cli.html"), words(site / "reference/settings.html")
    assert all(f"trm {name}" in commands for name in COMMANDS) and "Examples:" in commands
    for name, field in TrialConfig.model_fields.items():
        parts = getattr(field.annotation, "model_fields", {})
        for part in parts:
            assert f"{name}.{part}" in settings
    assert "optimizer.lr (lr)" in settings


def test_pages_ask_nobody_else_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=[\"']?(https?://[^\"'\s>]+)", page.read_text())
        assert not [address for address in loaded if "github.com" not in address], page
