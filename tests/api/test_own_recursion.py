"""A custom recursion from Python: `configure`, `Sweep`, `plan`, `train` and `run` take its file or its class."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Confirm, Status, Sweep, TrialConfig, Variant, choice, configure, plan, run, train
from orchestrator.records.index import sweep_folder
from orchestrator.records.reader import read_trials
from orchestrator.storage import open_storage
from orchestrator.storage.base import to_json_bytes
from tests.support.own_process import run_sweep
from tests.support.sweeps import TINY
from trm_data.errors import ConfigError, UserError
from trm_data.own_code import distrust_all
from trm_model import get_recipe
from trm_model.config import ModelConfig

CODE = """
from trm_model import Recursion


class SeesInputTwice(Recursion):
    def cycle(self, states, input_BLD, rotary, steps_without_gradient):
        answer, latent = super().cycle(states, input_BLD, rotary, steps_without_gradient)
        return self.refine_answer(answer + input_BLD, rotary), latent
"""
NAME = "seen_twice.py:SeesInputTwice"
SETTING = "model.recursion"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the file; nothing is trusted before."""
    distrust_all()
    (tmp_path / "seen_twice.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def base(**changes: Any) -> TrialConfig:
    return configure(get_recipe("sudoku-mini"), {**TINY, **changes})


def import_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "seen_twice", raising=False)
    import seen_twice  # type: ignore[import-not-found]  # the file of the fixture

    found: type = seen_twice.SeesInputTwice
    return found


def pinned(folder: Path) -> str:
    return f"{folder / 'seen_twice.py'}:SeesInputTwice#sha256={hashlib.sha256(CODE.encode()).hexdigest()}"


def test_file_and_class_are_pinned_wherever_code_names_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = import_class(folder, monkeypatch)
    for named in (NAME, str(folder / NAME), cls):
        assert configure(base(), {SETTING: named}).model.recursion == pinned(folder)
        sweep = Sweep(
            name="own",
            kind="search",
            trials=2,
            base=base(),
            space={SETTING: choice(None, named)},
            forbidden=({SETTING: named, "T": 9},),  # type: ignore[dict-item]  # a class is replaced by its address
            confirm=Confirm(controls=(Variant(name="own", settings={SETTING: named}),)),  # type: ignore[dict-item]
        )
        assert sweep.space[SETTING].spread() == [None, pinned(folder)]
        assert sweep.forbidden[0][SETTING] == sweep.confirm.controls[0].settings[SETTING] == pinned(folder)
        assert plan(sweep, folder / "runs").num_trials == 2 + 3 * 2
    assert ModelConfig(recursion=NAME).recursion == pinned(folder)


def test_train_uses_the_file_and_tells_its_content_apart(folder: Path) -> None:
    plain = train(base(), "runs", callbacks=())
    own = train(configure(base(), {SETTING: NAME}), "runs", callbacks=())
    assert own.status is Status.FINISHED and own.record.trial_id != plain.record.trial_id
    assert own.record.config.model.recursion == pinned(folder)
    assert Path(own.location, "recursion.py").read_text() == CODE
    (folder / "seen_twice.py").write_text(CODE.replace("answer + input_BLD", "answer"))
    assert train(configure(base(), {SETTING: NAME}), "runs", callbacks=()).record.trial_id != own.record.trial_id


def test_run_compares_the_built_in_recursion_with_ones_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = import_class(folder, monkeypatch)
    sweep = Sweep(name="own", base=base(), space={SETTING: choice(None, cls)})
    assert run_sweep(sweep, folder / "seen_twice.py") == ("complete", "")
    records = read_trials(open_storage("runs"), "own")
    assert len({record.family for record in records}) == 2
    assert all(record.status is Status.FINISHED for record in records)


def as_setting(named: Any) -> TrialConfig:
    return configure(base(), {SETTING: named})


def as_axis(named: Any) -> Sweep:
    return Sweep(name="own", base=base(), space={SETTING: choice(None, named)})


def as_variant(named: Any) -> Variant:
    return Variant(name="own", settings={SETTING: named})


@pytest.mark.parametrize("use", [as_setting, as_axis, as_variant])
@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nowhere.py:Mine", "no Python file"),
        ("seen_twice.py:SeesInputOnce", "Did you mean 'SeesInputTwice'"),
        ("seen_twice.py", "path/to/file.py:ClassName"),
        ("broken.py:Mine", "is not Python"),
        ("others.py:Plain", "no Recursion named 'Plain'"),
        ("others.py:Child", "no Recursion named 'Child'"),
        ("others.py:Layer", "Derive the class from trm_model.Recursion"),
        ("others.py:Path", "no Recursion named 'Path'"),
        (int, "is not a Recursion"),
    ],
)
def test_bad_recursion_is_refused_where_it_is_named(
    use: Callable[[Any], Any], named: Any, words: str, folder: Path
) -> None:
    (folder / "broken.py").write_text("class Mine(:\n")
    (folder / "others.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "class Plain: ...\n"
        "class Child(Plain): ...\n"
        "class Layer(nn.Module): ...\n"
    )
    with pytest.raises(ConfigError, match=words):
        use(named)


