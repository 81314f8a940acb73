import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from build_helpers import SETTINGS, Recorder, content, texts_of, tiny, write_lines
from rich.console import Console
from tokenizers import Tokenizer

from bertsmith.corpus import Corpus, check
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.documents import Document
from bertsmith.corpus.progress import ConsoleProgress
from bertsmith.corpus.readers import ReadOptions, Source
from bertsmith.corpus.sentences import clean, split_sentences
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError


def test_the_corpus_is_the_tokenised_text(source: Path, whole: Path) -> None:
    corpus = Corpus(whole)
    tokenizer = Tokenizer.from_file(str(whole / "tokenizer" / "tokenizer.json"))
    expected = []
    for line in source.read_text().splitlines():
        sentences = split_sentences(clean(json.loads(line)["text"]))
        if sentences:
            expected.append([e.ids for e in tokenizer.encode_batch(sentences, add_special_tokens=False)])

    assert len(corpus.manifest["shards"]) > 4
    assert corpus.num_documents == len(expected)
    for d, sentences in enumerate(expected):
        assert [corpus.sentence(s).tolist() for s in corpus.document_sentences(d)] == sentences
    check(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_children")
def test_neither_workers_nor_place_nor_time_leave_a_trace(source: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(source, tmp_path / "elsewhere" / source.name)
    corpus = build([str(tmp_path / "elsewhere")], tmp_path / "out", SETTINGS, workers=3)
    assert corpus.hash == Corpus(whole).hash
    files, expected = content(tmp_path / "out"), content(whole)
    assert files["manifest.json"].pop("sources") != expected["manifest.json"].pop("sources")
    assert files == expected
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_the_same_command_on_a_finished_corpus_does_nothing(source: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != ".lock"}
    progress = Recorder()
    assert build([str(source)], whole, SETTINGS, progress=progress).hash == Corpus(whole).hash
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "already built" in progress.notes[0]


def test_progress_tells_bytes_documents_and_tokens(source: Path, whole: Path, progress: Recorder) -> None:
    size, corpus = source.stat().st_size, Corpus(whole)
    tokenising = [update for update in progress.updates if update[0] == "tokenising"]
    assert tokenising == sorted(tokenising, key=lambda update: update[1])
    assert tokenising[-1] == ("tokenising", size, size, corpus.num_documents, corpus.num_tokens)
    assert any(stage == "training the tokenizer" for stage, *_ in progress.updates)


def test_console_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.corpus.progress._SECONDS_BETWEEN_LINES", 0.0)
    console = Console(force_terminal=False, width=200)
    with console.capture() as capture, ConsoleProgress(console) as progress:
        progress.note("a note")
        progress.update("tokenising", 0, 100_000_000, 0, 0)
        progress.update("tokenising", 50_000_000, 100_000_000, 1234, 9_900_000)
    lines = capture.get().splitlines()
    assert lines[0] == "a note"
    assert re.fullmatch(r"tokenising 50 %: [\d.]+ MB/s, 1,234 documents, 9.9 M tokens, \d+ k tokens/s", lines[-1])


def test_a_source_is_looked_at_for_the_shards_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        write_lines(folder / f"{number:02d}.jsonl", *("Some words of a text." * 20 for _ in range(5)))
    looked_at: list[int] = []

    def count(sources: Sequence[Source]) -> None:
        looked_at.append(len(sources))

    monkeypatch.setattr("bertsmith.corpus.build.changed_since", count)
    corpus = build([str(folder)], tmp_path / "out", tiny(shard_bytes=2048), workers=1)
    num_shards = len(corpus.manifest["shards"])
    assert num_shards > 30
    for_the_tokenizer, *for_shards, at_the_end = looked_at
    assert for_the_tokenizer == at_the_end == 40
    assert sum(for_shards) <= 40 + num_shards


def test_other_settings_or_sources_need_overwrite(source: Path, tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "First text.", "Second text.")
    out = tmp_path / "out"
    first = build([text], out, tiny(), workers=1)
    with pytest.raises(InputError, match=r"other settings: min_sentence_chars 1 \(now 5\); add --overwrite"):
        build([text], out, tiny(min_sentence_chars=5), workers=1)
    with pytest.raises(InputError, match=r"other sources: .*text.jsonl"):
        build([text, str(source)], out, tiny(), workers=1)
    write_lines(tmp_path / "a.jsonl", "First text.", "Another text.")
    with pytest.raises(InputError, match=r"other sources: .*a.jsonl is new or has changed"):
        build([text], out, tiny(), workers=1)
    assert Corpus(out).hash == first.hash

    second = build([text], out, tiny(), workers=1, overwrite=True)
    assert second.hash != first.hash
    assert texts_of(Corpus(out)) == [["First text."], ["Another text."]]
    assert {path.name for path in out.iterdir()} == {".lock", "manifest.json", "shards", "skipped.jsonl", "tokenizer"}


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Text.")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds no corpus but a.jsonl"):
            build([text], tmp_path, tiny(), workers=1, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file; give a folder as --out"):
        build([text], text, tiny(), workers=1)
    assert (tmp_path / "a.jsonl").exists()


def test_a_model_folder_is_not_taken_for_a_corpus(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Text.")
    (tmp_path / "model" / "tokenizer").mkdir(parents=True)
    (tmp_path / "model" / "tokenizer" / "mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds no corpus but tokenizer"):
            build([text], tmp_path / "model", tiny(), workers=1, overwrite=overwrite)
    assert (tmp_path / "model" / "tokenizer" / "mine.txt").exists()


def test_a_corpus_with_a_damaged_manifest_is_only_replaced_when_asked(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Text.")
    build([text], tmp_path / "out", tiny(), workers=1)
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest.json: cannot be read; .*--overwrite"):
        build([text], tmp_path / "out", tiny(), workers=1)
    assert (tmp_path / "out" / "shards" / "00000").exists()
    build([text], tmp_path / "out", tiny(), workers=1, overwrite=True)


def test_a_folder_that_holds_its_own_corpus_can_be_built_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", "Text.")
    first = build([str(tmp_path)], tmp_path / "out", tiny(), workers=1)
    assert build([str(tmp_path)], tmp_path / "out", tiny(), workers=1).hash == first.hash


def test_two_builds_in_one_folder_are_an_input_error(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Text.")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use by a living run"):
            build([text], tmp_path / "out", tiny(), workers=1)
    build([text], tmp_path / "out", tiny(), workers=1)


def test_duplicates_are_left_out_on_request(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "One text.", "Another text.", "One text.", "One text!", "Another text.")
    corpus = build([text], tmp_path / "out", tiny(deduplicate=True), workers=1)
    assert texts_of(corpus) == [["One text."], ["Another text."], ["One text!"]]
    assert corpus.manifest["counts"]["duplicates"] == 2


def test_bad_documents_are_listed_when_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"text": \n{"text": "Two."}\n')
    settings = tiny(read=ReadOptions(bad_documents="skip"))
    corpus = build([str(tmp_path / "a.jsonl")], tmp_path / "out", settings, workers=1)
    assert texts_of(corpus) == [["One."], ["Two."]]
    assert corpus.manifest["counts"]["skipped"] == 1
    (problem,) = (json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert "a.jsonl" in problem["where"]


def test_bad_input_stops_the_build_and_is_not_in_the_way_of_good_input(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    path.write_text('{"text": "One."}\n{"text": \n')
    with pytest.raises(InputError, match="2"):
        build([str(path)], out, tiny(), workers=1)
    path.write_text('{"text": "One."}\n')
    build([str(path)], out, tiny(), workers=1)
    with pytest.raises(InputError, match="absent"):
        build([str(tmp_path / "absent.txt")], tmp_path / "other", tiny(), workers=1)
    assert not (tmp_path / "other").exists()


def test_nothing_left_is_an_input_error(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Short.", "Text.")
    with pytest.raises(InputError, match="no text left after filtering 2 documents"):
        build([text], tmp_path / "out", tiny(min_document_chars=100), workers=1)
    with pytest.raises(InputError, match="no corpus here"):
        Corpus(tmp_path / "out")


def test_a_vocabulary_too_large_is_one_clear_line(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Short.", "Text.")
    with pytest.raises(InputError, match=r"vocab_size is 32000, but this text gives only \d+ tokens"):
        build([text], tmp_path / "out")


def test_settings_out_of_range_are_errors() -> None:
    for values in ({"language": "xx"}, {"min_sentence_chars": 0}, {"min_document_chars": 0}, {"shard_bytes": 10}):
        with pytest.raises(ValueError, match=next(iter(values))):
            BuildSettings(**values)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write_is_an_input_error(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "a.jsonl", "Text.")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="no permission to write"):
        build([text], tmp_path / "locked" / "out", tiny(), workers=1)


@pytest.mark.slow
def test_unknown_tokens_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(50)]
    text = write_lines(tmp_path / "a.jsonl", *[" ".join(rng.choice(words, 20)) for _ in range(200)], "ab ☃ cd")
    first = build([text], tmp_path / "first", BuildSettings(tokenizer=TokenizerSettings(vocab_size=60)), workers=1)
    assert first.manifest["unknown_rate"] == 0

    foreign = write_lines(tmp_path / "b.jsonl", "abcd жжж abcd.", "ж")
    taken = TokenizerSettings(from_pretrained=str(tmp_path / "first" / "tokenizer"))
    corpus = build([foreign], tmp_path / "second", BuildSettings(tokenizer=taken), workers=1)
    assert corpus.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    unknown = int(corpus.tokens_counts[corpus.tokenizer.unk_token_id])
    assert unknown == corpus.manifest["counts"]["unknown"] == 3
    assert corpus.manifest["unknown_rate"] == 3 / corpus.num_tokens


def test_documents_read_from_a_stream_do_not_pile_up(source: Path) -> None:
    """The chunker holds one chunk, whatever is behind it."""
    from bertsmith.corpus.build import _chunks
    from bertsmith.corpus.shards import Totals

    class Endless:
        bytes_read = place = 0

        def __iter__(self) -> Iterator[Document]:
            while True:
                yield Document("", "x" * 1000, False)

    chunks = _chunks(Endless(), Totals(), SETTINGS)  # type: ignore[arg-type]
    for count, chunk in zip(range(1, 50), chunks, strict=False):
        assert len(chunk.texts) == 100
        assert chunk.position.documents_read == 100 * count
