"""Pairs of views: what they hold, that they are functions of their place alone, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.views import ViewKind, ViewRow, Views
from made_up import WORDS, build_words


def take(rows: Views, epoch: int = 0) -> list[ViewRow]:
    return rows.take(np.arange(len(rows)), np.full(len(rows), epoch))


def words(corpus: Corpus, tokens: Any) -> list[str]:
    return list(corpus.tokenizer.decode(tokens.tolist()).split())


def test_two_different_views_of_one_record_in_any_order(pairs: Corpus) -> None:
    rows = Views(pairs, 64, seed=3)
    assert len(rows) == 200 and rows.num_left_out == 0
    drawn = []
    for epoch in range(20):
        for number, row in enumerate(take(rows, epoch)):
            first, second = words(pairs, row.first), words(pairs, row.second)
            assert first[0] == second[0] == WORDS[number % 60] and first[1] != second[1]
            drawn.append((WORDS.index(first[1]), WORDS.index(second[1])))
    _, counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 0.85 * len(drawn) / 6


def test_records_of_one_view_have_no_row(tmp_path: Path) -> None:
    # The second view of a record is a zero-width joiner, of which no token remains.
    text = '{"a": "ba be", "b": "ba bi"}\n{"a": "da de", "b": "\\u200d"}\n' * 3
    corpus = build_words(tmp_path, "pairs.jsonl", text, view_columns="a, b")
    rows = Views(corpus, 16)
    assert len(rows) == 3 and rows.num_left_out == 3
    assert {words(corpus, row.first)[0] for row in take(rows)} == {"ba"}


@pytest.mark.parametrize("views", ["dropout", "crop"])
def test_views_of_a_sentence_are_parts_of_it(sentences: Corpus, views: ViewKind) -> None:
    rows = Views(sentences, 40, seed=1, views=views, crop_least=0.5, least_tokens=10)
    lengths = sentences.sentence_lengths()
    assert len(rows) == (lengths >= 10).sum() and rows.num_left_out == (lengths < 10).sum()
    long_ones = np.flatnonzero(lengths >= 10)
    shares = []
    for row, sentence in zip(take(rows), long_ones.tolist(), strict=True):
        whole = sentences.sentence(sentence)
        for view in (row.first, row.second):
            starts = [start for start in range(len(whole)) if np.array_equal(whole[start : start + len(view)], view)]
            assert starts and 1 <= len(view) <= 38
            shares.append(len(view) / len(whole))
        if views == "dropout":
            assert np.array_equal(row.first, whole[:38]) and np.array_equal(row.second, whole[:38])
    if views == "crop":
        assert all(len(row.first) == len(row.second) for row in take(rows))
        short = np.asarray(shares)[np.repeat(lengths[long_ones] <= 38, 2)]
        assert short.min() >= 0.45 and abs(short.mean() - 0.75) < 0.01
        assert np.mean([np.array_equal(row.first, row.second) for row in take(rows)]) < 0.2


def test_deleted_tokens_leave_the_rest_in_order(sentences: Corpus) -> None:
    options: dict[str, Any] = {"seed": 1, "views": "crop", "crop_least": 1.0, "least_tokens": 10}
    whole, some = Views(sentences, 64, **options), Views(sentences, 64, **options, deletion_prob=0.3)
    for before, after in zip(take(whole)[:200], take(some)[:200], strict=True):
        for view, rest in ((before.first, after.first), (before.second, after.second)):
            assert len(rest) == len(view) - round(0.3 * len(view))
            remaining = iter(view.tolist())
            assert all(token in remaining for token in rest.tolist())
    assert any(not np.array_equal(row.first, row.second) for row in take(some))


@pytest.mark.parametrize("options", [{"views": "crop", "deletion_prob": 0.2}, {"views": "dropout"}])
def test_a_row_depends_on_its_place_alone(sentences: Corpus, options: dict[str, Any]) -> None:
    rows = Views(sentences, 30, seed=7, least_tokens=5, **options)
    numbers = np.asarray([90, 3, 41])
    together = rows.take(numbers, np.asarray([1, 0, 2]))
    assert rows.lengths(numbers, np.asarray([1, 0, 2])).tolist() == [len(r.first) + len(r.second) + 4 for r in together]
    for row in together:
        (alone,) = rows.take(np.asarray([row.number]), np.asarray([row.epoch]))
        assert np.array_equal(alone.first, row.first) and np.array_equal(alone.second, row.second)
    if options["views"] == "crop":
        other = Views(sentences, 30, seed=8, least_tokens=5, **options)
        assert any(not np.array_equal(a.first, b.first) for a, b in zip(take(rows), take(rows, 1), strict=True))
        assert any(not np.array_equal(a.first, b.first) for a, b in zip(take(rows), take(other), strict=True))


def test_what_has_no_views_is_refused(sentences: Corpus) -> None:
    with pytest.raises(InputError, match="build it of pairs with --view-columns first,second, or use objective.views"):
        Views(sentences, 64)
    with pytest.raises(InputError, match="no sentence has 500 tokens"):
        Views(sentences, 64, views="crop", least_tokens=500)
    with pytest.raises(InputError, match="expected at least 3"):
        Views(sentences, 2, views="crop")
