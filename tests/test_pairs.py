"""Pairs of segments against plain, slow references, on made-up and on real text."""

import pickle
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm

from bertsmith.batching import TrainingStream
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError
from bertsmith.pairs import (
    KINDS,
    NO_LABEL,
    PairRow,
    SentenceHalves,
    SentenceSequences,
)
from bertsmith.pairs.halves import split_at
from bertsmith.pairs.sequences import trim
from made_up import WORDS, make, make_of


@pytest.fixture
def corpus(sentences: Corpus) -> Corpus:
    return sentences


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Corpus]]:
    folder = tmp_path_factory.mktemp("real")
    corpora = {}
    for name, language in (("en_wiki_small", "en"), ("tr_news", "tr")):
        source = shared_data / "corpora" / f"{name}.txt"
        settings = BuildSettings(language=language, tokenizer=TokenizerSettings(vocab_size=4096))
        build([str(source)], folder / name, settings, workers=2)
        corpora[name] = Corpus(folder / name)
    yield corpora


def all_rows(rows: Any, epochs: int = 1) -> list[PairRow]:
    return [row for e in range(epochs) for row in rows.take(np.arange(rows.num_rows(e)), np.full(rows.num_rows(e), e))]


# Same-sentence prediction, as its papers define it and their code does it, one sentence at a time.
def reference_halves(
    corpus: Corpus, capacity: int, *, negatives: str, split: str, short_row_prob: float, seed: int = 0
) -> Iterator[tuple[int, int, int]]:
    rng = random.Random(seed)
    documents = [list(corpus.document_sentences(d)) for d in range(corpus.num_documents)]
    lengths = corpus.sentence_lengths().tolist()
    for d, sentences in enumerate(documents):
        for s in sentences:
            n = min(lengths[s], capacity)
            if n < 2:
                continue
            if rng.random() < short_row_prob:
                n = min(n, rng.randint(2, capacity))
            half = n // 2
            if split == "gaussian":
                half = int(np.floor(rng.gauss(n / 2, n / 2 / 3.2)))
                half = half if 1 < half < n - 2 else n // 2
            elif split == "uniform" and n > 2:
                half = rng.randint(1, n - 2)
            if min(half, n - half) < 5 or rng.random() < 0.5:
                yield half, n - half, 1
                continue
            for _ in range(10):
                if negatives == "same_document" and len(sentences) > 1:
                    other = rng.choice([x for x in sentences if x != s])
                else:
                    document = rng.randrange(len(documents) - 1)
                    other = rng.choice(documents[document + (document >= d)])
                if lengths[other] >= half:
                    break
            yield min(half, lengths[other]), n - half, 0


METHODS = [
    {"negatives": "other_document", "split": "half", "short_row_prob": 0.0},
    {"negatives": "same_document", "split": "half", "short_row_prob": 0.0},
    {"negatives": "same_document", "split": "half", "short_row_prob": 0.1},
    {"negatives": "same_document", "split": "gaussian", "short_row_prob": 0.0},
    {"negatives": "same_document", "split": "uniform", "short_row_prob": 0.1},
]


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=["SSP", "HNP", "HNP+M1", "HNP+M2", "HNP+M1+M2"])
def test_on_real_text_pairs_are_distributed_as_the_method_says(real: dict[str, Corpus], method: dict[str, Any]) -> None:
    corpus = real["en_wiki_small"]
    rows = SentenceHalves(corpus, 128, short_sentences="same", seed=3, **method)
    ours = np.concatenate([np.stack(rows.shapes(np.arange(len(rows)), np.full(len(rows), e)), 1) for e in range(2)])
    theirs = np.asarray([row for e in range(2) for row in reference_halves(corpus, 125, seed=e, **method)])
    assert len(ours) == len(theirs)
    assert abs((ours[:, 2] == 1).mean() - (theirs[:, 2] == 1).mean()) < 0.01
    for label in (0, 1):
        mine, reference = ours[ours[:, 2] == label], theirs[theirs[:, 2] == label]
        for column in (0, 1):
            assert ks_2samp(mine[:, column], reference[:, column]).statistic < 0.01
        assert ks_2samp(mine[:, :2].sum(1), reference[:, :2].sum(1)).statistic < 0.01


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["en_wiki_small", "tr_news"])
@pytest.mark.parametrize("method", METHODS, ids=["SSP", "HNP", "HNP+M1", "HNP+M2", "HNP+M1+M2"])
def test_properties_on_real_text(real: dict[str, Corpus], name: str, method: dict[str, Any]) -> None:
    check_properties(SentenceHalves(real[name], 128, seed=1, **method), method["negatives"])


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHODS[0], METHODS[-1]], ids=["SSP", "HNP+M1+M2"])
def test_properties(corpus: Corpus, method: dict[str, Any]) -> None:
    check_properties(SentenceHalves(corpus, 48, seed=1, **method), method["negatives"])


