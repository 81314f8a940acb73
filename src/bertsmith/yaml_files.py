"""YAML that people write, a run file or a word of a command line: read safely, in bounds, as plain values."""

import re
from pathlib import Path
from typing import Any

import yaml

from bertsmith.errors import InputError

_MAX_YAML_BYTES, _MAX_YAML_VALUES, _MAX_YAML_DEPTH = 2**20, 10_000, 50
"""More of each than any run file has, and less than would take long."""


class _Loader(yaml.SafeLoader):
    """PyYAML takes ``1e-4`` for a string (YAML 1.1 wants ``1.0e-4``); everybody writes the former.

    It also takes what a few lines can make endlessly large: an alias stands for all that is behind its anchor.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # The values in each node, and in those that are being read.
        self._sizes: dict[int, int] = {}
        self._open: list[int] = [0]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count values as they are read, those behind an alias each time that it stands there."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        if len(self._open) > _MAX_YAML_DEPTH:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", mark)
        self._open.append(1)
        node: yaml.Node | None = super().compose_node(parent, index)
        size = self._open.pop()
        if is_alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an anchor holds itself", mark)
        size = self._sizes.setdefault(id(node), size)
        self._open[-1] += size
        if self._open[-1] > _MAX_YAML_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_YAML_VALUES:,} values, with aliases", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, of which PyYAML would take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse numbers that nothing here counts to, and that Python may not even write."""
        value = int(super().construct_yaml_int(node))
        if abs(value) >= 2**64:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 64 bits", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Read a value that is written in YAML.

    Raises:
        yaml.YAMLError: It is no YAML, or holds more than is taken.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:
        # PyYAML's own of dates that are none and of numbers with more digits than Python reads.
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: The file cannot be read, is not YAML, or holds something else.
    """
    try:
        # A pipe or a device says no size before it has been read, and may have no end.
        with Path(path).open("rb") as stream:
            content = stream.read(_MAX_YAML_BYTES + 1)
        if len(content) > _MAX_YAML_BYTES:
            raise InputError(f"{path}: is larger than {_MAX_YAML_BYTES:,} bytes; give a run file (YAML)")
        values = load_yaml(content.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a run file (YAML)") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{error.object[error.start]:02X} is not UTF-8"
        raise InputError(f"{path}, line {line}: {found}; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a run file (YAML)") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_yaml_fault(error)}; correct it") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else "a list" if isinstance(values, list) else "text"
        raise InputError(f"{path}: expected keys with values, such as `output: out`, found {found}; write some")
    return values


def _yaml_fault(error: yaml.YAMLError) -> str:
    """Say where a file is no YAML, and why."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not valid YAML: {str(error).splitlines()[0]}"
    parts = [part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    return f", line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {', '.join(parts)}"
