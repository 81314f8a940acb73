import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertsmith.corpus import Corpus, check, describe
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError
from bertsmith.files import read_record, write_record

DOCUMENTS = [
    [f"sentence {d} {s} of document {d} " + "with more words " * ((d + s) % 4) for s in range(1 + d % 5)]
    for d in range(60)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of DOCUMENTS in several shards, every token a whole word."""
    path = tmp_path_factory.mktemp("store")
    text = "\n\n".join("\n".join(sentences) for sentences in DOCUMENTS)
    (path / "text.txt").write_text(text + "\n")
    build(
        [str(path / "text.txt")],
        path / "corpus",
        BuildSettings(shard_bytes=2048, tokenizer=TokenizerSettings(vocab_size=60)),
        workers=1,
    )
    return path / "corpus"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def words(ids: np.ndarray, corpus: Corpus) -> list[str]:
    return str(corpus.tokenizer.decode(ids.tolist())).split()


def test_every_sentence_of_every_document_is_where_it_belongs(folder: Path) -> None:
    corpus = Corpus(folder)
    assert len(corpus.manifest["shards"]) > 2
    assert corpus.num_documents == len(DOCUMENTS)
    assert len(corpus) == corpus.num_sentences == sum(map(len, DOCUMENTS))

    first = 0
    for d, sentences in enumerate(DOCUMENTS):
        assert corpus.document_sentences(d) == range(first, first + len(sentences))
        for s, sentence in enumerate(sentences):
            assert words(corpus.sentence(first + s), corpus) == sentence.split()
            assert corpus.document_of(first + s) == d
        assert words(corpus.document(d), corpus) == " ".join(sentences).split()
        first += len(sentences)


def test_lengths_and_counts_agree_with_the_tokens(folder: Path) -> None:
    corpus = Corpus(folder)
    documents = [corpus.document(d) for d in range(corpus.num_documents)]
    assert corpus.document_lengths().tolist() == [len(document) for document in documents]
    some = np.random.default_rng(1).integers(corpus.num_documents, size=20)
    assert corpus.document_lengths(some).tolist() == corpus.document_lengths()[some].tolist()
    assert corpus.sentence_lengths().tolist() == [len(corpus.sentence(s)) for s in range(len(corpus))]
    assert corpus.num_tokens == sum(map(len, documents))
    counts = np.bincount(np.concatenate(documents), minlength=corpus.vocab_size)
    assert corpus.tokens_counts.dtype == np.int64
    assert corpus.tokens_counts.tolist() == counts.tolist()


def test_many_sentences_at_once_are_as_one_by_one(folder: Path) -> None:
    corpus = Corpus(folder)
    some = np.random.default_rng(0).permutation(len(corpus))
    assert corpus.sentence_lengths(some).tolist() == [len(corpus.sentence(s)) for s in some.tolist()]
    assert corpus.sentence_counts().tolist() == list(map(len, DOCUMENTS))
    for d in range(corpus.num_documents):
        sentences = corpus.document_sentences(d)
        assert corpus.span(sentences.start, sentences.stop).tolist() == corpus.document(d).tolist()
    ranges = [corpus.document_sentences(d) for d in range(corpus.num_documents)]
    firsts, ends = np.asarray([r.start for r in ranges]), np.asarray([r.stop for r in ranges])
    assert corpus.tokens_between(firsts, ends).tolist() == corpus.document_lengths().tolist()
    lengths = corpus.sentence_lengths()
    for wanted in (1, 7, 30):
        ends = corpus.reach(firsts, np.full(firsts.shape, wanted))
        for first, end, d in zip(firsts.tolist(), ends.tolist(), range(corpus.num_documents), strict=True):
            assert lengths[first : end - 1].sum() < wanted
            assert end > corpus.document_sentences(d).stop or lengths[first:end].sum() >= wanted


def test_tokens_are_read_only_views(folder: Path) -> None:
    corpus = Corpus(folder)
    sentence = corpus.sentence(5)
    assert sentence.dtype == np.uint16
    assert not sentence.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        sentence[0] = 1


def test_indices_out_of_range_are_errors_and_do_not_wrap(folder: Path) -> None:
    corpus = Corpus(folder)
    for wrong in (-1, len(corpus)):
        with pytest.raises(IndexError):
            corpus.sentence(wrong)
        with pytest.raises(IndexError):
            corpus.document_of(wrong)
    for wrong in (-1, corpus.num_documents):
        with pytest.raises(IndexError):
            corpus.document(wrong)


def test_a_pickled_corpus_opens_again_and_is_small(folder: Path) -> None:
    corpus = Corpus(folder)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again.hash == corpus.hash
    assert again.document(3).tolist() == corpus.document(3).tolist()


def test_opening_a_corpus_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from bertsmith.corpus import Corpus; Corpus(sys.argv[1]).sentence(0);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(folder)], env=environment).returncode == 0


def test_what_is_no_corpus_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corpus here"):
        Corpus(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no corpus here"):
        Corpus(tmp_path / "file")
    (tmp_path / ".building").mkdir()
    with pytest.raises(InputError, match="unfinished build; run the same `corpus build` again"):
        Corpus(tmp_path)


def test_a_damaged_corpus_does_not_open(copy: Path) -> None:
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(InputError, match="manifest.json: damaged"):
        Corpus(copy)
    (copy / "manifest.json").write_text(manifest)
    write_record(copy / "manifest.json", read_record(copy / "manifest.json") | {"version": 99})
    with pytest.raises(InputError, match="version 99"):
        Corpus(copy)
    (copy / "manifest.json").write_text(manifest)

    tokens = copy / "shards" / "00001" / "tokens.npy"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="00001/tokens.npy: damaged"):
        Corpus(copy)
    tokens.unlink()
    with pytest.raises(InputError, match="00001/tokens.npy: missing"):
        Corpus(copy)


def test_check_names_the_first_changed_file(copy: Path) -> None:
    check(copy)
    tokens = copy / "shards" / "00001" / "tokens.npy"
    content = bytearray(tokens.read_bytes())
    content[-1] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(InputError, match=r"00001/tokens.npy: changed since it was built; .*--overwrite"):
        check(copy)
    tokens.unlink()
    with pytest.raises(InputError, match="00001/tokens.npy: cannot be read"):
        check(copy)


def test_check_says_once_that_it_reads_a_large_corpus(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(copy)
    assert capsys.readouterr().err == ""
    num_bytes = sum(file.stat().st_size for file in copy.rglob("*.npy"))
    monkeypatch.setattr("bertsmith.corpus.info._LARGE", num_bytes)
    check(copy)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("bertsmith.corpus.info._LARGE", num_bytes - 1)
    for _ in range(2):
        check(copy)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"checking 0.0 GiB of corpus in {copy}: every file is compared with its hash"


def test_check_covers_the_tokenizer(copy: Path) -> None:
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("[MASK]", "[MUSK]"))
    with pytest.raises(InputError, match="tokenizer.json: changed"):
        check(copy)


def test_describe_says_what_is_there_and_is_the_same_each_time(folder: Path) -> None:
    corpus = Corpus(folder)
    page = describe(corpus)
    assert page == describe(Corpus(folder))
    for expected in (f"{corpus.num_tokens:,}", "WordPiece, 60 tokens", "unknown: 0.0000 %", "10 random sentences"):
        assert expected in page
    lengths = corpus.sentence_lengths()
    share = 100 * np.mean((lengths > 8) & (lengths <= 16))
    assert f"9-16 {share:5.1f} %" in page
