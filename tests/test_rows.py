from typing import Any

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.rows import TextRows, ValidationRows, split_documents


def rows_by_definition(corpus: Any, row_length: int, documents: Any) -> list[list[int]]:
    found = []
    for document in documents:
        tokens = corpus.document(int(document)).tolist()
        found += [tokens[start : start + row_length - 2] for start in range(0, len(tokens), row_length - 2)]
    return found


def test_rows_cover_every_token_of_every_document_once(corpus: Any) -> None:
    documents = np.asarray([3, 0, 7])
    rows = TextRows(corpus, 20, documents)
    expected = rows_by_definition(corpus, 20, documents)
    assert [row.tokens.tolist() for row in rows.take(np.arange(len(rows)), np.zeros(len(rows), int))] == expected
    assert rows.lengths(np.arange(len(rows)), np.zeros(len(rows), int)).tolist() == [len(row) + 2 for row in expected]
    assert rows.mean_length == pytest.approx(np.mean([len(row) + 2 for row in expected]))
    assert rows[1].tokens.tolist() == expected[1]


def test_documents_are_held_out_for_good(corpus: Any) -> None:
    training, held_out = split_documents(corpus, 0.1)
    assert len(held_out) == round(0.1 * corpus.num_documents)
    assert sorted([*training, *held_out]) == list(range(corpus.num_documents))
    again = split_documents(corpus, 0.1)
    assert again[1].tolist() == held_out.tolist()
    assert set(split_documents(corpus, 0.05)[1]) < set(held_out)
    assert split_documents(corpus, 0)[1].size == 0
    assert split_documents(corpus, 1e-9)[1].size == 1


def test_a_single_document_cannot_be_held_out() -> None:
    class One:
        path, num_documents = "one", 1

    with pytest.raises(InputError, match="data.validation to 0"):
        split_documents(One(), 0.01)  # type: ignore[arg-type]


def test_validation_rows_are_filled_up_with_empty_ones(corpus: Any) -> None:
    rows = TextRows(corpus, 32, split_documents(corpus, 0.1)[1])
    validation = ValidationRows(rows, 21, multiple=8)
    taken = [validation[place] for place in range(len(validation))]
    assert len(validation) == 24
    assert [len(row.tokens) for row in taken[21:]] == [0, 0, 0]
    lengths = [len(row.tokens) for row in taken[:21]]
    assert lengths == sorted(lengths)
    assert lengths[0] > 0
    assert len({row.number for row in taken}) == 24


def test_a_row_needs_room_for_text(corpus: Any) -> None:
    with pytest.raises(ValueError, match="expected at least 3"):
        TextRows(corpus, 2)
