import csv
import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.corpus import python_docs, sources, text_files
from bertsmith.corpus.documents import Document, Problem
from bertsmith.corpus.readers import Reader, ReadOptions, list_sources
from bertsmith.errors import InputError

TEXTS = [
    "한국어 문장입니다.",
    "نص عربي، مع فواصل.",
    'Emoji 👩‍👩‍👧 "quoted", q\u0323\u0307',
    "a\x85b\u2028c\u2029d\x0ce\tf",
]


def write(path: Path, data: str | bytes) -> str:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read(*paths: str, **options: Any) -> list[Document]:
    return list(Reader(paths, ReadOptions(**options)))


def texts(*paths: str, **options: Any) -> list[str]:
    return [document.text for document in read(*paths, **options)]


def read_and_skip(*paths: str, **options: Any) -> tuple[list[str], list[Problem]]:
    """Texts and problems of a pass that goes on after a bad document."""
    problems: list[Problem] = []
    reader = Reader(paths, ReadOptions(bad_documents="skip", **options), problems.append)
    return [document.text for document in reader], problems


def json_lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


# Formats


def test_text_of_every_script_survives_every_format(tmp_path: Path) -> None:
    rows = [[str(index), text] for index, text in enumerate(TEXTS)]
    paths = [write(tmp_path / "a.jsonl", json_lines(*({"id": i, "text": t} for i, t in rows)))]
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with open(tmp_path / f"a.{suffix}", "w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *rows])
        paths.append(str(tmp_path / f"a.{suffix}"))
    paths += [write(Path(f"{path}.gz"), Path(path).read_bytes()) for path in paths]
    pyarrow.parquet.write_table(pyarrow.table({"id": list("0123"), "text": TEXTS}), tmp_path / "a.parquet")
    paths.append(str(tmp_path / "a.parquet"))

    for path in paths:
        assert read(path, id_column="id") == [Document(str(i), text, True) for i, text in enumerate(TEXTS)], path
    assert texts(write(tmp_path / "a.txt", "\n".join(TEXTS)), txt_documents="line") == TEXTS


def test_ids_name_file_and_line(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": "two"}\n')
    second = write(tmp_path / "b.csv", 'text\n"a\nb"\nc\n')
    assert [document.id for document in read(first, second)] == ["a.jsonl:1", "a.jsonl:3", "b.csv:2", "b.csv:4"]
    assert read(first) == read(first)


def test_columns_are_chosen_by_name_or_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "7,x,Hello\n8,y,World\n")
    assert read(path, text_column="2", id_column="0") == [Document("7", "Hello", True), Document("8", "World", True)]
    path = write(tmp_path / "b.tsv", "name\tbody\r\n1\tHello there\r\n")
    assert texts(path, text_column="body") == ["Hello there"]


def test_a_number_in_the_first_line_may_be_a_name_or_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,Hello\n2,World\n")
    assert "a.csv, line 1: '1' is a field of the first line, and the number of another column; rename that" in (
        one_line_error(path, text_column="1")
    )
    assert texts(write(tmp_path / "b.csv", "id,text\n1,Hello\n"), text_column="text") == ["Hello"]
    # Names, as pandas writes them.
    for number, header in enumerate(("0,1", ",1", "id,1", "2,1")):
        assert texts(write(tmp_path / f"{number}.csv", f"{header}\n1,Hello\n"), text_column="1") == ["Hello"]


def test_an_absent_id_falls_back_to_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines({"id": 5, "text": "a"}, {"id": None, "text": "b"}))
    assert [document.id for document in read(path, id_column="id")] == ["5", "a.jsonl:2"]


