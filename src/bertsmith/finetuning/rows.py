"""From examples to batches without padding: rows of one length side by side, or all of a batch end to end.

Shapes: N rows, B rows of a batch, L positions of the longest of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from bertsmith.batching import flatten, pack
from bertsmith.errors import InputError
from bertsmith.randomness import permute
from bertsmith.tasks.examples import Example

Batching = Literal["bucketed", "packed", "shuffled"]
Ints = npt.NDArray[np.int64]

_BATCHES_PER_WINDOW = 64


class Row(NamedTuple):
    """An example, or a window of one, as the model reads it."""

    tokens: Sequence[int]
    """(n,) token ids, special tokens included."""
    types: Sequence[int]
    """(n,) 0 for the first text, 1 for the second."""
    target: int | float | tuple[int, int]
    """Class, value, or first and last token of the answer; a class or position of -100, or a value of NaN, is none."""
    start: int | None = None
    """In training with `ssa`, where its tokens begin among those of all rows; -1 if all are labelled important."""


NO_TARGET: dict[str, int | float | tuple[int, int]] = {
    "classification": -100,
    "regression": float("nan"),
    "question_answering": (-100, -100),
}


def encode(
    name: str,
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    no_target: int | float,
    max_length: int | None,
    longest: int,
) -> tuple[list[Row], int]:
    """Tokenise texts and pairs of texts.

    Args:
        name: Of the split, for the error.
        examples: What to tokenise; of classification or regression.
        tokenizer: The model's.
        no_target: What stands for the label of an example without one.
        max_length: Longer texts are cut to this many tokens, special tokens included, the longer one of a pair first;
            None to refuse what is longer than the model can take.
        longest: How many tokens the model can take.

    Returns:
        A row for each example, and how many were cut.

    Raises:
        InputError: ``max_length`` is beyond the model, or it is None and a text is.
    """
    if max_length is not None and max_length > longest:
        raise InputError(f"max_length is {max_length}, but the model takes at most {longest} tokens; lower it")
    texts = [example.text for example in examples]
    is_pair = bool(examples) and examples[0].text_pair is not None
    pairs = [example.text_pair for example in examples] if is_pair else None
    if not examples:
        return [], 0
    options = {"return_attention_mask": False, "return_token_type_ids": True, "verbose": False}
    tokens, types = _tokenise(tokenizer, texts, pairs, options)
    limit = max_length or longest
    long = [place for place, ids in enumerate(tokens) if len(ids) > limit]
    if long and max_length is None:
        worst = max(long, key=lambda place: len(tokens[place]))
        raise InputError(
            f"{name}: {len(long):,} of {len(examples):,} texts are longer than the {longest} tokens that the model "
            f"takes (the longest: example {examples[worst].id!r}, {len(tokens[worst]):,} tokens); "
            f"set max_length: {longest} to cut them, or shorten them"
        )
    if long:
        cut = {"truncation": True, "max_length": limit, **options}
        some_pairs = None if pairs is None else [pairs[place] for place in long]
        shorter = _tokenise(tokenizer, [texts[place] for place in long], some_pairs, cut)
        for place, ids, kinds in zip(long, *shorter, strict=True):
            tokens[place], types[place] = ids, kinds
    rows = [
        Row(ids, kinds, no_target if example.label is None else example.label)  # type: ignore[arg-type]
        for ids, kinds, example in zip(tokens, types, examples, strict=True)
    ]
    return rows, len(long)


def _tokenise(
    tokenizer: Any, texts: list[str], pairs: list[str | None] | None, options: dict[str, Any]
) -> tuple[list[list[int]], list[list[int]]]:
    found = tokenizer(texts, pairs, **options)
    return found["input_ids"], found["token_type_ids"]


class Batches(Dataset[list[Row]]):
    """All micro-batches of a training, epoch after epoch; an item is one of them.

    An epoch of N rows has ceil(N / batch size) steps of as equal a number of rows as possible, in an order that is a
    pure function of seed and epoch. With ``bucketed``, windows of 64 batches are sorted by length before they are
    divided, and their batches then shuffled; otherwise any rows are side by side.

    Args:
        rows: The training rows.
        batch_size: Rows of a step at the most.
        num_epochs: How often to run through them.
        seed: Chooses the order.
        batching: Whether rows of one length go together.
        num_parts: Into how many micro-batches a step is divided, those of all ranks together.

    Raises:
        InputError: There are fewer rows than micro-batches in a step.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        batch_size: int,
        num_epochs: int,
        seed: int,
        batching: Batching = "bucketed",
        num_parts: int = 1,
    ) -> None:
        self.steps_per_epoch = -(-len(rows) // batch_size)
        self.num_steps = num_epochs * self.steps_per_epoch
        if len(rows) // self.steps_per_epoch < num_parts:
            raise InputError(
                f"training.gradient_accumulation times the number of processes is {num_parts}, but a step has only "
                f"{len(rows) // self.steps_per_epoch} examples; lower it"
            )
        self._rows = rows
        self._lengths = np.asarray([len(row.tokens) for row in rows], dtype=np.int64)
        self._seed = seed
        self._batching = batching
        self._num_parts = num_parts
        self._cached: tuple[int, list[Ints]] | None = None

    def __len__(self) -> int:
        """Return the number of micro-batches of all epochs."""
        return self.num_steps * self._num_parts

    def __getitem__(self, number: int) -> list[Row]:
        """Return a micro-batch."""
        step, part = divmod(number, self._num_parts)
        return [self._rows[place] for place in np.array_split(self.step(step), self._num_parts)[part]]

    def step(self, step: int) -> Ints:
        """Return which rows (B,) a step trains on."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._arrange(epoch))
        return self._cached[1][place]

    @property
    def rows(self) -> Sequence[Row]:
        """What an epoch runs through."""
        return self._rows

    def lengths_of_step(self, step: int) -> Ints:
        """Return the lengths (B,) in tokens of the rows of a step."""
        lengths: Ints = self._lengths[self.step(step)]
        return lengths

    def _arrange(self, epoch: int) -> list[Ints]:
        """Put the rows of an epoch into batches."""
        order = permute(np.arange(len(self._rows)), len(self._rows), self._seed, epoch)
        batches: list[Ints] = np.array_split(order, self.steps_per_epoch)
        if self._batching != "bucketed":
            return batches
        arranged = []
        for start in range(0, self.steps_per_epoch, _BATCHES_PER_WINDOW):
            window = batches[start : start + _BATCHES_PER_WINDOW]
            rows = np.concatenate(window)
            by_length = rows[np.argsort(self._lengths[rows], kind="stable")]
            buckets = np.split(by_length, np.cumsum([batch.size for batch in window])[:-1])
            # The seed of the order of batches must not be that of the order of rows.
            shuffled = permute(np.arange(len(window)), len(window), self._seed, -1 - epoch, start)
            arranged += [buckets[place] for place in shuffled.tolist()]
        return arranged


@dataclass(frozen=True)
class Collator:
    """Lays rows side by side, padded to the longest, or end to end.

    Args:
        pad_id: The padding token.
        takes_types: Whether the model is given token types.
        multiple: The length is filled up to a multiple of this, where the model can take that many tokens.
        longest: How many it can take.
        packed: Lay the rows end to end.
    """

    pad_id: int
    takes_types: bool
    multiple: int = 1
    longest: int = 2**31
    packed: bool = False

    def __call__(self, items: Sequence[Row | list[Row]]) -> dict[str, Any]:
        """Make a batch of B rows, or of micro-batches; a packed one is as :func:`bertsmith.batching.pack` says.

        Returns:
            ``input_ids`` (B, L), ``attention_mask`` (B, L) or None where nothing is padded, ``token_type_ids`` (B, L)
            or None, and ``targets``: (B,) classes or values, or (B, 2) positions in the row; of rows that have one,
            also ``starts`` (B,).
        """
        rows = flatten(items)
        lengths = np.asarray([len(row.tokens) for row in rows])
        longest = int(lengths.max())
        length = max(longest, min(-(-longest // self.multiple) * self.multiple, self.longest))
        tokens = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        types = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in enumerate(rows):
            tokens[place, : lengths[place]] = row.tokens
            types[place, : lengths[place]] = row.types
        mask = np.arange(length) < lengths[:, None]
        targets = torch.tensor([row.target for row in rows])
        batch = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": None if mask.all() else torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.from_numpy(types) if self.takes_types else None,
            "targets": targets.float() if targets.is_floating_point() else targets,
        }
        if rows[0].start is not None:
            batch["starts"] = torch.tensor([row.start for row in rows])
        return pack(batch) if self.packed else batch
