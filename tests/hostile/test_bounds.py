"""Small files that unfold to endless content: a clear line, in bounded memory."""

import csv
import gzip
import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith import files
from bertsmith.corpus.readers import Reader, ReadOptions
from bertsmith.errors import InputError
from bertsmith.files import read_json
from bertsmith.tasks import convert, records, submission
from bertsmith.tasks.convert import Columns, to_examples
from bertsmith.tasks.records import read_table
from bertsmith.tasks.squad import read_squad
from bertsmith.yaml_files import read_yaml

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
YAML = {
    "laughs": (LAUGHS, "more than 10,000 values, with aliases"),
    "itself": ("a: &a [*a]\n", "an anchor holds itself"),
    "depth": ("a: " + "[" * 200, "nested too deeply"),
    "values": ("a: [" + "1," * 10_001 + "]", "more than 10,000 values"),
    "size": ("#" * (2**20 + 1), "is larger than 1,048,576 bytes"),
    "twice": ("a: 1\na: 2\n", "'a' stands there twice"),
    "digits": ("a: " + "9" * 5000, "Exceeds the limit"),
    "number": ("a: " + "9" * 30, "a number of more than 64 bits"),
    "date": ("a: 2001-99-99\n", "month must be in 1..12"),
    "object": ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    "escape": ("a: \x1b[31m\n", "special characters are not allowed"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(name: str, tmp_path: Path) -> None:
    text, expected = YAML[name]
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(InputError, match=expected) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert time.process_time() - began < 3


ENDLESS = """
    import resource
    from pathlib import Path
    from bertsmith.errors import InputError
    from bertsmith.run_folder import prepare
    from bertsmith.yaml_files import read_yaml
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    Path("run.yaml").symlink_to("/dev/zero")
    for read in (lambda: read_yaml("run.yaml"), lambda: prepare(Path(), {}, False)):
        try:
            read()
        except InputError as error:
            print(error)
"""


def test_a_run_file_without_end(tmp_path: Path) -> None:
    words = [sys.executable, "-c", textwrap.dedent(ENDLESS)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.stdout.splitlines() == [
        "run.yaml: is larger than 1,048,576 bytes; give a run file (YAML)",
        ".: holds other files (run.yaml, ...) and no run; give a new folder as `output`",
    ], ended.stderr


def test_a_run_file_through_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"output: out\n")
    os.close(writing)
    assert read_yaml(f"/dev/fd/{reading}") == {"output": "out"}
    os.close(reading)


def test_anchors_of_honest_size_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("base: &base {x: 1}\nall: [*base, {<<: *base, y: 2}]\n")
    assert read_yaml(file)["all"] == [{"x": 1}, {"x": 1, "y": 2}]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, "\xff", '"' + " " * 300_000 + '"'])