def test_quotation_marks_can_be_taken_literally(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"half open\n2\tnext\n3\tclosed"\n')
    assert texts(path, quotes="none") == ['"half open', "next", 'closed"']
    with pytest.raises(InputError, match=r"line 2: a quotation mark opens a field .* to line 4; .*--quotes none"):
        texts(path)


def test_large_csv_fields_are_read(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", "text\n" + "x" * 200_000 + "\n")) == ["x" * 200_000]


# Layouts of plain text


def test_a_sentence_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffOne is here.\r\nTwo is here.\r\n\r\n\r\nThree is here.\r\n")
    reader = Reader([path], ReadOptions())
    assert list(reader) == [
        Document("a.txt:1", "One is here.\nTwo is here.", False),
        Document("a.txt:5", "Three is here.", False),
    ]
    assert reader.layouts == {"a.txt": "a line is a sentence, a blank line ends a document"}


def test_a_paragraph_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "A title\nOne is here. Two is here.\n\nThree is here. Four is a longer one.\n")
    reader = Reader([path], ReadOptions())
    expected = "A title\n\nOne is here. Two is here.\n\nThree is here. Four is a longer one."
    assert list(reader) == [Document("a.txt:1", expected, True)]
    assert reader.layouts == {"a.txt": "a line is a paragraph, the file is a document"}


def test_hard_wrapped_paragraphs(tmp_path: Path) -> None:
    text = (
        "This text is wrapped at some\nthirty characters or so. It\ngoes on for a while and ends\nhere.\n\n"
        "And another one, which is as\nlong as that.\n"
    )
    reader = Reader([write(tmp_path / "a.txt", text)], ReadOptions())
    assert list(reader) == [Document("a.txt:1", text.strip(), True)]
    assert reader.layouts == {"a.txt": "a line is part of a paragraph, the file is a document"}


def test_layouts_can_be_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One. Two.\nThree.\n\nFour.\n")
    assert read(path, txt_lines="sentence", txt_documents="file") == [
        Document("a.txt:1", "One. Two.\nThree.\nFour.", False)
    ]
    assert texts(path, txt_lines="paragraph", txt_documents="blank_line") == ["One. Two.\n\nThree.", "Four."]
    assert [document.split for document in read(path, txt_documents="line")] == [True] * 3
    assert [document.split for document in read(path, txt_documents="line", txt_lines="sentence")] == [False] * 3


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["en_wiki_small.txt", "ko_wiki_small.txt", "tr_news.txt"])
def test_the_layout_of_real_text_is_recognised(shared_data: Path, name: str, tmp_path: Path) -> None:
    sample = (shared_data / "corpora" / name).read_bytes()[: text_files.SAMPLE_BYTES]
    assert text_files.detect_layout(sample, "auto", "auto") == ("sentence", "blank_line", False)
    paragraphs = sample.decode(errors="ignore").replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n").encode()
    assert text_files.detect_layout(paragraphs, "auto", "auto")[:2] == ("paragraph", "file")


