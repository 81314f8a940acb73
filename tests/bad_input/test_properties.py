"""Readers, run files, the tokenizer trainer, rows and collates: a result that keeps its rules, or one clear line.

Few examples in the fast tests, many in the slow ones, the same every time.
"""

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import FINETUNE, RUN, TARGETS, check_message, check_task, squad

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings
from bertsmith.corpus.readers import Reader, ReadOptions
from bertsmith.corpus.tokenizer import SPECIAL_TOKENS, TokenizerSettings, train
from bertsmith.errors import InputError
from bertsmith.finetuning.rows import NO_TARGET, Collator, encode
from bertsmith.finetuning.settings import FinetuningSettings, load_finetuning
from bertsmith.objectives import OBJECTIVES
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.settings import describe, read_words
from bertsmith.tasks import load_task
from bertsmith.tasks.examples import Answers, Example
from bertsmith.tasks.question_answering import make_windows
from bertsmith.tasks.settings import TaskSettings
from bertsmith.views import ViewRow
from made_up import WORDS, build_words, make_of

settings.register_profile(
    "fast", max_examples=6, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=25)
PROFILES = pytest.mark.parametrize("profile", ["fast", pytest.param("thorough", marks=pytest.mark.slow)])

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"), max_size=30)
PIECES = [
    b"",
    b"\0",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b"{",
    b"[",
    b"}",
    b":",
    b"\xff",
    b"\xef\xbb\xbf",
    b"null",
    b"NaN",
]
PIECES += [b"-1", b"1e999", b"9" * 30, b"'", b"&a ", b"*a", b"!!int ", b"2020-13-45", b"\\ud800", b"? ", b"<<: "]
JUNK = [
    "",
    ".nan",
    ".inf",
    "-.inf",
    "-1",
    "0",
    "1",
    "0.5",
    "1e999",
    "99999999999999999999999",
    "null",
    "true",
    "x",
    "[]",
]
JUNK += ["{}", "[1, a]", "{a: 1}", "2020-13-45", "!!binary aGk=", "*a", "'", "\t", "[[[[", "~/x", "ß", "a b", "--"]


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A whole input with a few edits."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data = data[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + data[end:]
    return data


@PROFILES
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bytes(name: str, profile: str, tmp_path: Path) -> None:
    @settings(settings.get_profile(profile))
    @given(damaged(TARGETS[name].seeds))
    def holds(data: bytes) -> None:
        TARGETS[name].run(tmp_path, data)

    holds()


FOUND = sorted(Path(__file__).with_name("found").iterdir())


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_what_the_fuzzer_has_found(path: Path, tmp_path: Path) -> None:
    name = path.name.partition("__")[0].replace("-", " ")
    TARGETS[name].run(tmp_path, path.read_bytes())


def _write(path: Path, texts: list[str]) -> None:
    rows = [[str(number), text] for number, text in enumerate(texts)]
    kind = path.name.split(".")[1]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": [row[0] for row in rows], "text": texts}), path)
        return
    with open(path.with_name("plain"), "w", newline="", encoding="utf-8") as file:
        if kind == "jsonl":
            file.writelines(json.dumps({"id": id, "text": text}) + "\n" for id, text in rows)
        else:
            csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([["id", "text"], *rows])
    data = path.with_name("plain").read_bytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@PROFILES
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.gz"])
def test_no_document_is_lost(name: str, profile: str, tmp_path: Path) -> None:
    @settings(settings.get_profile(profile))
    @given(st.lists(TEXT if name.startswith(("a.jsonl", "a.parquet")) else LINE, min_size=1, max_size=5))
    def holds(texts: list[str]) -> None:
        _write(tmp_path / name, texts)
        reader = Reader([str(tmp_path / name)], ReadOptions(id_column="id"))
        expected = [(str(number), text) for number, text in enumerate(texts) if text.strip()]
        try:
            found = [(document.id, document.text) for document in reader]
        except InputError as error:
            assert not expected and "holds no text" in str(error)
            return
        assert found == expected and reader.num_empty == len(texts) - len(expected)

    holds()


