"""Every command and script of the how-to pages is run, in order, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import Example, examples, execute

ROOT = Path(__file__).parents[2]
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
QUICK = ("README.md", "docs/how-to/cluster.md", "docs/how-to/reproduce.md")
"""Pages that train nothing."""


def run(page: Path, folder: Path) -> None:
    for example in examples(page.read_text()):
        if example.skipped is None:
            shown = execute(example, folder)
            assert example.title or example.matches(shown), (
                f"{example.source}\n{shown}\n--- expected\n{example.expected}"
            )


@pytest.mark.parametrize("name", QUICK)
def test_page_that_trains_nothing_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    run(ROOT / name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in HOW_TO if str(page.relative_to(ROOT)) not in QUICK], ids=lambda page: page.stem
)
def test_page_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    run(page, tmp_path)


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_every_block_of_a_page_is_an_example_or_says_why_not(page: Path) -> None:
    text = page.read_text()
    found = list(examples(text))
    assert len(re.findall(r"^```\w+ title=|^```python$|^\$ ", text, re.MULTILINE)) == len(found)
    assert not re.findall(r"^```(?:bash|sh)?$(?=\n(?:trm|\$))", text, re.MULTILINE), "commands go into `console` blocks"
    assert all(example.skipped for example in found if "address" in example.source)
    assert any(example.skipped is None for example in found)


PAGE = """
```python title="name.py"
VALUE = 3
```

```python
from name import VALUE

print("value", VALUE, "in 2.5 s")
```

<!-- numbers vary -->
```text
value 7 in 1 min 3 s
```

```console
$ echo one \\
  two; seq 3
one two
...
3
$ true
```

<!-- not run: needs a GPU -->
```console
$ false
```
"""


def test_examples_run_in_order_and_a_wrong_output_is_found(tmp_path: Path) -> None:
    written, script, echo, true, false = examples(PAGE)
    execute(written, tmp_path)
    assert script.matches(execute(script, tmp_path))
    shown = execute(echo, tmp_path)
    assert shown == "one two\n1\n2\n3\n" and echo.matches(shown) and not echo.matches(shown.replace("3", "4"))
    assert true.matches(execute(true, tmp_path)) and not true.matches("something")
    assert false.skipped == "needs a GPU"
    with pytest.raises(AssertionError, match="false"):
        execute(false, tmp_path)
    assert not Example("x", "console", "a 1").matches("a 2")
    assert not Example("x", "console", "a 1", numbers_vary=True).matches("b 2")