def test_json_of_ours(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_JSON_BYTES", 250_000)
    file = tmp_path / "manifest.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        read_json(file)


@pytest.mark.parametrize("content", ["[" * 100_000, "[" + "9" * 5000 + "]", '{"data": ' * 50_000])
def test_json_of_tasks(content: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    for read in (read_squad, lambda path: list(read_table(path).records)):
        with pytest.raises(InputError, match="JSON"):
            read(file)


def test_a_record_of_csv_ends_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    # Every line closes a quoted field and opens the next: one record without end.
    file.write_text('text,b\n"' + '","\n' * 1000)
    with pytest.raises(InputError, match="line 2: malformed record .the record is longer than 200 bytes"):
        list(Reader([str(file)], ReadOptions(max_line_bytes=100)))
    problems: list[object] = []
    kept = list(Reader([str(file)], ReadOptions(max_line_bytes=100, bad_documents="skip"), problems.append))
    assert len(problems) > 10 and not kept


def test_a_record_of_a_task_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_LINE_BYTES", 1000)
    file = tmp_path / "a.csv"
    file.write_text('text,b\n"' + '","\n' * 1000)
    with pytest.raises(InputError, match="line 2: malformed record .the record is longer"):
        list(read_table(file).records)
    (tmp_path / "a.jsonl").write_text('{"text": "' + "a" * 2000 + '"}')
    with pytest.raises(InputError, match="line 1: longer than 1,000 bytes; break the line"):
        list(read_table(tmp_path / "a.jsonl").records)
    assert csv.field_size_limit() == 1000


def test_a_task_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < convert._most_chars() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(convert, "_most_chars", lambda: 5000)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "a"}\n' * 10_000))
    with pytest.raises(InputError, match="line 26: more text before it than a quarter of this machine's memory"):
        to_examples([read_table(file)], Columns("text", None, None, "id"), str, labelled=False, keep_empty=False)


def test_a_table_of_a_submission_is_of_a_table_s_size(tmp_path: Path) -> None:
    file = tmp_path / "submission.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("CoLA.tsv", b"0" * (2**25 + 1))
    with pytest.raises(InputError, match=r"CoLA.tsv in it is too large for a table"):
        submission._read_zip(file)


def packed(path: Path, begin: bytes, filling: bytes, num_bytes: int, end: bytes = b"") -> Path:
    """A gzip of many times the memory that reading it may take."""
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(begin)
        for _ in range(num_bytes // len(filling)):
            stream.write(filling)
        stream.write(end)
    return path


def parquet(path: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["short", "a" * 2**28], "label": [0, 1]})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    return path


def parquet_of_one_word(path: Path) -> Path:
    """64 rows with the same text of 15 MiB, which the file holds once."""
    import pyarrow
    import pyarrow.parquet

    word = pyarrow.array(["a" * 15 * 2**20])
    table = pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays([0] * 64, word)})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    return path


CHUNK = 2**20
BOMBS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "a.txt.gz": (lambda path: packed(path, b"", b"a" * CHUNK, 2**29), "corpus", "longer than 16,777,216 bytes"),
    "a.jsonl.gz": (lambda path: packed(path, b'{"text": "', b"a" * CHUNK, 2**29), "corpus", "longer than 16,777,216"),
    "a.csv.gz": (lambda path: packed(path, b'text\n"', b'a","\n' * 2**18, 2**27), "corpus", "malformed record"),
    "a.parquet": (parquet, "corpus", "a text after row 0 is longer than 16,777,216 bytes"),
    "one.parquet": (parquet_of_one_word, "corpus", "64 documents"),
    "b.jsonl.gz": (lambda path: packed(path, b'{"text": "', b"a" * CHUNK, 2**29), "task", "line 1: longer than"),
    "b.csv.gz": (lambda path: packed(path, b'text\n"', b'a","\n' * 2**18, 2**27), "task", "malformed record"),
    "b.json.gz": (
        lambda path: packed(path, b"[", b" " * CHUNK, 2**29 + 2**26),
        "task",
        "holds more than 536,870,912 bytes",
    ),
    "c.json.gz": (
        lambda path: packed(path, b"[", b" " * CHUNK, 2**29 + 2**26),
        "squad",
        "holds more than 536,870,912 bytes",
    ),
}
READ = """
    import resource, sys
    from pathlib import Path
    kind, path = sys.argv[1:]
    from bertsmith.corpus.readers import Reader, ReadOptions
    from bertsmith.errors import InputError
    from bertsmith.tasks.records import read_table
    from bertsmith.tasks.squad import read_squad
    if path.endswith(".parquet"):
        import pyarrow.parquet
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    try:
        if kind == "corpus":
            print(sum(1 for _ in Reader([path], ReadOptions())), "documents")
        elif kind == "task":
            list(read_table(Path(path)).records)
        else:
            read_squad(path)
    except InputError as error:
        print(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_bounded_memory(name: str, tmp_path: Path) -> None:
    make, kind, expected = BOMBS[name]
    path = make(tmp_path / name)
    assert path.stat().st_size < 2**23
    words = [sys.executable, "-c", textwrap.dedent(READ), kind, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, mebibytes = done.stdout.splitlines()
    assert expected in said[0]
    # Of a JSON array 512 MiB are read before it is refused; of all else no more than some lines.
    assert int(mebibytes) < (700 if name.endswith("json.gz") else 350), mebibytes


def test_honest_text_may_be_as_compressible_as_it_likes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps({"text": "The same. " * 10_000}).encode() * 1))
    assert len(list(Reader([str(file)], ReadOptions()))) == 1
