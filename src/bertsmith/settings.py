"""Settings: frozen dataclasses, one YAML file a run, dotted overrides, one clear line for every mistake.

A settings class is declared beside what it configures with :func:`settings`; its fields are documented by the string
literal below each of them, which is also what ``--help`` and the JSON schema show. pydantic validates, strictly: an
unknown key, a wrong type or a value out of range is an :class:`~bertsmith.errors.InputError` that names the dotted key
and, for a misspelt key, the nearest right one.
"""

import ast
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date
from itertools import pairwise, permutations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bertsmith.errors import InputError
from bertsmith.yaml_files import load_yaml, read_yaml

T = TypeVar("T")


def _named(folder: str) -> str:
    if not folder.strip():
        raise ValueError(f"is {folder!r}, which names no folder; give one, such as `output: out`")
    return folder


Output = Annotated[str, AfterValidator(_named)]
"""The folder that a run writes; an empty name would be the folder in which the command is started."""


MOST_PROCESSES = 512
"""More cores than machines have; each process takes half a gigabyte."""


def _few(processes: int) -> int:
    if processes > MOST_PROCESSES:
        raise ValueError(f"is {processes}; expected at most {MOST_PROCESSES} processes, as many as there are cores")
    return processes


Processes = Annotated[int, AfterValidator(_few)]
"""How many processes to start; too many would take all memory of the machine."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen keyword-only dataclass that pydantic validates strictly.

    Checks of values belong in ``__post_init__`` and raise ``ValueError`` with value, expectation and remedy.
    """
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)  # type: ignore[attr-defined]
    for base in filter(is_dataclass, cls.__mro__[1:]):
        # pydantic reads the string literals of a class, but not those of the classes that it extends.
        for name, meaning in _meanings(base).items():
            item = base.__dataclass_fields__[name]
            item.metadata = MappingProxyType({"description": meaning, **item.metadata})
    return dataclass(frozen=True, kw_only=True)(cls)


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Read the string literal below each field of a settings class."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(above.target): str(ast.literal_eval(below.value))
        for above, below in pairwise(definition.body)
        if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def validate(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a settings object from plain values.

    Args:
        cls: A settings class.
        values: Nested plain values, as YAML or JSON give them.
        where: What an error message names first: a file, or "command line".

    Raises:
        InputError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        # Through JSON, because pydantic's strict mode accepts a list for a tuple there but not in Python values.
        made: T = _adapter(cls).validate_json(json.dumps(_plain(values)))
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error.errors(), cls)}") from None
    except _NotPlain as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deep, or within itself; lay it out plainly") from None
    return made


class _NotPlain(ValueError):
    """YAML can say more than settings take."""


