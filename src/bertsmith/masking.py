"""Choose the positions that a model must predict, and corrupt them: vectorised over a batch, random by row.

Shapes: B rows, L positions, W words of a row, M chosen positions of the whole batch.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.errors import InputError
from bertsmith.pretrained import num_ids
from bertsmith.randomness import RowGenerator
from bertsmith.settings import settings

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@settings
class CorruptionSettings:
    """How many tokens to predict, and what stands in their place."""

    mask_prob: float = 0.15
    """Share of the ordinary tokens of a row to predict; 0.30 to 0.40 is better for larger models."""
    mask_token_share: float = 0.8
    """Share of the chosen tokens that become [MASK]."""
    random_token_share: float = 0.1
    """Share of the chosen tokens that become a random token; the rest stay."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.mask_prob < 1:
            raise ValueError(f"mask_prob is {self.mask_prob}; expected more than 0 and less than 1, usually 0.15")
        shares = self.mask_token_share, self.random_token_share
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ValueError(
                f"mask_token_share and random_token_share are {shares}; expected shares that add up to <= 1"
            )

    def loss_without_context(self, predicted: Floats, actual: Floats) -> float | None:
        """Say what a model reaches on the chosen tokens that looks at nothing but each token itself.

        It knows token frequencies and, where no [MASK] stands, how likely what stands there is the token it asks for.
        A model above it has learned nothing from context, far below the entropy of the frequencies though it may be.

        Args:
            predicted: (V,) positive shares of the ordinary tokens, as the model knows them.
            actual: (V,) their shares in the text that is predicted.

        Returns:
            Nats per chosen token; None for settings that predict none.
        """
        kept = 1.0 - self.mask_token_share - self.random_token_share
        at_random = self.random_token_share / predicted.size
        surprise = -np.log(predicted)
        loss = self.mask_token_share * (actual @ surprise)
        if kept > 0 or at_random > 0:
            # By Bayes' rule: how likely a visible token is the original one; random ones are all as frequent.
            is_kept = kept * predicted / (kept * predicted + at_random)
            surprise_there = -np.log(is_kept + (1.0 - is_kept) * predicted)
            loss += kept * (actual @ surprise_there)
        if at_random > 0:
            elsewhere = actual @ surprise - actual * surprise - (1.0 - actual) * np.log1p(-is_kept)
            loss += at_random * (elsewhere + actual * surprise_there).sum()
        return float(loss)


@settings
class MaskingSettings(CorruptionSettings):
    """Which tokens to predict, and what stands in their place."""

    unit: Literal["token", "word"] = "token"
    """Choose single tokens, or whole words."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What corruption must know of a tokenizer, taken from it by name once.

    Attributes:
        pad_id: Fills rows up to the length of the batch.
        cls_id: Starts a row.
        sep_id: Ends a segment.
        mask_id: Stands for a hidden token.
        special: (V,) true for tokens that are never masked, replaced or predicted; V is one more than the highest id.
        continues: (V,) true for tokens that continue the word before them; None where the vocabulary marks no words.
        ordinary_ids: (at most V - specials,) the tokens that may replace another.
    """

    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special: Bools
    continues: Bools | None
    ordinary_ids: Ints

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":
        """Read the vocabulary of a transformers tokenizer.

        Raises:
            InputError: The tokenizer lacks one of the tokens that masking needs.
        """
        from bertsmith.corpus.tokenizer import continues_word

        ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
        for name, value in ids.items():
            if value is None:
                raise InputError(
                    f"the tokenizer {tokenizer.name_or_path!r} has no {name} token; use one made for masked models"
                )
        ordinary = np.zeros(num_ids(tokenizer), dtype=bool)
        ordinary[list(tokenizer.get_vocab().values())] = True
        special = np.zeros_like(ordinary)
        special[tokenizer.all_special_ids] = True
        try:
            continues = continues_word(tokenizer)
        except InputError:
            continues = None
        return cls(
            pad_id=ids["pad"],
            cls_id=ids["cls"],
            sep_id=ids["sep"],
            mask_id=ids["mask"],
            special=special,
            continues=continues,
            ordinary_ids=np.flatnonzero(ordinary & ~special),
        )


def vocabulary_for(masking: MaskingSettings, tokenizer: Any) -> Vocabulary:
    """Read the vocabulary of a tokenizer for masking as the settings say.

    Raises:
        InputError: It lacks a token that masking needs, or whole words are wanted and it does not mark them.
    """
    vocabulary = Vocabulary.of(tokenizer)
    if masking.unit == "word" and vocabulary.continues is None:
        raise InputError(
            "objective.unit is 'word', but the tokenizer does not mark which tokens continue a word; "
            "use unit: token, or a WordPiece, Unigram or byte-level BPE tokenizer"
        )
    return vocabulary


def mask(tokens: Ints, random: RowGenerator, vocabulary: Vocabulary, masking: MaskingSettings) -> dict[str, Tensor]:
    """Choose what is predicted in a batch, and corrupt it.

    Args:
        tokens: (B, L) token ids.
        random: Draws for these B rows.
        vocabulary: The tokenizer's facts.
        masking: The settings.

    Returns:
        ``input_ids`` (B, L) corrupted; ``positions`` (M,) of the chosen tokens in the flattened batch; ``targets`` (M,)
        their ids; ``cut_words`` () the number of words that had to be cut for an exact count.
    """
    maskable = ~vocabulary.special[tokens]
    counts = num_predicted(maskable.sum(axis=1), masking.mask_prob)
    if masking.unit == "word":
        assert vocabulary.continues is not None
        rows, columns, cut_words = choose_words(maskable, vocabulary.continues[tokens], counts, random)
    else:
        (rows, columns), cut_words = choose_tokens(maskable, counts, random), 0
    shares = masking.mask_token_share, masking.random_token_share
    return {
        "input_ids": torch.from_numpy(corrupt(tokens, rows, columns, columns, vocabulary, random, shares)),
        "positions": torch.from_numpy(rows * tokens.shape[1] + columns),
        "targets": torch.from_numpy(tokens[rows, columns]),
        "cut_words": torch.tensor(cut_words),
    }