@pytest.mark.parametrize(
    "text",
    [
        "from mine import Base\nclass Own(Base): ...\n",
        "import trm_model\nclass Between(trm_model.Recursion): ...\nclass Own(Between): ...\n",
        "from trm_model.model.recursion import OneState as Own\n",
        "from trm_model import Recursion\nOwn = type('Own', (Recursion,), {})\n",
        "from mine import *\n",
    ],
)
def test_class_that_may_be_a_recursion_is_not_refused_by_its_text(text: str, folder: Path) -> None:
    (folder / "own.py").write_text(text)
    assert configure(base(), {SETTING: "own.py:Own"}).model.recursion


def test_class_that_turns_out_to_be_none_stops_a_sweep_before_it_starts(folder: Path) -> None:
    (folder / "own.py").write_text("def make(): return object\nOwn = make()\n")
    sweep = Sweep(name="own", base=base(), space={SETTING: choice(None, "own.py:Own")})
    for start in (
        lambda: run(sweep, "runs", tracking="none", callbacks=()),
        lambda: train(configure(base(), {SETTING: "own.py:Own"}), "runs", callbacks=()),
    ):
        with pytest.raises(ConfigError, match="no Recursion named 'Own'"):
            start()
    assert not list((folder / "runs").glob("sweeps/own*/sweep.json"))


def test_class_without_a_file_is_refused_with_the_remedy() -> None:
    from trm_model import Recursion

    class Local(Recursion):
        pass

    found = type("Found", (Recursion,), {"__module__": "__notebook__"})
    with pytest.raises(ConfigError, match="at the top of a file"):
        configure(base(), {SETTING: Local})
    with pytest.raises(ConfigError, match=r"Write the class into a file and name that: path/to/file.py:Found"):
        choice(None, found)
    with pytest.raises(ConfigError, match="built in"):
        choice(None, Recursion)


def test_script_that_defines_its_class_guards_what_it_starts(folder: Path) -> None:
    script = folder / "script.py"
    settings = {**TINY, SETTING: "CLASS"}
    start = (
        "from orchestrator import configure, get_recipe, train\n"
        f"config = configure(get_recipe('sudoku-mini'), {settings!r})\n".replace("'CLASS'", "SeesInputTwice")
        + "print(train(config, 'runs', callbacks=()).status)\n"
    )
    script.write_text(CODE + start)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=folder)
    assert done.returncode and "__name__ == '__main__'" in done.stderr.splitlines()[-1]
    guarded = "".join(f"    {line}\n" for line in start.splitlines())
    script.write_text(f"{CODE}\nif __name__ == '__main__':\n{guarded}")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=folder)
    assert done.stdout == "finished\n", done.stderr


def test_stored_values_are_never_pinned(folder: Path) -> None:
    """A configuration or a definition that somebody else has written names a file of this machine."""
    forged = {**base().plain(), "model": {**base().model.plain(), "recursion": NAME}}
    config = TrialConfig.parse(forged)
    assert config.model.recursion == NAME
    with pytest.raises(UserError, match="no hash of the file's content"):
        train(config, "runs", callbacks=())
    with pytest.raises(UserError, match="no hash of the file's content"):
        run(Sweep(name="other", base=config), "runs", tracking="none", callbacks=())
    values = Sweep(name="forged", base=base(), space={"T": choice(1, 2)}).plain()
    values["space"] = {SETTING: {"kind": "choice", "values": [None, NAME]}}
    store = open_storage("runs")
    sweep_folder(store, "forged").write("sweep.json", to_json_bytes(values))
    with pytest.raises(UserError, match="no hash of the file's content"):
        run("forged", "runs", tracking="none", callbacks=())
    values["space"][SETTING]["values"] = [None, pinned(folder)]
    sweep_folder(store, "forged").write("sweep.json", to_json_bytes(values))
    with pytest.raises(UserError, match="does not trust"):
        run("forged", "runs", tracking="none", callbacks=())
    parsed = Sweep.from_record(values)
    with pytest.raises(UserError, match="does not trust"):  # taking over a recorded axis trusts no file
        run(Sweep(name="taken", base=base(), space=parsed.space), "runs", tracking="none", callbacks=())
