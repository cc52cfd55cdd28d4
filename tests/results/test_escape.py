"""Names that others wrote cannot change what a terminal, spreadsheet, TeX or Markdown program does."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.results.dataframe import as_text, frame_of
from orchestrator.results.leaderboard import Table, build_leaderboard
from orchestrator.results.report.escape import csv_cell, latex, markdown, one_line
from orchestrator.results.report.formats import to_csv, to_json, to_latex, to_markdown, to_rich
from tests.support.results import make_config, make_record


def named(family: str) -> list[Table]:
    record = replace(make_record(make_config(), score=0.5, stage="confirm"), family=family)
    return build_leaderboard(None, [record], [])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\n=", "\u00a0=", "\uff1d", "\uff20"])
def test_spreadsheet_runs_no_formula_from_a_name(start: str) -> None:
    name = f'{start}HYPERLINK("http://x")'
    assert csv_cell(name) == f"'{one_line(name)}"
    row = next(csv.DictReader(io.StringIO(to_csv(named(name)))))
    assert row["system"].startswith("'")
    exported = next(
        csv.DictReader(
            io.StringIO(as_text(frame_of([replace(make_record(make_config(), score=0.5), family=name)]), "csv"))
        )
    )
    assert exported["family"].startswith("'")


@pytest.mark.parametrize("name", ["x;=1+1", "x; =1+1", 'x;"=1+1', "x;\t@f", "x;;-1", "=a;+1", "x;\uff1d1", '"=1+1'])
def test_spreadsheet_that_splits_at_semicolons_runs_no_formula_from_a_name(name: str) -> None:
    text = str(csv_cell(name))
    for cell in text.split(";"):
        assert not cell.lstrip(' "').startswith(("=", "+", "-", "@", "\uff1d")), text


@pytest.mark.parametrize("name", ["[1ex]x", "*x", " [x", "\n[x", "[", "*"])
def test_latex_of_a_name_is_no_argument_of_the_line_before(name: str) -> None:
    assert latex(name).startswith(("{[}", "{*}"))
    record = replace(make_record(make_config(), score=0.5), family=name, sweep=name)
    printed = [to_latex(named(name)), as_text(frame_of([record]), "latex")]
    for text in printed:
        lines = [line.lstrip() for line in text.splitlines()]
        assert not any(line.startswith(("[", "*")) for line in lines), text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("&lt;b&gt; &#60; a & b", r"\&lt;b\&gt; \&#<!-- -->60; a & b"),
        ("$x^2$", r"\$x^2\$"),
        ("by @name, (@a) pass@2", "by @<!-- -->name, (@<!-- -->a) pass@2"),
        ("see #12", "see #<!-- -->12"),
    ],
)
def test_markdown_of_a_name_is_no_entity_formula_or_mention(name: str, shown: str) -> None:
    assert markdown(name) == shown


def test_csv_keeps_numbers_and_harmless_text() -> None:
    assert [csv_cell(value) for value in (-1.5, 3, None, "T=2 n=3", "87.4")] == [-1.5, 3, None, "T=2 n=3", "87.4"]


def test_latex_of_a_name_is_text() -> None:
    assert latex(r"\input{/etc/passwd} 5% & a_b $x$ #1 ~^") == (
        r"\textbackslash{}input\{/etc/passwd\} 5\% \& a\_b \$x\$ \#1 \textasciitilde{}\textasciicircum{}"
    )
    text = to_latex(named("a\n\\end{tabular}\\write18{id}"))
    assert r"\write18" not in text and text.count(r"\end{tabular}") == 1


def test_markdown_of_a_name_is_text_in_its_cell() -> None:
    assert markdown("a|b\nc") == r"a\|b c" and markdown("# a") == r"\# a"
    assert markdown("[x](javascript:y) <script> `c` *b* _i_") == (r"\[x\](javascript:y) \<script\> \`c\` \*b\* \_i\_")
    assert markdown("T=2 n=3 N_sup=4") == "T=2 n=3 N_sup=4"
    lines = to_markdown(named("x | y\n| z")).splitlines()
    assert [line.count(" | ") for line in lines if line.startswith("|")] == [6, 6, 6]


@pytest.mark.parametrize("kind", ["csv", "json", "latex"])
def test_exports_that_are_printed_control_no_terminal(kind: str) -> None:
    name = "\x1b[2Jgone\x9b31m\u202e"
    record = replace(make_record(make_config(), score=0.5, stage="confirm"), family=name, sweep=name)
    printed = [
        as_text(frame_of([record]), kind),
        {"csv": to_csv, "json": to_json, "latex": to_latex}[kind](named(name)),
    ]
    for text in printed:
        assert "gone" in text and all(character.isprintable() or character == "\n" for character in text)


def test_terminal_shows_no_control_characters() -> None:
    assert one_line("a\x1b]0;title\x07b\u202ec\r\nd") == "a]0;titlebc d"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(to_rich(named("\x1b[2Jgone [red]x[/")[0]))
    text = console.export_text()
    assert "\x1b" not in text and "[2Jgone [red]x[/" in text