def num_predicted(num_maskable: Ints, mask_prob: float) -> Ints:
    """Give the exact number of predicted positions of rows: K = max(1, round(p * n)), and 0 where n is 0."""
    wanted: Ints = np.maximum(1, np.rint(mask_prob * num_maskable).astype(np.int64))
    return np.minimum(wanted, num_maskable)


def choose_tokens(maskable: Bools, counts: Ints, random: RowGenerator) -> tuple[Ints, Ints]:
    """Choose positions uniformly, without replacement.

    Args:
        maskable: (B, L) the positions that may be chosen.
        counts: (B,) how many to choose in each row; at most the maskable ones.
        random: Draws for these B rows.

    Returns:
        Rows (M,) and columns (M,) of the chosen positions, sorted by row and column.
    """
    num_rows, length = maskable.shape
    most = int(counts.max(initial=0))
    if most == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    scores = np.where(maskable, random.uniform(length), 2.0)
    nearest = np.argpartition(scores, most - 1, axis=1)[:, :most]
    # argpartition leaves the smallest scores unordered; rows that want fewer than `most` need the smallest of them.
    order = np.argsort(np.take_along_axis(scores, nearest, axis=1), axis=1)
    chosen = np.zeros((num_rows, length), dtype=bool)
    rows, ranks = np.nonzero(np.arange(most) < counts[:, None])
    chosen[rows, np.take_along_axis(nearest, order, axis=1)[rows, ranks]] = True
    chosen_rows, columns = np.nonzero(chosen)
    return chosen_rows, columns


def choose_words(maskable: Bools, continues: Bools, counts: Ints, random: RowGenerator) -> tuple[Ints, Ints, int]:
    """Choose whole words in random order until exactly the wanted number of tokens is covered.

    A word that no longer fits is passed over for the next one. Where no remaining word fits, the first of them is cut
    short, so that the count stays exact; such cuts are counted.

    Args:
        maskable: (B, L) the positions that may be chosen.
        continues: (B, L) the positions whose token continues the word before it.
        counts: (B,) how many tokens to choose in each row.
        random: Draws for these B rows.

    Returns:
        Rows (M,) and columns (M,) of the chosen positions, sorted, and the number of words that were cut.
    """
    num_rows, length = maskable.shape
    follows = np.zeros_like(maskable)
    follows[:, 1:] = maskable[:, :-1]
    starts = maskable & ~(continues & follows)
    # Words are numbered within their row from 0; other positions get the number of a word that no row has.
    word_of = np.where(maskable, np.cumsum(starts, axis=1) - 1, length)
    row_of = np.arange(num_rows)[:, None]
    sizes = np.bincount((row_of * (length + 1) + word_of).ravel(), minlength=num_rows * (length + 1))
    sizes = sizes.reshape(num_rows, length + 1)[:, :length]

    order = np.argsort(np.where(sizes > 0, random.uniform(length), 2.0), axis=1)
    taken = np.zeros((num_rows, length + 1), dtype=bool)
    missing = counts.copy()
    every_row = np.arange(num_rows)
    for rank in range(length):
        words = order[:, rank]
        fits = (sizes[every_row, words] <= missing) & (sizes[every_row, words] > 0)
        taken[every_row, words] |= fits
        missing -= np.where(fits, sizes[every_row, words], 0)
        if not missing.any():
            break

    chosen = taken[row_of, word_of] & maskable
    short = np.flatnonzero(missing)
    for row in short:
        first = next(word for word in order[row] if sizes[row, word] > 0 and not taken[row, word])
        chosen[row, np.flatnonzero(word_of[row] == first)[: missing[row]]] = True
    rows, columns = np.nonzero(chosen)
    return rows, columns, short.size


def corrupt(
    tokens: Ints,
    rows: Ints,
    columns: Ints,
    deciders: Ints,
    vocabulary: Vocabulary,
    random: RowGenerator,
    shares: tuple[float, float],
) -> Ints:
    """Replace the chosen tokens: some by the mask, some by a random ordinary token, the rest stay (BERT: 80/10/10).

    Args:
        tokens: (B, L) token ids.
        rows: (M,) rows of the chosen positions.
        columns: (M,) columns of the chosen positions.
        deciders: (M,) columns; what happens to a position is decided alike for all of one row that have the same.
        vocabulary: The tokenizer's facts.
        random: Draws for these B rows.
        shares: The share that becomes the mask, and the share that becomes a random token.

    Returns:
        (B, L) a corrupted copy.
    """
    to_mask, to_random = shares
    action = random.uniform_at(rows, deciders)
    replacement = random.uniform_at(rows, columns)

    corrupted = tokens.copy()
    masked = action < to_mask
    corrupted[rows[masked], columns[masked]] = vocabulary.mask_id
    swapped = ~masked & (action < to_mask + to_random)
    picks = (replacement[swapped] * vocabulary.ordinary_ids.size).astype(np.int64)
    corrupted[rows[swapped], columns[swapped]] = vocabulary.ordinary_ids[picks]
    return corrupted
