import pickle
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from bertsmith.errors import InputError
from bertsmith.rows import TextRows, TrainingStream, ValidationRows, split_documents


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


def test_each_epoch_holds_every_row_once_in_an_order_of_its_own(corpus: Any) -> None:
    rows = TextRows(corpus, 32)
    stream = TrainingStream(rows, 16, -(-3 * len(rows) // 16) + 64, seed=4)
    seen = stream.__getitems__(range(len(stream)))
    for epoch in range(2):
        assert sorted(row.number for row in seen if row.epoch == epoch) == list(range(len(rows)))
    assert {row.epoch for row in seen} >= {0, 1, 2}
    orders = [[row.number for row in seen if row.epoch == epoch] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_the_stream_is_the_same_by_items_by_batches_and_in_workers(corpus: Any) -> None:
    stream = TrainingStream(TextRows(corpus, 32), 12, 8, seed=1)
    one_by_one = [(row.number, row.epoch) for row in map(stream.__getitem__, range(len(stream)))]
    for batch_size, workers in ((4, 0), (6, 0), (12, 2)):
        loader = DataLoader(
            pickle.loads(pickle.dumps(stream)), batch_size=batch_size, num_workers=workers, collate_fn=list
        )
        assert [(row.number, row.epoch) for batch in loader for row in batch] == one_by_one


def test_the_lengths_of_a_step_are_those_of_its_rows(corpus: Any) -> None:
    stream = TrainingStream(TextRows(corpus, 32), 10, 70, seed=1)
    for step in (0, 13, 69):
        rows = stream.__getitems__(range(step * 10, step * 10 + 10))
        assert stream.lengths_of_step(step).tolist() == [len(row.tokens) + 2 for row in rows]


def test_almost_nothing_is_padded(corpus: Any) -> None:
    stream = TrainingStream(TextRows(corpus, 128), 16, 128, seed=0)
    lengths = np.stack([stream.lengths_of_step(step) for step in range(64)])
    assert lengths.min() < 40 < 120 < lengths.max()  # so there is something to sort
    assert lengths.sum() / (lengths.max(axis=1) * 16).sum() > 0.97


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
