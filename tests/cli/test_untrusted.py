"""Bugs of security, met through the command line alone, so that another installed version can be tested too.

    TRM_PROGRAM=/path/to/bin/trm pytest --noconftest tests/cli/test_untrusted.py -m slow

Every test fails with commit a9a5703. Nothing of the package is imported, and files come from the program itself.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.program import TINY, Program

pytestmark = pytest.mark.slow

SECRET = "hunter2secret"
RECURSION = """
from pathlib import Path

from trm_model.recursion import Recursion

{statement}


class Mine(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        answer, latent = states
        return self.refine_answer(answer + latent + input_BLD, rotary), latent
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def checkpoint(program: Program) -> Path:
    """The checkpoint of a model whose recursion file has been replaced since by code that leaves a marker."""
    file = program.folder / "mine.py"
    file.write_text(RECURSION.format(statement=""))
    program.train("--set", f"model.recursion={file}:Mine")
    file.write_text(RECURSION.format(statement=f"Path({str(program.folder / 'marker')!r}).touch()"))
    return max(program.folder.rglob("step-*.safetensors"))  # of a busy machine there may be several


def test_opening_a_checkpoint_runs_no_code(program: Program, checkpoint: Path) -> None:
    program.refuses("solve", str(checkpoint), "1..4.2..3..1....")
    program.refuses("export", str(checkpoint), "-o", "out.pt2")
    assert not (program.folder / "marker").exists()


def test_changed_bytes_of_a_dataset_are_refused(program: Program) -> None:
    program.train()
    file = program.only("examples.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    assert "examples.arrow" in program.train("--seed", "1", code=2)


@pytest.mark.parametrize("verb", [["sweep", "run"], ["sweep", "plan"], ["train"]])
def test_credentials_in_a_source_are_refused(program: Program, verb: list[str]) -> None:
    source = f"https://me:{SECRET}@127.0.0.1:1/puzzles.csv"
    more = ["--vary", "T=1"] if verb[0] == "sweep" else ["--max-steps", "1"]
    options = ["--recipe", "sudoku-mini", "--set", f"data.source={source}", *more, "--storage", "runs"]
    assert SECRET not in program.refuses(*verb, *options)
    assert not program.holds(SECRET)


def test_credentials_in_the_address_of_a_storage_are_not_repeated(program: Program) -> None:
    assert SECRET not in program.refuses("sweep", "status", "--storage", f"s3://AKIA:{SECRET}@bucket/x")


def test_names_control_no_terminal(program: Program) -> None:
    (program.folder / "sweep.py").write_text(
        "from orchestrator.sweep import Sweep, Variant, configure\n"
        "from trm_model.recipes import get_recipe\n"
        "base = get_recipe('sudoku-mini')\n"
        "variants = (Variant(name='a\\x1b[31mred', settings={'T': 2}), Variant(name='b', settings={'T': 1}))\n"
        "sweep = Sweep(name='names', kind='study', base=base, variants=variants)\n"
    )
    assert "\x1b" not in program.refuses("sweep", "plan", "sweep.py", "--storage", "runs")


def test_a_binary_puzzle_is_one_line(program: Program) -> None:
    program.train()
    (program.folder / "puzzle.bin").write_bytes(bytes(range(128, 256)))
    program.refuses("solve", str(program.only("step-*.safetensors")), "puzzle.bin")


def test_an_export_onto_a_file_is_one_line(program: Program) -> None:
    program.train()
    (program.folder / "taken").touch()
    program.refuses("data", "export", program.only("examples.arrow").parent.name, "taken", "--storage", "runs")


def test_the_import_of_a_folder_as_a_checkpoint_is_one_line(program: Program) -> None:
    program.refuses("checkpoint", "import", ".", "-o", "out", "--recipe", "sudoku-mini")


def test_a_file_of_another_program_is_not_offered_for_deletion(program: Program) -> None:
    folder = program.folder / "foreign"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "of another program"}')
    assert "elete" not in program.refuses("data", "verify", str(folder))


@pytest.fixture
def large_file() -> Iterator[tuple[str, list[int]]]:
    """The address of a file that is announced as 200 GB, and how much of it has been sent."""
    sent: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(200 * 1000**3))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            for _ in range(64):  # 64 MB, then the connection is closed
                try:
                    self.wfile.write(bytes(1_000_000))
                except OSError:
                    return
                sent.append(1_000_000)

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/large.csv", sent
        server.shutdown()


def test_a_download_without_end_is_not_taken(program: Program, large_file: tuple[str, list[int]]) -> None:
    address, sent = large_file
    program.refuses("data", "build", "sudoku-9x9", "--source", address, "--storage", "runs")
    assert sum(sent) < 32_000_000


@pytest.fixture
def command_lines() -> Iterator[set[str]]:
    """The command lines of all processes that contain the secret, looked up all the time."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.1):
            for process in psutil.process_iter(["cmdline"]):
                words = " ".join(process.info["cmdline"] or [])
                if SECRET in words:
                    seen.add(words)

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    is_over.set()
    thread.join()


def test_keys_of_the_driver_are_on_no_command_line_and_in_no_file(program: Program, command_lines: set[str]) -> None:
    program.environment |= {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": SECRET}
    options = ["--max-steps", "2", "--storage", "runs", "--tracking", "none"]
    program.run("sweep", "run", *TINY, "--vary", "T=1", *options, code=0)
    assert not command_lines and not program.holds(SECRET)


def test_a_home_folder_that_cannot_be_written_is_one_line(program: Program) -> None:
    program.environment["HOME"] = "/dev/null/home"
    printed = program.run("sweep", "run", *TINY, "--vary", "T=1", "--max-steps", "2", "--storage", "runs")
    assert "Traceback" not in printed
