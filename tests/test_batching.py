import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bertsmith.batching import (
    Batching,
    TrainingStream,
    _buckets,
    first_of_rows,
    flatten,
    num_real_tokens,
    pack,
    rows_per_step,
    unpack,
)
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError
from bertsmith.objectives import MLM, SSP
from bertsmith.pairs import SentenceHalves
from bertsmith.rows import TextRows

BOTH = pytest.mark.parametrize("batching", get_args(Batching))


@BOTH
def test_each_epoch_holds_every_row_once_in_an_order_of_its_own(corpus: Any, batching: Batching) -> None:
    rows = TextRows(corpus, 32)
    stream = TrainingStream(rows, 16, -(-3 * len(rows) // 16) + 128, seed=4, batching=batching)
    seen = [row for step in range(len(stream)) for row in stream[step]]
    for epoch in range(2):
        assert sorted(row.number for row in seen if row.epoch == epoch) == list(range(len(rows)))
    assert {row.epoch for row in seen} >= {0, 1, 2}
    orders = [[row.number for row in seen if row.epoch == epoch] for epoch in range(2)]
    assert orders[0] != orders[1]
    other = TrainingStream(rows, 16, 4, seed=5, batching=batching)
    assert [row.number for row in other[0]] != [row.number for row in stream[0]]


@BOTH
@pytest.mark.parametrize("num_parts", [1, 3, 8])
def test_parts_and_workers_change_nothing(corpus: Any, batching: Batching, num_parts: int) -> None:
    steps = TrainingStream(TextRows(corpus, 32), 16, 8, seed=1, batching=batching)
    expected = [[(row.number, row.epoch) for row in steps[step]] for step in range(8)]
    stream = TrainingStream(TextRows(corpus, 32), 16, 8, seed=1, batching=batching, num_parts=num_parts)
    for workers in (0, 2):
        loader = DataLoader(pickle.loads(pickle.dumps(stream)), num_workers=workers, collate_fn=flatten)
        parts = [[(row.number, row.epoch) for row in rows] for rows in loader]
        assert len(parts) == 8 * num_parts
        assert all(parts)
        joined = [sum(parts[step * num_parts : (step + 1) * num_parts], []) for step in range(8)]
        assert joined == expected


def test_more_parts_than_rows(corpus: Any) -> None:
    rows = TextRows(corpus, 32)
    with pytest.raises(InputError, match="number of processes is 17, more than the 16 rows of the smallest step"):
        TrainingStream(rows, 16, 8, seed=1, num_parts=17)
    assert all(TrainingStream(rows, 16, 8, seed=1, num_parts=16))
    # A run that is under way has its order already.
    with pytest.raises(InputError, match="more than the 8 rows"):
        TrainingStream(rows, 16, 8, seed=1, num_parts=16, least_rows=8)
    begun = TrainingStream(rows, 16, 8, seed=1, num_parts=16)
    later = TrainingStream(rows, 16, 8, seed=1, num_parts=2, least_rows=begun.least_rows)
    assert all((begun.lengths_of_step(step) == later.lengths_of_step(step)).all() for step in range(8))


@BOTH
def test_the_lengths_of_a_step_are_those_of_its_rows(corpus: Any, batching: Batching) -> None:
    stream = TrainingStream(TextRows(corpus, 32), 16, 140, seed=1, batching=batching)
    for step in (0, 13, 139):
        assert stream.lengths_of_step(step).tolist() == [len(row.tokens) + 2 for row in stream[step]]


def test_almost_nothing_is_padded_in_buckets_and_all_are_of_one_size(sentences: Corpus) -> None:
    for rows, mean in ((TextRows(sentences, 128), 64), (SentenceHalves(sentences, 128), 64)):
        stream = TrainingStream(rows, mean, 128, seed=0)
        steps = [stream.lengths_of_step(step) for step in range(128)]
        assert max(lengths.max() for lengths in steps) > 2 * min(lengths.max() for lengths in steps)
        slots = [lengths.max() * lengths.size for lengths in steps]
        assert sum(lengths.sum() for lengths in steps) / sum(slots) >= 0.98
        assert max(slots) < 1.15 * np.mean(slots)
        assert min(lengths.size for lengths in steps) >= 8


@pytest.mark.parametrize("mean", [8, 16, 72])
@pytest.mark.parametrize("values", [[7], [2, 512], [2] * 99 + [512], [512] * 99 + [2], list(range(2, 513))])
def test_any_lengths_can_be_divided(values: list[int], mean: int) -> None:
    size = 128 * mean
    lengths = np.resize(np.asarray(values), size)
    order, bounds = _buckets(lengths, 8, 3, 0)
    assert sorted(order.tolist()) == list(range(size))
    assert bounds[0] == 0 and bounds[-1] == size
    assert np.diff(bounds).min() >= 8


def test_even_mixtures_are_of_one_size_down_to_parts_of_a_step(sentences: Corpus) -> None:
    stream = TrainingStream(SentenceHalves(sentences, 64), 256, 64, seed=0, batching="packed")
    lengths = np.stack([stream.lengths_of_step(step) for step in range(64)])
    assert lengths.std() > 10  # so there is something to even out
    # Any order that does not look at lengths would give 16 and 8 times this.
    assert lengths.sum(axis=1).std() < lengths.std()
    assert lengths.reshape(64, 4, 64).sum(axis=2).std() < 2 * lengths.std()


@pytest.fixture(scope="module")
def pairs_of_wikipedia(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("wikipedia") / "corpus"
    settings = BuildSettings(tokenizer=TokenizerSettings(vocab_size=4096, sample_bytes=2**20))
    build([str(shared_data / "corpora" / "en_wiki_small.txt")], folder, settings, workers=2)
    return Corpus(folder)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("row_length", "least"), [(128, 0.96), (512, 0.98)])
def test_density_on_wikipedia(pairs_of_wikipedia: Corpus, row_length: int, least: float) -> None:
    objective = SSP.Config()
    rows = SSP.make_rows(objective, pairs_of_wikipedia, row_length)
    collate = SSP.make_collate(objective, pairs_of_wikipedia.tokenizer, 0)
    for batching, at_least in (("bucketed", 0.98), ("packed", least)):
        stream = TrainingStream(rows, rows_per_step(rows, 4096), 128, seed=0, batching=batching)  # type: ignore[arg-type]
        real = slots = 0
        for step in range(128):
            batch = pack(collate([stream[step]])) if batching == "packed" else collate([stream[step]])
            real += int(num_real_tokens(batch))
            slots += batch["input_ids"].numel()
        assert real / slots >= at_least, batching


@pytest.mark.parametrize("longest", [40, 64, 100, 512])
@pytest.mark.parametrize("num_rows", [1, 3, 40, 700])
def test_the_filling_is_short_and_no_longer_than_the_longest_row(num_rows: int, longest: int) -> None:
    lengths = np.random.default_rng(num_rows).integers(1, longest + 1, num_rows)
    lengths[-1] = longest
    mask = torch.from_numpy(np.arange(longest) < lengths[:, None]).long()
    packing = pack({"input_ids": mask, "attention_mask": mask})["packing"]
    # A kernel computes no more than this of any segment, and leaves the rest as it finds it.
    assert packing["cu_seq_lens_q"].diff().max() <= packing["max_length_q"]
    assert packing["cu_seq_lens_q"][-1] - lengths.sum() < max(8, lengths.sum() / 64)


def test_packing_and_unpacking(corpus: Any) -> None:
    rows = TextRows(corpus, 32).take(np.asarray([0, 3, 4, 9]), np.zeros(4, np.int64))
    padded = MLM.make_collate(MLM.Config(mask_prob=0.3), corpus.tokenizer, 0)(rows)
    packed = pack({**padded, "token_type_ids": padded["input_ids"] % 2, "kept": 5})
    lengths = [len(row.tokens) + 2 for row in rows]
    packing = packed["packing"]
    total = sum(lengths)
    assert packed["input_ids"].shape == (1, -(-total // 8) * 8)
    assert packing["cu_seq_lens_q"].tolist() == [0, *np.cumsum(lengths), packed["input_ids"].shape[1]]
    assert packing["cu_seq_lens_q"].dtype == torch.int32
    assert packing["max_length_q"] == 64
    positions = packing["position_ids"][0].tolist()
    assert positions[:total] == [k for length in lengths for k in range(length)]
    assert set(positions[total:]) <= {0}
    flat = [token for row, n in zip(padded["input_ids"].tolist(), lengths, strict=True) for token in row[:n]]
    assert packed["input_ids"][0, :total].tolist() == flat
    assert torch.equal(packed["token_type_ids"][0, :total], packed["input_ids"][0, :total] % 2)
    assert packed["attention_mask"] is None and packed["kept"] == 5
    assert num_real_tokens(packed) == num_real_tokens(padded) == total

    originals = padded["input_ids"].view(-1)[padded["positions"]]
    assert torch.equal(packed["input_ids"][0, packed["positions"]], originals)
    assert torch.equal(packed["targets"], padded["targets"])

    states = packed["input_ids"].unsqueeze(-1).float()
    again = unpack(states, packing)[..., 0].long()
    for row, original, length in zip(again, padded["input_ids"], lengths, strict=True):
        assert torch.equal(row[:length], original[:length])
        assert not row[length:].any()
    assert torch.equal(first_of_rows(states, packing), first_of_rows(padded["input_ids"].unsqueeze(-1).float(), None))