def check_properties(rows: SentenceHalves, negatives: str) -> None:
    corpus = rows.corpus
    taken = all_rows(rows, epochs=1 + 40_000 // len(rows))
    labelled = [row for row in taken if row.label != NO_LABEL]
    positives = sum(row.label for row in labelled)
    # Three standard deviations of a fair coin, or the 1 % that METHODS asks for where there are rows enough for it.
    assert abs(positives / len(labelled) - 0.5) < max(0.01, 1.5 / len(labelled) ** 0.5)

    for row in taken:
        tokens = corpus.sentence(row.sentence)
        capacity = rows.row_length - 3
        assert len(row.second) >= 1
        assert 2 <= len(row.first) + len(row.second) <= capacity
        if row.negative < 0:
            together = [*row.first, *row.second]
            assert together == tokens[: len(together)].tolist()
            assert row.label == 1 or KINDS[row.kind] in ("short", "no_match")
            continue
        assert row.negative != row.sentence
        assert row.first.tolist() == corpus.sentence(row.negative)[: len(row.first)].tolist()
        same = corpus.document_of(row.negative) == corpus.document_of(row.sentence)
        assert same == (negatives == "same_document") or KINDS[row.kind] == "no_other_sentence"
        if row.label == 0:
            # Its A is as long as the one it replaces, so the sentence still has the B after it.
            end = len(row.first) + len(row.second)
            assert row.second.tolist() == tokens[len(row.first) : end].tolist()
            assert row.first.tolist() != tokens[: len(row.first)].tolist()
    assert all(min(len(row.first), len(row.second)) >= 5 for row in labelled)
    num_labelled = (rows.shapes(*rows._sample(20_000))[2] != NO_LABEL).sum()
    assert abs(rows.length_only_accuracy() - 0.5) < 1.5 / num_labelled**0.5


def test_the_authors_rule_gives_the_label_away_by_length(corpus: Corpus) -> None:
    rows = SentenceHalves(corpus, 48, short_sentences="same", split="uniform")
    assert rows.length_only_accuracy() > 0.6
    short = [row for row in all_rows(rows) if KINDS[row.kind] == "short"]
    assert short
    assert all(row.label == 1 and row.negative == -1 for row in short)


def test_short_sentences_may_be_left_out(corpus: Corpus) -> None:
    rows = SentenceHalves(corpus, 48, short_sentences="skip")
    lengths = corpus.sentence_lengths()
    assert [row.sentence for row in all_rows(rows)] == np.flatnonzero(lengths >= 10).tolist()
    every = SentenceHalves(corpus, 48)
    assert [row.sentence for row in all_rows(every)] == np.flatnonzero(lengths >= 2).tolist()


@pytest.mark.parametrize("kind", ["halves", "next", "order"])
def test_rows_are_counters(corpus: Corpus, kind: str) -> None:
    documents = np.asarray([5, 3, 100, 77, 78, 119])

    def rows() -> Any:
        if kind == "halves":
            return SentenceHalves(corpus, 40, documents, seed=7, negatives="same_document", split="gaussian")
        return SentenceSequences(corpus, 40, documents, seed=7, labels=kind)  # type: ignore[arg-type]

    def plain(row: PairRow) -> tuple[Any, ...]:
        return (row.first.tolist(), row.second.tolist(), *row[2:])

    together = all_rows(rows(), epochs=2)
    other = pickle.loads(pickle.dumps(rows()))
    places = [(row.number, row.epoch) for row in together]
    apart = [other.take(np.asarray([number]), np.asarray([epoch]))[0] for number, epoch in reversed(places)]
    assert [plain(row) for row in together] == [plain(row) for row in reversed(apart)]
    assert [plain(row)[:3] for row in together if not row.epoch] != [plain(row)[:3] for row in together if row.epoch]
    lengths = other.lengths(*(np.asarray(part) for part in zip(*places, strict=True)))
    expected = [len(row.first) + len(row.second) + (3 if len(row.second) else 2) for row in together]
    assert lengths.tolist() == expected
    assert max(expected) <= 40
    assert {corpus.document_of(row.sentence) for row in together} == set(documents.tolist())
    assert {corpus.document_of(row.negative) for row in together if row.negative >= 0} <= set(documents.tolist())


@pytest.mark.parametrize("short_sentences", ["ignore", "same", "skip"])
@pytest.mark.parametrize("negatives", ["same_document", "other_document"])
def test_lengths_are_known_without_the_negatives(corpus: Corpus, short_sentences: Any, negatives: Any) -> None:
    rows = SentenceHalves(
        corpus, 40, seed=3, negatives=negatives, split="gaussian", short_row_prob=0.4, short_sentences=short_sentences
    )
    indices, epochs = np.arange(rows.num_rows(0)), np.full(rows.num_rows(0), 2)
    taken = [len(row.first) + len(row.second) + 3 for row in rows.take(indices, epochs)]
    assert rows.lengths(indices, epochs).tolist() == taken


def test_epochs_of_different_sizes_follow_each_other_in_the_stream(corpus: Corpus) -> None:
    rows = SentenceSequences(corpus, 64, np.arange(40))
    sizes = [rows.num_rows(epoch) for epoch in range(3)]
    assert len(set(sizes)) > 1
    stream = TrainingStream(rows, 8, sum(sizes) // 8 + 128, seed=2)
    seen = [row for step in range(len(stream)) for row in stream[step]]
    for epoch, size in enumerate(sizes):
        assert sorted(row.number for row in seen if row.epoch == epoch) == list(range(size))


# Next-sentence prediction as BERT's create_pretraining_data.py makes it, one document at a time.
def reference_sequences(corpus: Corpus, capacity: int, seed: int) -> Iterator[tuple[int, int, int]]:
    rng = random.Random(seed)
    lengths = corpus.sentence_lengths().tolist()
    documents = [list(corpus.document_sentences(d)) for d in range(corpus.num_documents)]
    for d, sentences in enumerate(documents):
        place = 0
        while place < len(sentences):
            target = rng.randint(2, capacity) if rng.random() < 0.1 else capacity
            chunk: list[int] = []
            while place + len(chunk) < len(sentences) and sum(lengths[s] for s in chunk) < target:
                chunk.append(sentences[place + len(chunk)])
            if len(chunk) == 1:
                yield min(capacity, lengths[chunk[0]]), 0, NO_LABEL
                place += 1
                continue
            cut = rng.randint(1, len(chunk) - 1)
            first, second, label = sum(lengths[s] for s in chunk[:cut]), sum(lengths[s] for s in chunk[cut:]), 1
            place += len(chunk)
            if rng.random() < 0.5:
                place -= len(chunk) - cut
                document = rng.randrange(len(documents) - 1)
                others = documents[document + (document >= d)]
                second, label = 0, 0
                for s in others[rng.randrange(len(others)) :]:
                    second += lengths[s]
                    if second >= target - first:
                        break
            while first + second > capacity:
                if first > second:
                    first -= 1
                else:
                    second -= 1
            yield first, second, label


def test_next_sentence_pairs_are_distributed_as_in_bert(corpus: Corpus) -> None:
    rows = SentenceSequences(corpus, 67, seed=5)
    epochs = 25
    ours = np.concatenate(
        [np.stack(rows.shapes(np.arange(rows.num_rows(e)), np.full(rows.num_rows(e), e)), 1) for e in range(epochs)]
    )
    theirs = np.asarray([row for e in range(epochs) for row in reference_sequences(corpus, 64, e)])
    assert len(ours) == pytest.approx(len(theirs), rel=0.01)
    for label in (0, 1, NO_LABEL):
        mine, reference = ours[ours[:, 2] == label], theirs[theirs[:, 2] == label]
        assert len(mine) / len(ours) == pytest.approx(len(reference) / len(theirs), abs=0.01)
        for column in (0, 1):
            assert ks_2samp(mine[:, column], reference[:, column]).statistic < 0.015
    labelled = ours[ours[:, 2] != NO_LABEL]
    assert abs(labelled[:, 2].mean() - 0.5) < 0.01


@pytest.mark.parametrize("labels", ["next", "order"])
def test_sequences_go_through_every_sentence_once(corpus: Corpus, labels: Any) -> None:
    rows = SentenceSequences(corpus, 1000, np.arange(50), labels=labels)
    for document in range(50):
        tokens = corpus.document(document).tolist()
        own = [row for row in all_rows(rows) if corpus.document_of(row.sentence) == document]
        read: list[int] = []
        for row in own:
            first, second = row.first.tolist(), row.second.tolist()
            if KINDS[row.kind] == "swapped":
                first, second = second, first
            # With so long rows nothing is trimmed; what a negative left unused begins the next row.
            read += first + (second if row.negative < 0 else [])
            if row.negative >= 0:
                assert corpus.document_of(row.negative) != document
                start = corpus.sentence(row.negative).tolist()
                assert second[: len(start)] == start[: len(second)]
        assert read == tokens


def test_order_pairs_are_swapped_half_of_the_time(corpus: Corpus) -> None:
    rows = all_rows(SentenceSequences(corpus, 64, labels="order"), epochs=10)
    labelled = [row for row in rows if row.label != NO_LABEL]
    swapped = [row for row in labelled if row.label == 0]
    assert abs(len(swapped) / len(labelled) - 0.5) < 0.02
    assert {KINDS[row.kind] for row in swapped} == {"swapped"}
    assert all(len(row.first) and len(row.second) for row in labelled)


def test_trimming_takes_one_token_after_the_other_from_the_longer() -> None:
    first, second = (part.ravel() for part in np.meshgrid(np.arange(1, 30), np.arange(1, 30)))
    for most in (2, 7, 20, 100):
        expected = []
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            while a + b > most:
                a, b = (a - 1, b) if a > b else (a, b - 1)
            expected.append((a, b))
        assert list(zip(*(part.tolist() for part in trim(first, second, most)), strict=True)) == expected


def test_both_ends_of_a_long_segment_are_trimmed(corpus: Corpus) -> None:
    rows = SentenceSequences(corpus, 23, labels="order", short_row_prob=0.0)
    fronts = []
    for row in all_rows(rows):
        text = corpus.document(corpus.document_of(row.sentence)).tolist()
        start = text[: len(row.first)] == row.first.tolist()
        fronts.append(start)
    assert 0 < sum(fronts) < len(fronts)


def test_splits() -> None:
    draws = np.random.default_rng(0).random(200_000)
    lengths = np.full(draws.size, 20)
    assert (split_at(lengths, draws, "half") == 10).all()
    assert np.bincount(split_at(lengths, draws, "uniform"))[1:].tolist() == pytest.approx([200_000 / 18] * 18, rel=0.05)
    gaussian = split_at(lengths, draws, "gaussian")
    assert gaussian.min() > 1
    assert gaussian.max() < 18
    law = np.diff(norm.cdf(np.arange(2, 19), 10, 20 / 2 / 3.2))  # rounded down to 2 .. 17
    law[8] += 1 - law.sum()  # what is outside falls back to the middle
    assert np.bincount(gaussian)[2:] / draws.size == pytest.approx(law, abs=0.004)
    for split in ("half", "gaussian", "uniform"):
        for length in (2, 3, 4):
            found = split_at(np.full(100, length), draws[:100], split)  # type: ignore[arg-type]
            assert ((found >= 1) & (found < length)).all()


@pytest.mark.slow
def test_a_document_of_one_sentence_has_negatives_from_another_and_says_so(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[20], [20], [20, 20, 20]] * 30)
    rows = all_rows(SentenceHalves(corpus, 64, negatives="same_document"), epochs=4)
    alone = {d for d in range(corpus.num_documents) if len(corpus.document_sentences(d)) == 1}
    for row in rows:
        is_alone = corpus.document_of(row.sentence) in alone
        if row.label == 0:
            assert KINDS[row.kind] == ("no_other_sentence" if is_alone else "same_document")
            assert row.negative != row.sentence
    assert {KINDS[row.kind] for row in rows} == {"positive", "same_document", "no_other_sentence"}


@pytest.mark.slow
def test_the_same_words_again_are_no_negative(tmp_path: Path) -> None:
    sentence = " ".join(WORDS[:20])
    corpus = make_of(tmp_path, [[sentence, sentence]] * 20)
    for short_sentences in ("ignore", "same"):
        rows = SentenceHalves(corpus, 64, negatives="same_document", short_sentences=short_sentences)  # type: ignore[arg-type]
        taken = all_rows(rows, epochs=5)
        assert {(row.label, KINDS[row.kind]) for row in taken} == {(1, "positive"), (NO_LABEL, "identical")}


@pytest.mark.slow
def test_a_document_of_a_hundred_thousand_sentences(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(3, 30, 100_000).tolist()
    corpus = make(tmp_path, [lengths, [5, 5]])
    halves = SentenceHalves(corpus, 64, negatives="same_document", short_sentences="skip")
    assert len(halves) == sum(n >= 10 for n in lengths)
    sequences = SentenceSequences(corpus, 64)
    starts = [row.sentence for row in all_rows(sequences)]
    assert starts == sorted(set(starts))
    assert max(np.diff(starts)) < 40


@pytest.mark.slow
def test_one_document_has_no_negatives_of_another(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[20, 20, 20]])
    with pytest.raises(InputError, match="same_document"):
        SentenceHalves(corpus, 64)
    with pytest.raises(InputError, match="labels: order"):
        SentenceSequences(corpus, 64)
    assert len(SentenceHalves(corpus, 64, negatives="same_document")) == 3
    assert SentenceSequences(corpus, 64, labels="order").num_rows(0) >= 1


@pytest.mark.slow
def test_documents_of_one_sentence_give_no_order(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[20], [30]])
    rows = SentenceSequences(corpus, 64, labels="order")
    assert {KINDS[row.kind] for row in all_rows(rows)} == {"one_sentence"}
    with pytest.raises(InputError, match="no pair gets a label"):
        rows.length_only_accuracy()


@pytest.mark.slow
def test_what_cannot_be_split(tmp_path: Path) -> None:
    corpus = make(tmp_path, [[1], [1]])
    with pytest.raises(InputError, match="no sentence"):
        SentenceHalves(corpus, 64)
    for kind in (SentenceHalves, SentenceSequences):
        with pytest.raises(ValueError, match="expected at least 5"):
            kind(corpus, 4)


def test_rows_of_a_sorted_stream_come_from_everywhere(corpus: Corpus) -> None:
    stream = TrainingStream(SentenceHalves(corpus, 64), 16, 64, seed=1)
    numbers = [row.number for step in range(len(stream)) for row in stream[step]]
    assert len(set(numbers)) == len(numbers)
    assert sum(b == a + 1 for a, b in pairwise(numbers)) < 10