def _plain(value: Any, key: str = "") -> Any:
    """Give a value as JSON has it, a date as text.

    Raises:
        _NotPlain: It holds what JSON has no form for, or text that can be no name of a file and of nothing else.
    """
    if isinstance(value, Mapping):
        return {_plain_key(name, key): _plain(inner, f"{key}.{name}".strip(".")) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{key}.{place}".strip(".")) for place, inner in enumerate(value)]
    if isinstance(value, str) and _UNWRITABLE.search(value):
        raise _NotPlain(f"`{key}` holds a NUL character or half of a surrogate pair; take it out")
    if isinstance(value, date):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise _NotPlain(f"`{key}`: expected text, a number, a list or a section, found {_shown(value)}")


def _plain_key(name: Any, section: str) -> str:
    if isinstance(name, str):
        _plain(name, f"{section}.{name}".strip("."))
        return name
    if name is None or isinstance(name, int | float):
        return json.dumps(name)
    raise _NotPlain(f"a key in `{section or 'the file'}` is {_shown(name)}; put it into quotation marks")


_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def _shown(value: Any) -> str:
    """Show what was found, but no more of it than one reads in passing."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


_LONGEST_SHOWN = 200


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
_SCHEMAS: dict[type[Any], dict[str, Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Give pydantic's view of a settings class, which takes a tenth of a second to make and so is made once."""
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def to_dict(value: Any) -> dict[str, Any]:
    """Give a settings object as nested plain values; :func:`validate` of them gives the object back."""
    return dict(asdict(value))


def load(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a run file, apply command-line overrides to it and validate the result.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    return validate(cls, merge(read_yaml(path), parse_overrides(overrides, cls)), where=str(path))


def read_words(cls: type[T], words: Sequence[str], file: str | None, given: Mapping[str, Any] | None = None) -> T:
    """Read the settings of a command without a run file.

    Args:
        cls: The settings class.
        words: Settings on the command line; short names will do.
        file: A YAML file of settings, before which go those of the command line.
        given: What was given by options of the command itself; None is not given.

    Raises:
        InputError: The file is missing or malformed, or a key or value is wrong.
    """
    values = parse_overrides(words, cls, short_names=True)
    values |= {key: value for key, value in (given or {}).items() if value is not None}
    if file:
        values = merge(read_yaml(file), values)
    return validate(cls, values, where=file or "command line")


def parse_overrides(words: Sequence[str], cls: type[Any], *, short_names: bool = False) -> dict[str, Any]:
    """Turn ``--a.b 1 --c=x --flag`` into nested values; a key without a value is true.

    Values are read as YAML, but for keys that take text, whose word is taken as it is.

    Args:
        words: Words of a command line.
        cls: The settings class that they are for.
        short_names: Whether a key may be given by its last name alone (``--errors`` for ``--read.errors``), where it is
            no key of ``cls`` itself and exactly one section has such a key.

    Raises:
        InputError: A word is not of this form, or a section is switched off and a key inside of it given.
    """
    kinds = {key: kind for key, kind, *_ in describe(cls)}
    values: dict[str, Any] = {}
    given: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if not re.match(r"--[A-Za-z]", word):
            raise InputError(f"command line: unexpected {word!r}; settings are given as --key value")
        key, equals, text = word[2:].partition("=")
        position += 1
        if not equals:
            # A word that starts with "--" is the next key; "-1" and "-" are values.
            has_value = position < len(words) and not words[position].startswith("--")
            text = words[position] if has_value else "true"
            position += has_value
        key = key.replace("-", "_")
        matches = [name for name in kinds if name.endswith(f".{key}")]
        if short_names and len(matches) == 1 and not any(name.split(".")[0] == key for name in kinds):
            key = matches[0]
        nested: Any = text if kinds.get(key, "").startswith("string") and text != "null" else _read_word(text)
        given[key] = nested
        for name in reversed(key.split(".")):
            nested = {name: nested}
        # Two budgets on one command line are a contradiction that validation must see.
        values = merge(values, nested, replaced="")
    for section, key in permutations(given, 2):
        if key.startswith(f"{section}.") and not (isinstance(given[section], Mapping) or given[section] is True):
            value = _shown(given[section])
            raise InputError(f"command line: --{section} {value} leaves no place for --{key}; drop one")
    return values


def _read_word(text: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def merge(base: Mapping[str, Any], changes: Mapping[str, Any], replaced: str = "budget") -> dict[str, Any]:
    """Merge nested mappings, but for one key whose old value goes: a budget has one quantity, two would contradict.

    A section that is switched on by ``true`` stays as it is.
    """
    merged = dict(base)
    for key, value in changes.items():
        if value is True and isinstance(merged.get(key), Mapping):
            continue
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != replaced:
            merged[key] = merge(merged[key], value, replaced)
        else:
            merged[key] = value
    return merged


def nearest(name: str, names: Sequence[str]) -> str:
    """Say which of ``names`` is meant by ``name``: the nearest one, else all of them."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else f"there are: {', '.join(sorted(names))}"


def schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of a settings class, which editors use for completion; it is made once."""
    if cls not in _SCHEMAS:
        _SCHEMAS[cls] = _adapter(cls).json_schema()
    return _SCHEMAS[cls]


def describe(cls: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (dotted key, type, default, meaning) of every field of a settings class, for help texts."""
    whole = schema(cls)

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
        for name, field in section["properties"].items():
            target = _target(field, whole)
            if "oneOf" in target:
                yield from walk_union(target, f"{prefix}{name}.")
            elif "properties" in target:
                yield from walk(target, f"{prefix}{name}.")
            else:
                # An empty list or section by default has no place in a schema.
                absent = "required" if name in section.get("required", ()) else "none"
                default = json.dumps(field["default"]) if "default" in field else absent
                yield prefix + name, _type_text(target), default, " ".join(field.get("description", "").split())

    def walk_union(union: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
        """Yield the key that chooses, then each field once, with the choices that have it."""
        choices = union["discriminator"]["mapping"]
        tag = prefix + union["discriminator"]["propertyName"]
        yield tag, "|".join(choices), "required", "Which one."
        found: dict[tuple[str, str, str, str], list[str]] = {}
        for choice, reference in choices.items():
            for row in walk(_target({"$ref": reference}, whole), prefix):
                if row[0] != tag:
                    found.setdefault(row, []).append(choice)
        for (key, kind, default, meaning), names in found.items():
            of = "" if len(names) == len(choices) else f"({', '.join(names)}) "
            yield key, kind, default, of + meaning

    yield from walk(_target(whole, whole), "")


def _target(node: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference inside a JSON schema; a section that may be null is that section."""
    kinds = node.get("anyOf", ())
    if len(kinds) == 2 and "$ref" in kinds[0] and kinds[1].get("type") == "null":
        node = kinds[0]
    while "$ref" in node:
        node = whole["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _type_text(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return "|".join(_type_text(part) for part in node["anyOf"])
    if "enum" in node:
        return "|".join(str(value) for value in node["enum"])
    return str(node.get("const", node.get("type", "any")))


def _explain(errors: Sequence[ErrorDetails], cls: type[Any]) -> str:
    """Say in one line what is wrong with the first key; a misspelt one comes before the one that it leaves missing."""
    followed = [(one, *_follow(cls, [str(part) for part in one["loc"]])) for one in errors]
    _, first, _ = min(followed, key=lambda one: one[0]["type"] != "unexpected_keyword_argument")
    # Where several types may stand, the one that was meant complains of something inside.
    error, path, beside = max((one for one in followed if one[1][: len(first)] == first), key=lambda one: len(one[1]))
    key = ".".join(path)
    found = error.get("input")
    if error["type"] == "unexpected_keyword_argument":
        hint = nearest(path[-1], beside)
        if not hint.startswith("did"):
            # Perhaps it belongs into another section.
            elsewhere = {dotted.rpartition(".")[2]: dotted for dotted, *_ in describe(cls) if dotted != key}
            found_there = difflib.get_close_matches(path[-1], elsewhere, n=1, cutoff=0.7)
            hint = f"did you mean {elsewhere[found_there[0]]!r}?" if found_there else hint
        return f"unknown key `{key}`; {hint}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"`{key}` is missing; it has no default"
    if error["type"] == "union_tag_not_found":
        return f"`{key}.{error['ctx']['discriminator'].strip(chr(39))}` is missing; it has no default"
    if error["type"] == "union_tag_invalid":
        tag, names = error["ctx"]["tag"], re.findall(r"'([^']+)'", error["ctx"]["expected_tags"])
        return f"`{key}.{error['ctx']['discriminator'].strip(chr(39))}`: there is no {tag!r}; {nearest(tag, names)}"
    if error["type"] == "value_error":
        message = str(error.get("ctx", {}).get("error", error["msg"]))
        return f"`{key}`: {message}" if key else message
    if error["type"] in _SECTION_TYPES:
        return f"`{key}`: expected a section with keys, found {_shown(found)}"
    if error["type"] in ("tuple_type", "list_type"):
        return f"`{key}`: expected a list, such as '[0, 1]', found {_shown(found)}"
    # Where several types may stand, each of them has its own complaint.
    of_key = [one["msg"] for one, its_path, _ in followed if its_path == path]
    reasons = " or ".join(dict.fromkeys(f"{reason[0].lower()}{reason[1:]}" for reason in of_key))
    return f"`{key}`: {reasons}, found {_shown(found)}"


_SECTION_TYPES = ("dataclass_type", "dict_type", "model_attributes_type")


def _follow(cls: type[Any], path: Sequence[str]) -> tuple[list[str], list[str]]:
    """Say which key a path of pydantic's means, and which keys may stand beside its last part.

    In a union the path names the choice too, which is no key; keys behind one of several types are not looked up.
    """
    whole = schema(cls)
    node = _target(whole, whole)
    keys: list[str] = []
    beside: list[str] = []
    for part in path:
        if "oneOf" in node:
            node = _target({"$ref": node["discriminator"]["mapping"][part]}, whole)
            continue
        if node.get("type") == "array":
            keys.append(part)
            node = _target(node.get("items", {}), whole)
            continue
        if sum(kind.get("type") != "null" for kind in node.get("anyOf", ())) > 1:
            node = {}
            continue
        keys.append(part)
        beside = list(node.get("properties", {}))
        node = _target(node.get("properties", {}).get(part, {}), whole)
    return keys, beside
