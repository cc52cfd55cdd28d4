"""Access the settings of a trial by name: a path (`model.cycles`) or one of the paper's letters (`T`)."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo

from orchestrator.sweep.domains import Choice, Setting, Uniform, Value, pin_files
from trm_data.addresses import has_credentials, shown_address
from trm_data.errors import ConfigError
from trm_data.files import expand_home, load_json
from trm_data.own_code import is_address
from trm_data.settings import field_names
from trm_model.config import ALIASES, TrialConfig
from trm_model.start_file import SETTING, pin_start, replace_starts, short_value

OTHER_NAMES = {"learning_rate": "lr", "epochs": "train.max_steps", "steps": "train.max_steps", "depth": "T"}
"""What other projects call settings of ours."""
LOCAL_PATHS = ("data.source", "data.extra_training")
"""Settings that name a file or a folder, or the address of a remote one."""
MAX_DIFFERENCES, MAX_VALUE = 3, 40
"""Settings, and characters of a value, that a message shows of two definitions that differ."""
MAX_LEVELS = 8
"""Levels of lists in a value: no setting has more than two, and the parsers of settings are recursive."""


def _every_path() -> list[str]:
    return [
        ".".join(filter(None, [section, name]))
        for section in ["", *TrialConfig.model_fields]
        for name in field_names(TrialConfig, [section] if section else [])
    ]


def _with_leaf(name: str) -> list[str]:
    """Return the paths whose last part is a name."""
    return [path for path in _every_path() if "." in path and path.rpartition(".")[2] == name]


def full_path(name: str) -> str:
    """Return the path of a setting that is named by a path, a letter, or by its last part where that is unique:
    `betas` is `optimizer.betas`.

    Raises:
        ConfigError: there is no such setting, or several sections have one.
    """
    if name not in ALIASES and name not in TrialConfig.model_fields and len(same := _with_leaf(name)) == 1:
        return same[0]
    check_path(name)
    return ALIASES.get(name, name)


def check_path(path: str) -> None:
    """Raise ConfigError with the nearest valid name where `path` is not a setting of a trial."""
    parts = ALIASES.get(path, path).split(".")
    inside = field_names(TrialConfig, parts)
    if inside:
        raise ConfigError(f"{path!r} is a group of settings", f"Name one of: {', '.join(inside)}")
    if parts[-1] in field_names(TrialConfig, parts[:-1]):
        return
    every = _every_path()
    leaves = {name.rsplit(".", 1)[-1]: name for name in every}
    if len(same := _with_leaf(path)) > 1:
        raise ConfigError(f"{path!r} is a setting of several sections", f"Name one of: {', '.join(same)}")
    known = {name.casefold(): name for name in [*ALIASES, *every]} | ({} if "." in path else leaves) | OTHER_NAMES
    wanted = path.casefold()
    match = wanted if wanted in known else next(iter(difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)), None)
    short_names = ", ".join(ALIASES)
    hint = f"`trm train --show-config` lists all; short names: {short_names}"
    raise ConfigError(f"unknown setting {path!r}", f"Did you mean {known[match]!r}?" if match in known else hint)


def _field(path: str) -> FieldInfo:
    """Return the definition of a setting. Raises ConfigError where there is none."""
    check_path(path)
    *sections, leaf = ALIASES.get(path, path).split(".")
    model: type[BaseModel] = TrialConfig
    for section in sections:
        model = model.model_fields[section].annotation  # type: ignore[assignment]  # check_path found a group there
    return model.model_fields[leaf]


def takes_numbers(path: str) -> bool:
    """Return whether the values of a setting are numbers. Raises ConfigError where there is no such setting."""
    return bool({int, float} & _types(path))


def takes_fractions(path: str) -> bool:
    """Return whether a setting takes numbers that are not whole. Raises ConfigError where there is no such setting."""
    return float in _types(path)


def _types(path: str) -> set[Any]:
    annotation = _field(path).annotation
    return set(get_args(annotation) or (annotation,))


def check_value(path: str, value: Setting) -> None:
    """Raise ConfigError where a setting cannot have a value, whatever the other settings are."""
    field = _field(path)
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ConfigError(f"{path}={value!r}: {message[:1].lower()}{message[1:]}") from None


def configure(base: TrialConfig, settings: Mapping[str, Setting | type]) -> TrialConfig:
    """Return the base with some settings replaced.

    Args:
        settings: by path (`model.cycles`) or letter (`T`). `model.recursion` takes `path/to/file.py:ClassName` or the
            class itself; the file is read and may be executed from now on. `train.start_from` is read, too.

    Raises:
        ConfigError: naming the field and the remedy.
    """
    return replace_settings(base, pin_files(settings))


def replace_settings(base: TrialConfig, settings: Mapping[str, Setting]) -> TrialConfig:
    """Return the base with some settings replaced. They may be stored ones: a recursion that they name is not trusted.

    Raises:
        ConfigError: naming the field and the remedy.
    """
    values = base.model_dump()
    for name, value in settings.items():
        check_path(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} is not finite", "Give a number")
        *sections, leaf = ALIASES.get(name, name).split(".")
        target = values
        for section in sections:
            target = target[section]
        target[leaf] = value
    return TrialConfig.parse(values)


def get_setting(config: TrialConfig, name: str) -> Any:
    """Return the value at a path or alias."""
    value: Any = config
    for part in ALIASES.get(name, name).split("."):
        value = getattr(value, part)
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings by dotted path; lists stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return (old, new) of every leaf that differs between two nested settings, by path; None for a missing leaf."""
    first, second = flatten(old), flatten(new)
    paths = dict.fromkeys((*first, *second))
    pairs = {path: (first.get(path), second.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `base.train.max_steps: 60 -> 61` for every leaf that differs, sorted by path."""
    return [f"{path}: {before} -> {after}" for path, (before, after) in sorted(differences(old, new).items())]


def starts_of(values: Any) -> list[str]:
    """Return the addresses of all checkpoints that nested plain settings start from, each once."""
    found: list[str] = []
    replace_starts(values, found.append)
    return list(dict.fromkeys(found))


def functions_of(values: Mapping[str, Any]) -> list[str]:
    """Return the addresses of the user's functions that plain values of a sweep name: stopping rule and sampler."""
    stopping = values.get("stopping")
    found = (stopping.get("rule") if isinstance(stopping, Mapping) else None, values.get("sampler"))
    return [name for name in found if isinstance(name, str) and is_address(name)]


def summarize_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first settings that differ with old and new value, of long ones what differs, and how many more do.

    The result is empty where nothing differs.
    """
    found = sorted(differences(old, new).items())
    shown = [f"{path}: {' -> '.join(_cut(before, after))}" for path, (before, after) in found[:MAX_DIFFERENCES]]
    more = len(found) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _cut(before: Any, after: Any) -> list[str]:
    """Return the texts of two values; of long ones the part from shortly before they differ."""
    texts = [str(value) for value in (before, after)]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    start = max(0, len(list(same)) - MAX_VALUE // 4)
    end = start + MAX_VALUE - 3
    return [
        text if len(text) <= MAX_VALUE else "..." * (start > 0) + text[start:end] + "..." * (end < len(text))
        for text in texts
    ]


def describe_change(path: str, before: Any, after: Any) -> str:
    """Return one changed setting with its short name: `T 3 -> 2`."""
    return f"{short_name(path)} {_format(before)} -> {_format(after)}"


def short_name(path: str) -> str:
    """Return the paper's letter where there is one, else the last part of the path."""
    return {full: alias for alias, full in ALIASES.items()}.get(path, path.rsplit(".", 1)[-1])


def label(settings: Mapping[str, Setting]) -> str:
    """Return the name of a cell: `T=2 n=4`."""
    return " ".join(f"{short_name(path)}={_format(value)}" for path, value in settings.items()) or "base"


def describe_axis(path: str, domain: Choice | Uniform) -> str:
    """Return an axis of a space as text: `T in 1, 2` or `lr from 0.0001 to 0.01 (log)`."""
    if isinstance(domain, Choice):
        return f"{short_name(path)} in {', '.join(map(_format, domain.values))}"
    steps = f" in steps of {domain.step:g}" if domain.step else ""
    return f"{short_name(path)} from {domain.low:g} to {domain.high:g}{steps}{' (log)' if domain.log else ''}"


def _format(value: Setting) -> str:
    if isinstance(value, str):
        return short_value(value)
    if isinstance(value, tuple):
        return f"[{','.join(map(_format, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def absolute_path(path: str, value: Any, folder: Path) -> Any:
    """Return a setting with a local path in it made absolute, relative to a folder; other settings as they are.

    Raises:
        ConfigError: there is no such file or folder, or an address contains credentials.
    """
    if path == SETTING and isinstance(value, str):
        require_no_credentials({path: value})
        return pin_start(value, folder)
    if ALIASES.get(path, path) not in LOCAL_PATHS or not isinstance(value, str) or "://" in value:
        require_no_credentials({path: value})
        return value
    name, hash_sign, fragment = value.partition("#sha256=")
    found = (folder / expand_home(name)).resolve()
    # A Kaggle pair is named by the common beginning of its two files.
    if not found.exists() and not next(found.parent.glob(f"{found.name}*"), None):
        raise ConfigError(
            f"{path}={value!r}: there is no {found}", f"Give the path from {folder.resolve()}, or all of it"
        )
    return str(found) + hash_sign + fragment


def require_no_credentials(values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a setting, however deeply nested, is an address with credentials.

    Settings are stored in records, which others read, and sent to trackers.
    """
    for path, value in flatten(values).items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Mapping):
                require_no_credentials(each)
            elif isinstance(each, str) and has_credentials(each):
                raise ConfigError(
                    f"{path}={shown_address(each)!r} contains credentials, and settings are recorded",
                    "Leave them out: S3 and the hub take them from where their own tools do (AWS_ACCESS_KEY_ID, "
                    "~/.aws, HF_TOKEN). Download what only a signed address gives, and name the file",
                )


def absolute_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return nested settings of a trial with local paths made absolute: see `absolute_path`."""

    def walk(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in nested.items():
            path = f"{prefix}{name}"
            is_group = isinstance(value, Mapping)
            yield name, dict(walk(value, f"{path}.")) if is_group else absolute_path(path, value, folder)

    return dict(walk(values, ""))


def parse_value(text: str) -> Setting:
    """Read a value of the command line: null, true, false, a number, a JSON list, or the text itself."""
    known: dict[str, Value] = {"null": None, "none": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    if text.startswith("["):
        try:
            return _tuple(load_json(text))
        except ValueError as error:
            what = f"{text[:80]!r} is not a JSON list: {getattr(error, 'msg', error)}"
            raise ConfigError(what, 'Example: ["train","validation"]') from None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _tuple(value: Any, levels: int = 0) -> Setting:
    if isinstance(value, dict):
        raise ConfigError(f"{json.dumps(value)} is not a list of values", "A list holds numbers, texts and lists")
    if levels > MAX_LEVELS:
        raise ValueError(f"it is nested deeper than {MAX_LEVELS} levels")
    return tuple(_tuple(each, levels + 1) for each in value) if isinstance(value, list) else value


def split_assignments(texts: Sequence[str] | None, option: str, example: str = "T=1,2") -> dict[str, list[str]]:
    """Split `NAME=VALUE[,VALUE...]`: `["T=1,2", "n=2"]` -> {"T": ["1", "2"], "n": ["2"]}. A JSON list is one value.

    Raises:
        ConfigError: one is not of that form, or a name comes twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts or []:
        name, sign, rest = text.partition("=")
        name, values = name.strip(), _split(rest)
        if not sign or not name or not all(values):
            form, shown = ("NAME=VALUE", "T=2") if option == "--set" else ("NAME=VALUE[,VALUE...]", example)
            raise ConfigError(f"{option} {text!r} is not of the form {form}", f"Example: {option} {shown}")
        if name in found:
            raise ConfigError(f"{option} names {name!r} twice", f"Give all values at once: {option} {name}=1,2,3")
        found[name] = values
    return found


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets and quotes."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        if letter == '"' and (depth or quoted):
            quoted = not quoted
        elif letter in "[]" and not quoted:
            depth += 1 if letter == "[" else -1
        if letter == "," and depth <= 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def parse_assignments(texts: Sequence[str] | None, option: str) -> dict[str, list[Setting]]:
    """Read settings of the command line: `["T=1,2", "lr=1e-3"]` -> {"T": [1, 2], "lr": [0.001]}.

    Raises:
        ConfigError: one is not of the form NAME=VALUE[,VALUE...], or names no setting, or a name comes twice.
    """
    found: dict[str, list[Setting]] = {}
    for name, values in split_assignments(texts, option).items():
        path = full_path(name)
        if path in map(full_path, found):
            raise ConfigError(f"{option} names {path} twice, once as {name!r}", "Give all values at once")
        key = name if name in ALIASES else path  # derived names of sweeps are made from what was written
        found[key] = [_parse_for(path, value) for value in values]
    return found


def _parse_for(name: str, text: str) -> Setting:
    """Read a value as what it looks like, or as text where the setting takes only that: `data.source=2024`."""
    value = parse_value(text)
    try:
        check_value(name, value)
    except ConfigError:
        with suppress(ConfigError):
            check_value(name, text)
            return text
    return value


def require_whole_gpus(gpus: float | None, info: ValidationInfo) -> float | None:
    """Return the number of GPUs of a trial. Raises ValueError for one and a half: only one GPU can be shared."""
    if gpus is not None and gpus > 1 and not gpus.is_integer() and not (info.context or {}).get("is_recorded"):
        raise ValueError(f"{gpus:g} GPUs: give a share of one, below 1, or a whole number")
    return gpus