@PROFILES
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet"])
def test_no_example_is_lost(name: str, profile: str, tmp_path: Path) -> None:
    @settings(settings.get_profile(profile))
    @given(st.lists(LINE.filter(str.strip), min_size=2, max_size=5))
    def holds(texts: list[str]) -> None:
        _write(tmp_path / name, texts)
        file = str(tmp_path / name)
        quotes: Any = "csv" if name == "a.tsv" else "auto"
        task = load_task(TaskSettings(train=file, validation=file, label="id", quotes=quotes))
        check_task(task)
        assert [(task.labels[int(e.label)], e.text) for e in task.train] == [(str(k), t) for k, t in enumerate(texts)]  # type: ignore[arg-type]

    holds()


@PROFILES
def test_answers_are_where_they_are_said_to_be(profile: str, tmp_path: Path) -> None:
    @settings(settings.get_profile(profile))
    @given(TEXT.filter(str.strip), st.integers(-2, 30), st.integers(0, 10), st.integers(-1, 1))
    def holds(context: str, start: int, length: int, off: int) -> None:
        answer = context[max(start, 0) :][:length]
        (tmp_path / "a.json").write_bytes(squad(context, **{answer: start + off}))
        file = str(tmp_path / "a.json")
        try:
            task = load_task(TaskSettings(train=file, validation=file, type="question_answering"))
        except InputError as error:
            check_message(error, file)
            return
        assert task.train[0].label == Answers((answer,), (start + off,))
        check_task(task)

    holds()