@pytest.mark.parametrize("lines", ["sentence", "paragraph"])
def test_documents_without_end_are_cut_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_CHARS", 2**16)
    monkeypatch.setattr(text_files, "_CHUNK_BYTES", 2**16)
    line = "This is a sentence of some length. " * (1 if lines == "sentence" else 3)
    path = write(tmp_path / "a.txt", f"{line}\n" * (2**20 // len(line)))
    tracemalloc.start()
    sizes = [len(document.text) for document in Reader([path], ReadOptions())]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sizes) >= 15 and max(sizes) < 1.1 * 2**16
    assert peak < 2**20


# Sources


def test_folders_are_searched_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/c.jsonl.gz", "a.csv", "ignored.md", ".hidden/a.txt", "b/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    listed = list_sources([str(tmp_path)])
    assert [source.name for source in listed] == [
        f"{tmp_path.name}/{name}" for name in ("a.csv", "b/c.jsonl.gz", "b/z.txt")
    ]
    assert [source.path for source in listed] == [str(tmp_path / name) for name in ("a.csv", "b/c.jsonl.gz", "b/z.txt")]
    assert [source.bytes for source in listed] == [1, len(gzip.compress(b"x")), 1]


def test_shards_that_are_no_corpus_are_searched(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write(tmp_path / "manifest.json", "{}")
    write(tmp_path / "shards" / "a.txt", "x")
    assert [source.name for source in list_sources([str(tmp_path)])] == [f"{tmp_path.name}/shards/a.txt"]


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [write(tmp_path / "a.txt", "x"), write(tmp_path / "b" / "a.txt", "x")]
    assert [source.name for source in list_sources(paths)] == paths


def test_a_changed_file_is_another_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    before = list_sources([path])
    assert list_sources([path]) == before
    os.utime(path, ns=(0, 1))
    assert list_sources([path]) != before


def test_position_reaches_the_total(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jsonl.gz", json_lines(*({"text": os.urandom(500).hex()} for _ in range(5_000))))]
    paths.append(write(tmp_path / "b.txt", "The end.\n"))
    reader = Reader(paths, ReadOptions())
    positions = [reader.bytes_read for _ in reader]
    assert positions == sorted(positions) and len(set(positions)) > 3
    assert reader.bytes_read == reader.total_bytes == sum(os.path.getsize(path) for path in paths)


def test_python_docs_are_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_docs, "PACKAGES", {})
    reader = Reader(["python-docs"], ReadOptions())
    assert reader.sources[0].name == f"python-docs@{python_docs.fingerprint()}" and reader.sources[0].path is None
    document = next(iter(reader))
    assert document.id.startswith("python/") and 0 < reader.bytes_read < reader.total_bytes


@pytest.mark.parametrize(
    ("source", "config", "split", "name"),
    [
        ("org/news", None, "train", "org/news:train@c0ffee"),
        ("org/news:test", None, "test", "org/news:test@c0ffee"),
        ("org/news-v1.5:ko:test", "ko", "test", "org/news-v1.5:ko:test@c0ffee"),
    ],
)
def test_data_sets_of_the_hub_are_streamed(
    monkeypatch: pytest.MonkeyPatch, source: str, config: str | None, split: str, name: str
) -> None:
    calls = []

    def load(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        calls.append((args, options))
        return iter([{"text": "One.", "key": 3}, {"text": "Two.", "key": 4}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo: type("Info", (), {"sha": "c0ffee"}))
    reader = Reader([source], ReadOptions(id_column="key"))
    assert reader.sources[0] == (name, None, 0, 0)
    assert list(reader) == [Document("3", "One.", True), Document("4", "Two.", True)]
    assert calls == [((source.split(":")[0], config), {"split": split, "revision": "c0ffee", "streaming": True})]


def test_a_data_set_is_read_by_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl", json_lines({"text": "One."}, {"text": "Two."}))
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, revision, **options: load(str(tmp_path), config, **options)
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, repo: type("Info", (), {"sha": "c0ffee"}))
    assert texts("org/news") == ["One.", "Two."]
    with pytest.raises(InputError, match="org/news:validation@c0ffee: the data set failed at row 0 .*check its id"):
        texts("org/news:validation")


# Bad input: one line that says where, what, and what to do


def one_line_error(*paths: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        texts(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("source", ["missing.txt", "no/such.jsonl", "./no/such", "/no/such", "wikitext", "a/b/c"])
def test_what_reads_like_a_path_is_never_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(sources, "huggingface_hub", None)
    assert one_line_error(source).startswith(f"{source}: no such file or folder; correct the path")


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, repo: str) -> None:
        raise ConnectionError("offline\nmode")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    assert "no such file or folder, and the hub gave no data set org/news (offline)" in one_line_error("org/news")


def test_sources_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_folder = tmp_path / "folder"
    empty_folder.mkdir()
    write(empty_folder / "readme.md", "x")
    good = write(tmp_path / "good.txt", "x")
    assert "no source given" in one_line_error()
    assert "a.txt: the file is empty" in one_line_error(write(tmp_path / "a.txt", ""))
    assert "folder: the folder holds no text; expected files of one of .txt" in one_line_error(str(empty_folder))
    assert "a.pdf: unknown kind of file; expected one of .txt" in one_line_error(write(tmp_path / "a.pdf", "x"))
    assert "a.parquet.gz: unknown kind of file" in one_line_error(write(tmp_path / "a.parquet.gz", "x"))
    assert "good.txt: named twice" in one_line_error(good, good)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "good.txt: the file cannot be read (no permission)" in one_line_error(good)


def test_an_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert "the folder cannot be read (Permission denied); check its permissions" in one_line_error(str(tmp_path))


def test_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    for source in (write(tmp_path / "a.parquet", "x"), "org/news"):
        assert "run pip install 'bertsmith[data]'" in one_line_error(source)


def test_blank_files_are_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " \n\n")
    assert "a.txt: holds no text" in one_line_error(path)
    assert read_and_skip(path) == ([], [Problem(path, "holds no text")])


def test_wrong_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffFine.\nSo far.\n\n".encode() + "Café.\nGood.\n".encode("latin-1"))
    message = one_line_error(path)
    assert "a.txt, line 4: byte 0xE9 at offset 21 is not UTF-8" in message and "--errors replace" in message
    assert Path(path).read_bytes()[21] == 0xE9
    assert texts(path, errors="replace") == ["Fine.\nSo far.", "Caf\ufffd.\nGood."]
    kept, problems = read_and_skip(path)
    assert kept == ["Fine.\nSo far.", "Good."]
    assert problems == [Problem(f"{path}, line 4", "byte 0xE9 at offset 21 is not UTF-8")]
    assert "a.csv, line 2: byte" in one_line_error(write(tmp_path / "a.csv", b"text\n\xff\n"))
    assert "is UTF-16, not UTF-8" in one_line_error(write(tmp_path / "b.txt", "Hello".encode("utf-16")))


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_lines_of_old_macs(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", "text\rOne.\rTwo.\r")
    message = one_line_error(path)
    assert f"a.{suffix}: its lines end with CR alone, as on old Macs; convert it (tr '\\r' '\\n')" in message
    assert texts(write(tmp_path / "b.txt", "One.\r\nTwo.\r\n"), txt_documents="line") == ["One.", "Two."]
    assert texts(write(tmp_path / "c.txt", "One.\r")) == ["One."]


def test_nul_bytes_and_half_surrogates(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Fine.\nBad\0.\n")
    message = one_line_error(path)
    assert "a.txt, line 2: NUL byte at offset 9" in message and "--errors replace" in message
    assert texts(path, errors="replace") == ["Fine.\nBad\ufffd."]
    path = write(tmp_path / "a.jsonl", '{"text": "a\\u0000b"}\n{"text": "a\\ud83dz"}\n{"text": "\\ud83d\\ude00"}\n')
    assert "a.jsonl, line 1: the text holds a NUL character" in one_line_error(path)
    assert texts(path, errors="replace") == ["a\ufffdb", "a\ufffdz", "😀"]
    assert read_and_skip(path)[0] == ["😀"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl.gz", "csv"])
def test_a_line_of_100_mb_is_refused_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    row = '{"text": "Good."}\n' if "jsonl" in suffix else "Good.\n"
    head = "text\n" if suffix == "csv" else ""
    path = tmp_path / f"a.{suffix}"
    with gzip.open(path, "wb", 1) if suffix.endswith("gz") else open(path, "wb") as file:
        file.write(f"{head}{row}".encode())
        for _ in range(100):
            file.write(b"x" * 10**6)
        file.write(f"\n{row}".encode())
    number = 3 if head else 2

    tracemalloc.start()
    message = one_line_error(str(path))
    kept, problems = read_and_skip(str(path), max_line_bytes=10**6, txt_documents="line")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"line {number}: the line is longer than 16,777,216 bytes; raise --max-line-bytes" in message
    assert "--bad-documents skip" in message
    assert kept == ["Good.", "Good."]
    assert problems == [Problem(f"{path}, line {number}", "the line is longer than 1,000,000 bytes")]
    assert peak < 40 * 2**20


def test_line_bound_is_exact(tmp_path: Path) -> None:
    for num_chunks_before in (0, 1):
        filler = "a" * 99 + "\n"
        filler *= num_chunks_before * (2**20 - 50) // 100
        path = write(tmp_path / f"{num_chunks_before}.txt", filler + "x" * 100 + "\n" + "y" * 101 + "\n" + "z" * 100)
        kept, problems = read_and_skip(path, max_line_bytes=100, txt_documents="line")
        assert kept[-2:] == ["x" * 100, "z" * 100] and len(problems) == 1


def test_bad_json_lines(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "b"', "[1]", '{"body": "c"}', '{"text": null}', '{"text": 3}', '{"text": "d"}']
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert "a.jsonl, line 2: malformed JSON (Expecting ',' delimiter" in one_line_error(path)
    kept, problems = read_and_skip(path)
    assert kept == ["a", "d"]
    assert [problem.where for problem in problems] == [f"{path}, line {number}" for number in range(2, 7)]
    assert [problem.message for problem in problems[1:]] == [
        "the line holds a list, not an object",
        "no column 'text'; there are 'body'",
        "column 'text' holds null, not text",
        "column 'text' holds a number, not text",
    ]


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "texts": ["a"]}), tmp_path / "a.parquet")
    paths = [
        write(tmp_path / "a.jsonl", '{"id": 1, "texts": "a"}\n'),
        write(tmp_path / "a.csv", "id,texts\n1,a\n"),
        str(tmp_path / "a.parquet"),
    ]
    for path in paths:
        expected = "no column 'text'; there are 'id', 'texts' (the nearest is 'texts'); name one with --text-column"
        assert expected in one_line_error(path)
        assert "no column 'key'" in one_line_error(path, text_column="texts", id_column="key")
        assert texts(path, text_column="texts") == ["a"]


def test_bad_records_of_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\n1,a,b\n2,c\n3,"d\n4,e\n')
    assert "a.csv, line 2: 3 fields where the first line has 2" in one_line_error(path)
    kept, problems = read_and_skip(path)
    assert kept == ["c"]
    assert problems[1] == Problem(f"{path}, line 4", "malformed record (unexpected end of data)")
    assert "malformed record (field larger than field limit (5)); look for a quotation mark" in one_line_error(
        write(tmp_path / "b.csv", 'a,"b\nccc\nddd'), max_line_bytes=5, text_column="0"
    )


def test_an_unreadable_line_spoils_its_whole_record_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text\na\n"b\n\xff\nb"\nc\n')
    kept, problems = read_and_skip(path)
    assert kept == ["a", "c"] and problems[0].where == f"{path}, line 4"

    # The record is malformed besides.
    path = write(tmp_path / "b.csv", b'text\na\n"b\n\xff\nb"x\nc\nd\n')
    kept, problems = read_and_skip(path)
    assert kept == ["a", "c", "d"] and [problem.where for problem in problems] == [f"{path}, line 4", f"{path}, line 3"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "none"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    data = gzip.compress(json_lines(*({"text": os.urandom(50).hex()} for _ in range(15_000))).encode())
    damaged = {"cut": data[:-100_000], "flipped": data[:20] + b"\xff" * 50 + data[70:], "none": b"not gzip"}
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damaged[damage])
    good = write(tmp_path / "b.jsonl", '{"text": "Good."}')
    assert "a.jsonl.gz: damaged or cut short gzip (" in one_line_error(str(path), good)
    kept, problems = read_and_skip(str(path), good)
    assert kept[-1] == "Good." and len(problems) == 1
    assert len(kept) > 5_000 or damage != "cut"


def test_damaged_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 1000}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    for index, damaged in enumerate((b"not parquet", data[:-20], data[:10] + b"\xff" * 40 + data[50:])):
        path = write(tmp_path / f"{index}.parquet", damaged)
        assert f"{index}.parquet: damaged Parquet file after row 0 (" in one_line_error(path)
        assert len(read_and_skip(path)[1]) == 1


def test_a_text_of_parquet_that_is_not_utf_8_is_one_bad_document(tmp_path: Path) -> None:
    texts_there = [f"Text {number}." for number in range(100)]
    raw = pyarrow.array([b"bad \xff" if text == "Text 70." else text.encode() for text in texts_there])
    for number, column in enumerate((raw.view(pyarrow.string()), raw.view(pyarrow.string()).dictionary_encode())):
        path = str(tmp_path / f"{number}.parquet")
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
        assert f"{number}.parquet, row 70: the text holds a NUL character" in one_line_error(path)
        kept, problems = read_and_skip(path)
        assert kept == [text for text in texts_there if text != "Text 70."]
        assert [problem.where for problem in problems] == [f"{path}, row 70"]
        assert texts(path, errors="replace")[70] == "bad \ufffd"


def test_a_column_of_parquet_that_stands_there_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    assert "a.parquet: column 'text' stands there twice; rename one" in one_line_error(path)


def test_problems_are_logged_if_nobody_asks_for_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{\n')
    assert texts(path, bad_documents="skip") == ["a"]
    assert "line 2: malformed JSON" in caplog.text


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="max_line_bytes is 0; expected 1 to"):
        ReadOptions(max_line_bytes=0)
    with pytest.raises(ValueError, match="text_column is empty"):
        ReadOptions(text_column="")


def test_views_of_a_record_are_sentences_of_a_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefffirst,second,third\n"One\n here.",two  there.,x\n')
    (document,) = read(path, view_columns="first, second")
    assert document.text == "One here.\ntwo there." and not document.split
    path = write(tmp_path / "b.csv", "a b,c d\ne f,g h\n")
    assert [document.text for document in read(path, view_columns="0,1")] == ["a b\nc d", "e f\ng h"]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\nx,\n", "a,b", r"line 2: column 'b' is empty"),
        ("a,b\nx,y\n", "a,c", r"line 1: no column 'c'.*name one with --view-columns"),
        ("a,b\nx\n", "a,b", r"line 2: 1 fields where the first line has 2"),
    ],
)
def test_records_without_two_views_are_bad_ones(tmp_path: Path, text: str, columns: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "a.csv"), view_columns=columns)


def test_sources_without_columns_have_no_views(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("No columns.\n")
    for source in (str(tmp_path / "a.txt"), "python-docs"):
        with pytest.raises(InputError, match="no columns for --view-columns"):
            read(source, view_columns="a,b")


@pytest.mark.parametrize(
    "options", [{"view_columns": "a"}, {"view_columns": "a,a"}, {"view_columns": "a,b", "text_column": "b"}]
)
def test_columns_of_views_that_make_no_sense(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="two different names or more|no effect beside view_columns"):
        ReadOptions(**options)  # type: ignore[arg-type]


def test_entities_are_not_decoded_inside_views() -> None:
    from bertsmith.corpus.build import BuildSettings

    # &#10; would make two views of one.
    with pytest.raises(ValueError, match="html_entities may break a view"):
        BuildSettings(html_entities=True, read=ReadOptions(view_columns="a,b"))
