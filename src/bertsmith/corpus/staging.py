"""Where a build stands: the lock, the unfinished build inside the corpus folder, and its exchange for the old corpus.

The build lies in ``.building`` until it is whole. A corpus already there is not touched before; then it is removed and
the new one moved to its place, the manifest last. Killed at any point of that, the same command goes on with it.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bertsmith.corpus.readers import Source
from bertsmith.corpus.store import MANIFEST, STAGING, VERSION
from bertsmith.errors import InputError
from bertsmith.files import LOCK, read_record, remove, synchronise, write_record

PLAN = "build.json"
_PARTS = ("shards", "tokenizer", "skipped.jsonl")


def make_plan(settings: dict[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """Return all that decides what a build gives, as plain JSON values.

    Two builds with the same plan give the same corpus; what a source's bytes and time of change do not show is unseen.
    """
    facts = [{"name": source.name, "bytes": source.bytes, "modified_ns": source.modified_ns} for source in sources]
    plan: dict[str, Any] = json.loads(json.dumps({"version": VERSION, "settings": settings, "sources": facts}))
    return plan


def divide(folder: Path, given: Sequence[str], listed: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Divide sources into those of a build and files that have come into their folders since it was begun.

    Args:
        folder: The corpus folder; without an unfinished build in it nothing is new.
        given: The sources as the user names them; of a folder that the build did not have, no file is left out.
        listed: The files in them.
    """
    names = {source["name"] for source in (_read(folder / STAGING / PLAN) or {"sources": ()})["sources"]}
    begun = [source for source in listed if source.name in names]
    known = [path for path in map(Path, given) if path.is_dir() and any(_is_in(source, path) for source in begun)]

    def is_new(source: Source) -> bool:
        return source.name not in names and any(_is_in(source, path) for path in known)

    return [source for source in listed if not is_new(source)], [source for source in listed if is_new(source)]


def _is_in(source: Source, folder: Path) -> bool:
    return source.path is not None and Path(source.path).is_relative_to(folder)


def prepare(folder: Path, plan: dict[str, Any], overwrite: bool) -> bool:
    """Make the staging folder ready for a build, be it the begun one or a new one.

    Returns:
        Whether there is anything to do: false if the folder holds the finished corpus of this very plan.

    Raises:
        InputError: The folder holds something else and ``overwrite`` is false, or something that is no corpus.
    """
    staging = folder / STAGING
    if staging.is_symlink():
        # Nothing of ours: what is built would lie elsewhere.
        remove(staging)
    begun, finished = _read(staging / PLAN), _read(folder / MANIFEST)
    has_manifest = (folder / MANIFEST).exists()
    if has_manifest and finished is None and not overwrite:
        raise InputError(
            f"{folder / MANIFEST}: cannot be read; bring the file back, or add --overwrite to build the corpus anew"
        )
    # Killed in between, an exchange has neither; a folder of shards that is no corpus may be another's.
    has_shards = any((folder / "shards").glob("?????/tokens.npy"))
    if has_shards and not has_manifest and begun is None and not overwrite:
        raise InputError(
            f"{folder / MANIFEST}: is gone; bring the file back, or add --overwrite to build the corpus anew"
        )
    if begun is None and not overwrite and any((staging / "shards").glob("?????")):
        raise InputError(
            f"{staging / PLAN}: is damaged or gone; bring the file back, or add --overwrite to build the corpus anew"
        )
    if finished is not None and not overwrite:
        if changed := difference(finished, plan):
            raise InputError(f"{folder}: holds a corpus built with {changed}; add --overwrite to build it anew")
        if begun is None or not difference(begun, plan):
            # Killed at its very end, the build has left what it was made in.
            remove(staging)
        return False
    if begun is not None and not difference(begun, plan):
        # With a manifest they may have been moved to their place already.
        if not (staging / MANIFEST).exists():
            (staging / "shards").mkdir(exist_ok=True)
        return True
    if begun is not None and not overwrite:
        raise InputError(
            f"{folder}: holds an unfinished build with {difference(begun, plan)}; add --overwrite to begin anew"
        )

    # Folders of these names are ours only beside a manifest or a plan of ours: a model folder has a tokenizer too.
    is_corpus = (
        finished is not None or begun is not None or (has_manifest and (folder / "shards").is_dir()) or has_shards
    )
    foreign = {path.name for path in folder.iterdir()} - {LOCK, STAGING}
    if foreign and not is_corpus:
        raise InputError(f"{folder}: holds no corpus but {min(foreign)}; choose an empty folder for --out")
    remove(staging)
    (staging / "shards").mkdir(parents=True)
    write_record(staging / PLAN, plan)
    return True


def install(folder: Path) -> None:
    """Put the whole build in the place of what was there, if anything; goes on where a killed one stopped."""
    staging = folder / STAGING
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in _PARTS:
        if (staging / name).exists():
            remove(folder / name)
            (staging / name).rename(folder / name)
    synchronise(folder)
    (staging / MANIFEST).rename(folder / MANIFEST)
    synchronise(folder)
    shutil.rmtree(staging)


class _Source(TypedDict):
    name: str


class _Plan(TypedDict):
    settings: dict[str, Any]
    sources: list[_Source]


_PLAN = TypeAdapter(_Plan)


def _read(file: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None where there is none that can be read."""
    try:
        return read_record(file, _PLAN)
    except (OSError, ValueError):
        return None


def difference(old: dict[str, Any], plan: dict[str, Any]) -> str:
    """Say in words what differs between an old plan (or a manifest, which contains one) and a new; "" if nothing."""
    if old.get("version") != plan["version"]:
        return f"version {old.get('version')} of the format (now {plan['version']})"
    before, now = _flat(old.get("settings")), _flat(plan["settings"])
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        return "other settings: " + ", ".join(f"{key} {before.get(key)!r} (now {now.get(key)!r})" for key in changed)
    had, has = ({source["name"]: source for source in one.get("sources", [])} for one in (old, plan))
    if new := [name for name in has if had.get(name) != has[name]]:
        return f"other sources: {new[0]} is new or has changed"
    if gone := [name for name in had if name not in has]:
        return f"other sources: {gone[0]} is gone"
    return "its sources in another order" if list(had) != list(has) else ""


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted keys."""
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for name, inner in values.items():
        flat |= _flat(inner, f"{prefix}.{name}".strip("."))
    return flat