@PROFILES
@pytest.mark.parametrize("kind", [RunSettings, FinetuningSettings, BuildSettings])
def test_any_value_of_any_key(kind: type[Any], profile: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(RUN if kind is RunSettings else FINETUNE)
    load: dict[Any, Callable[[list[str]], Any]] = {
        RunSettings: lambda words: load_run(tmp_path / "run.yaml", words),
        FinetuningSettings: lambda words: load_finetuning(str(tmp_path / "run.yaml"), words),
        BuildSettings: lambda words: read_words(BuildSettings, words, None),
    }
    keys = [key for key, *_ in describe(kind)]

    @settings(settings.get_profile(profile), max_examples=4 * settings.get_profile(profile).max_examples)
    @given(st.dictionaries(st.sampled_from(keys), st.sampled_from(JUNK), min_size=1, max_size=2))
    def holds(values: dict[str, str]) -> None:
        try:
            load[kind]([f"--{key}={value}" for key, value in values.items()])
        except InputError as error:
            check_message(error, *(part for key in values for part in key.split(".")))

    holds()


@PROFILES
@pytest.mark.parametrize("type", ["wordpiece", "unigram", "bpe"])
def test_a_trained_tokenizer(type: Any, profile: str) -> None:
    from tokenizers import Tokenizer

    @settings(settings.get_profile(profile))
    @given(st.lists(LINE.filter(str.strip), min_size=1, max_size=8), st.sampled_from([6, 9, 20, 60, 262, 400]))
    def holds(texts: list[str], vocab_size: int) -> None:
        try:
            saved = train(texts, TokenizerSettings(type=type, vocab_size=vocab_size), "neutral")
        except InputError as error:
            check_message(error, "vocab_size")
            return
        tokenizer = Tokenizer.from_str(saved.tokenizer)
        assert tokenizer.get_vocab_size() == vocab_size
        assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
        for text in texts:
            ids = tokenizer.encode(text).ids
            assert ids[0] == 2 and ids[-1] == 3 and all(0 <= id < vocab_size for id in ids)

    holds()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sentences of one token and of many, documents of one sentence and of many."""
    rng = np.random.default_rng(3)
    sizes = [[1], [40], [1, 1], [3, 1, 30], [7] * 12, [2, 5], [1] * 9, [25, 25], [4], [60, 1]]
    documents = [[" ".join(rng.choice(WORDS, size)) for size in document] for document in sizes * 2]
    return make_of(tmp_path_factory.mktemp("odd"), documents)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    lines = [f"{WORDS[k]} {WORDS[k + 1]},{' '.join(WORDS[: k + 1])}" for k in range(20)]
    return build_words(tmp_path_factory.mktemp("views"), "a.csv", "\n".join(lines) + "\n", view_columns="0,1")


OBJECTIVE_SETTINGS: dict[str, dict[str, list[Any]]] = {
    "mlm": {"unit": ["token", "word"]},
    "span": {"max_span": [1, 3, 10], "span_length": ["geometric", "harmonic"], "sbo": [True, False]},
    "electra": {"unit": ["token", "word"]},
    "nsp": {"labels": ["next", "order"], "short_row_prob": [0.0, 1.0]},
    "ssp": {
        "negatives": ["same_document", "other_document"], "split": ["half", "gaussian", "uniform"],
        "short_sentences": ["ignore", "same", "skip"], "short_row_prob": [0.0, 1.0],
    },
    "cert": {"views": ["augmented", "crop", "dropout"], "mlm_weight": [1.0]},
}  # fmt: skip


@PROFILES
@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_and_their_corruption(name: str, profile: str, odd: Corpus, views: Corpus) -> None:
    kind = OBJECTIVES[name]
    choices = {key: st.sampled_from(values) for key, values in OBJECTIVE_SETTINGS[name].items()}

    @settings(settings.get_profile(profile))
    @given(
        st.sampled_from([3, 4, 5, 6, 9, 17, 64]), st.sampled_from([0.01, 0.15, 0.5]), st.fixed_dictionaries(choices),
        st.integers(0, 2**32 - 1), st.integers(0, 5),
    )  # fmt: skip
    def holds(row_length: int, mask_prob: float, chosen: dict[str, Any], seed: int, epoch: int) -> None:
        objective = kind.Config(mask_prob=mask_prob, **chosen)
        corpus = views if chosen.get("views") == "augmented" else odd
        try:
            rows = kind.make_rows(objective, corpus, row_length, None, seed)
            collate = kind.make_collate(objective, corpus.tokenizer, seed)
        except InputError as error:
            check_message(error)
            return
        num_rows = rows.num_rows(epoch)
        assert num_rows > 0
        indices = np.arange(num_rows)[-7:]
        taken = rows.take(indices, np.full_like(indices, epoch))
        # The length of a row of two views is that of both.
        longest = row_length * (2 if name == "cert" else 1)
        assert rows.lengths(indices, np.full_like(indices, epoch)).max() <= longest
        taken.append(rows.blank(-1))
        batch = collate(taken)
        check_batch(batch, taken, collate.vocabulary)
        packed = replace(collate, packed=True)(taken)
        bounds = packed["packing"]["cu_seq_lens_q"].tolist()
        assert bounds == sorted(bounds) and bounds[-1] == packed["input_ids"].shape[1]
        mask = np.ones(batch["input_ids"].shape) if batch["attention_mask"] is None else batch["attention_mask"].numpy()
        assert packed["input_ids"][0, : bounds[-2]].tolist() == batch["input_ids"].numpy()[mask > 0].tolist()

    holds()


def check_batch(batch: dict[str, Any], rows: list[Any], vocabulary: Any) -> None:
    """Assert that a corrupted batch holds every token of its rows, between special tokens, and predicts no others."""
    ids = batch.get("masked_ids", batch["input_ids"]).numpy()
    mask = np.ones_like(ids) if batch["attention_mask"] is None else batch["attention_mask"].numpy()
    positions = batch["positions"].numpy() if "positions" in batch else np.empty(0, np.int64)
    assert len(set(positions.tolist())) == len(positions) and (mask.ravel()[positions] > 0).all()
    original = ids.copy()
    original.ravel()[positions] = batch["targets"].numpy() if len(positions) else []
    assert not vocabulary.special[original.ravel()[positions]].any()
    for number, row in enumerate(rows):
        if hasattr(row, "tokens"):
            parts = [row.tokens]
        elif isinstance(row, ViewRow):
            parts = [row.first]
        else:
            parts = [row.first, row.second] if len(row.second) else [row.first]
        expected = [vocabulary.cls_id, *(id for part in parts for id in (*part.tolist(), vocabulary.sep_id))]
        real = int(mask[number].sum())
        assert original[number, :real].tolist() == expected
        assert (ids[number, real:] == vocabulary.pad_id).all()
        chosen = positions[(positions >= number * ids.shape[1]) & (positions < (number + 1) * ids.shape[1])]
        assert len(chosen) <= sum(map(len, parts))
    if "pair_targets" in batch:
        assert set(batch["pair_targets"].tolist()) <= {0, 1, -100} and batch["pair_targets"][-1] == -100


WORDY = st.lists(st.sampled_from([*WORDS[:9], "unknown", "[SEP]", "ß"]), max_size=12).map(" ".join)


@PROFILES
def test_rows_of_a_task(profile: str, odd: Corpus) -> None:
    tokenizer = odd.tokenizer

    @settings(settings.get_profile(profile))
    @given(st.lists(st.tuples(WORDY, WORDY), min_size=1, max_size=4), st.booleans(), st.sampled_from([None, 4, 9, 99]))
    def holds(texts: list[tuple[str, str]], is_pair: bool, max_length: int | None) -> None:
        examples = [Example(str(k), a, b if is_pair else None, k % 2) for k, (a, b) in enumerate(texts)]
        no_target: Any = NO_TARGET["classification"]
        try:
            rows, num_cut = encode("train", examples, tokenizer, no_target=no_target, max_length=max_length, longest=16)
        except InputError as error:
            check_message(error, "max_length")
            return
        limit = max_length or 16
        assert num_cut <= len(rows) == len(examples) and all(len(row.tokens) <= limit for row in rows)
        batch = Collator(tokenizer.pad_token_id, True, longest=16)(rows)
        assert batch["targets"].tolist() == [example.label for example in examples]
        for row, ids in zip(rows, batch["input_ids"].tolist(), strict=True):
            assert ids[: len(row.tokens)] == list(row.tokens) and ids[0] == tokenizer.cls_token_id
            assert row.tokens[-1] == tokenizer.sep_token_id and len(row.types) == len(row.tokens)
            assert set(ids[len(row.tokens) :]) <= {tokenizer.pad_token_id}

    holds()


@PROFILES
def test_windows_of_questions(profile: str, odd: Corpus) -> None:
    tokenizer = odd.tokenizer

    @settings(settings.get_profile(profile))
    @given(WORDY.filter(str.strip), WORDY.filter(str.strip), st.integers(0, 11), st.integers(1, 12), st.integers(4, 24))
    def holds(question: str, context: str, place: int, stride: int, max_length: int) -> None:
        words = context.split(" ")
        place %= len(words)
        start = len(" ".join([*words[:place], ""]))
        example = Example("q", question, context, Answers((words[place],), (start,)))
        try:
            found = make_windows([example], tokenizer, max_length, stride, labelled=True)
        except InputError as error:
            check_message(error, "document_stride")
            return
        covered = set()
        for window in found.windows:
            assert len(window.token_ids) <= max_length and window.token_ids[0] == tokenizer.cls_token_id
            assert window.targets is not None and 0 <= window.targets[0] <= window.targets[1] < len(window.token_ids)
            covered |= set(range(window.first, window.first + len(window.offsets)))
            if window.targets != (0, 0):
                begin = window.offsets[window.targets[0] - window.context_start, 0]
                end = window.offsets[window.targets[1] - window.context_start, 1]
                assert context[begin:end] == words[place]
        assert covered == set(range(len(tokenizer(context, add_special_tokens=False)["input_ids"])))

    holds()
