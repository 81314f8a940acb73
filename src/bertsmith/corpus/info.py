"""What is in a corpus, as text, and whether it is still what was built."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith.corpus.store import MANIFEST, Corpus, Ints, read_manifest
from bertsmith.errors import Hindered, InputError
from bertsmith.files import inside, sha256_once
from bertsmith.terminal import say

_NUM_EXAMPLES = 10
_NUM_NAMES = 5
_BAR_WIDTH = 40


def describe(corpus: Corpus) -> str:
    """Return a page on a corpus: counts, lengths, tokenizer, unknown rate, ten sentences; the same page every time."""
    counts, tokenizer = corpus.manifest["counts"], corpus.manifest["tokenizer"]
    lines = [
        f"{corpus.path}",
        f"  documents   {corpus.num_documents:>14,}   {_spread(corpus.document_lengths())}",
        f"  sentences   {corpus.num_sentences:>14,}   {_spread(corpus.sentence_lengths())}",
        f"  tokens      {corpus.num_tokens:>14,}   from {counts['text_bytes'] / 1e6:,.1f} MB of text, "
        f"{counts['text_bytes'] / corpus.num_tokens:.2f} bytes a token",
        f"  left out    {counts['duplicates']:,} duplicates, {counts['short_documents']:,} documents and "
        f"{counts['short_sentences']:,} sentences too short, {counts['skipped']:,} unreadable (skipped.jsonl)",
        f"  tokenizer   {tokenizer['type']}, {tokenizer['vocab_size']:,} tokens; "
        f"unknown: {100 * corpus.manifest['unknown_rate']:.4f} % of the text's tokens",
        f"  sources     {_names([source['name'] for source in corpus.manifest['sources']])}",
        f"  hash        {corpus.hash[:16]}",
        "",
        "tokens a sentence",
        *_histogram(corpus.manifest["sentence_lengths"]),
        "",
        f"{min(_NUM_EXAMPLES, len(corpus))} random sentences",
        *_examples(corpus),
    ]
    return "\n".join(lines)


def check(path: str | Path, *, tokens: bool = True) -> None:
    """Compare the files of a corpus with what the build recorded.

    Args:
        path: The corpus folder.
        tokens: Whether the tokens are read too, by far the largest files; the others say where everything lies.

    Raises:
        InputError: There is no finished corpus, or a file is missing or damaged: names the first.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    recorded = {f"tokenizer/{name}": digest for name, digest in manifest["tokenizer"]["files"].items()}
    num_bytes = 0
    for shard in manifest["shards"]:
        for name, facts in shard["files"].items():
            if name == "tokens.npy" and not tokens:
                continue
            recorded[f"shards/{shard['name']}/{name}"] = facts["sha256"]
            num_bytes += facts["bytes"]
    if num_bytes > _LARGE:
        _say_once(f"checking {num_bytes / 2**30:.1f} GiB of corpus in {folder}: every file is compared with its hash")
    for name, digest in recorded.items():
        try:
            file = inside(folder, name)
        except ValueError as error:
            raise InputError(f"{folder / MANIFEST}: {error}; {_REMEDY}") from None
        try:
            is_whole = sha256_once(file) == digest
        except OSError as error:
            raise Hindered(f"{file}: cannot be read ({error.strerror}); {_REMEDY}") from None
        if not is_whole:
            raise Hindered(f"{file}: changed since it was built; {_REMEDY}")


_LARGE = 4 * 2**30
"""Bytes that take longer to read than one waits without a word."""


@cache
def _say_once(line: str) -> None:
    """Say something on standard error; in one process the files are read only once, too."""
    say(line, sys.stderr)


_REMEDY = "build the corpus again with --overwrite"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_NUM_NAMES])
    return shown if len(names) <= _NUM_NAMES else f"{shown} and {len(names) - _NUM_NAMES:,} more"


def _spread(lengths: Ints) -> str:
    median, high = np.percentile(lengths, [50, 95])
    return f"tokens each: median {median:,.0f}, 95 % have at most {high:,.0f}, longest {lengths.max():,}"


def _histogram(counts: list[int]) -> list[str]:
    """Draw sentences by length; bins as ``shards.Totals.lengths``."""
    used = max(index for index, count in enumerate(counts) if count) + 1
    most, total = max(counts), sum(counts)
    rows = []
    for index, count in enumerate(counts[:used]):
        low, high = (2 ** (index - 1) + 1 if index else 1), 2**index
        label = f"{low}" if low == high else f"{low}-{high}"
        if index == len(counts) - 1:
            label = f"{low} and more"
        rows.append(f"  {label:>14} {100 * count / total:5.1f} % {'█' * round(_BAR_WIDTH * count / most)}".rstrip())
    return rows


def _examples(corpus: Corpus) -> list[str]:
    """Show some sentences, drawn with a fixed seed, their tokens apart."""
    tokenizer: Any = corpus.tokenizer
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(len(corpus), size=min(_NUM_EXAMPLES, len(corpus)), replace=False))
    is_bytes = corpus.manifest["tokenizer"]["type"] == "BPE"  # whose tokens, as they are stored, nobody can read

    def spell(ids: list[int]) -> str:
        return (
            "|".join(tokenizer.decode([id]) for id in ids)
            if is_bytes
            else " ".join(tokenizer.convert_ids_to_tokens(ids))
        )

    return [f"  {index:>10,}  {spell(corpus.sentence(index).tolist())}" for index in chosen.tolist()]
