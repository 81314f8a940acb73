"""Mistakes in the sources and settings of a corpus, in a corpus, and in what augment is given."""

import gzip
import json
import shutil
from pathlib import Path

from targets import parquet
from world import Case, copied, edited, piped

BUILD = "corpus build {} --out out --processes 1 --tokenizer.from-pretrained {{tokenizer}}"
GOOD = "ba be bi bo bu.\n"
WIDE = json.dumps({"text": "ba " * 100}) + "\n"


def build(source: str, more: str = "") -> str:
    return f"{BUILD.format(source)} {more}".strip()


def _manifest_is_a_folder(here: Path, world: Path) -> None:
    shutil.copytree(world / "corpus", here / "copy")
    (here / "copy" / "manifest.json").unlink()
    (here / "copy" / "manifest.json").mkdir()


# fmt: off
CASES: list[Case] = [
    # Sources
    Case("source: is missing", build("gone.txt")),
    Case("source: an empty folder", build("texts"), make=lambda here, world: (here / "texts").mkdir()),
    Case("source: a folder without text", build("texts"), files={"texts/a.docx": b"PK", "texts/.hidden.txt": GOOD}),
    Case("source: an empty file", build("a.txt"), files={"a.txt": b""}),
    Case("source: of an unknown kind", build("a.pdf"), files={"a.pdf": b"%PDF-1.4"}),
    Case("source: zstd", build("a.jsonl.zst"), files={"a.jsonl.zst": b"(\xb5/\xfd"}),
    Case("source: a tar", build("a.tar.gz"), files={"a.tar.gz": gzip.compress(b"x")}),
    Case("source: a packed Parquet", build("a.parquet.gz"), files={"a.parquet.gz": gzip.compress(b"x")}),
    Case("source: named twice", build("a.txt ./a.txt"), files={"a.txt": GOOD}),
    Case("source: in a folder and by itself", build("texts texts/a.txt"), files={"texts/a.txt": GOOD}),
    Case("source: a corpus", build("{corpus}")),
    Case("source: a name over two lines", build("'a\nb.txt'")),
    Case("source: a name with spaces and umlauts", build("'größe 1.txt'"), files={"größe 1.txt": b"\xff\n"}),
    Case("source: none", "corpus build --out out"),
    Case("source: without permission to be a folder", build("a.txt/b.txt"), files={"a.txt": GOOD}),
    # Plain text
    Case("txt: only a byte order mark", build("a.txt"), files={"a.txt": b"\xef\xbb\xbf"}),
    Case("txt: only white space", build("a.txt"), files={"a.txt": " \n\t\n\r\n"}),
    Case("txt: a NUL byte", build("a.txt"), files={"a.txt": b"ba be.\nbi\0 bo.\n"}),
    Case("txt: Latin-1", build("a.txt"), files={"a.txt": "ba.\ncafé bo.\n".encode("latin-1")}),
    Case("txt: UTF-16", build("a.txt"), files={"a.txt": "ba be.\n".encode("utf-16")}),
    Case("txt: UTF-16 without a mark", build("a.txt"), files={"a.txt": "ba be.\n".encode("utf-16-le")}),
    Case("txt: UTF-32", build("a.txt"), files={"a.txt": "ba be.\n".encode("utf-32")}),
    Case("txt: a line beyond the bound", build("a.txt", "--max-line-bytes 20"), files={"a.txt": "ba " * 20 + "\n"}),
    Case("txt: has no columns", build("a.txt", "--view-columns a,b"), files={"a.txt": GOOD}),
    Case("txt: nothing but control characters", build("a.txt"), files={"a.txt": b"\x01\x02\n\x03\n"}),
    # gzip
    Case("gz: not packed", build("a.txt.gz"), files={"a.txt.gz": GOOD}),
    Case("gz: cut short", build("a.txt.gz"), files={"a.txt.gz": gzip.compress(GOOD.encode() * 99)[:-9]}),
    Case("gz: of nothing", build("a.txt.gz"), files={"a.txt.gz": gzip.compress(b"")}),
    Case("gz: rubbish behind", build("a.txt.gz"), files={"a.txt.gz": gzip.compress(GOOD.encode()) + b"rubbish"}),
    Case("gz: a wrong sum", build("a.jsonl.gz"), files={"a.jsonl.gz": gzip.compress(WIDE.encode())[:-8] + bytes(8)}),
    # JSON lines
    Case("jsonl: an array", build("a.jsonl"), files={"a.jsonl": '[{"text": "ba"}]\n'}),
    Case("jsonl: laid out over lines", build("a.jsonl"), files={"a.jsonl": json.dumps({"text": "ba"}, indent=1)}),
    Case("jsonl: a text by itself", build("a.jsonl"), files={"a.jsonl": '{"text": "ba"}\n"be"\n'}),
    Case("jsonl: another key", build("a.jsonl"), files={"a.jsonl": '{"txt": "ba"}\n'}),
    Case("jsonl: the key is lacking later", build("a.jsonl"), files={"a.jsonl": '{"text": "ba"}\n{"body": "be"}\n'}),
    Case("jsonl: an empty object", build("a.jsonl"), files={"a.jsonl": "{}\n"}),
    Case("jsonl: null", build("a.jsonl"), files={"a.jsonl": '{"text": null}\n'}),
    Case("jsonl: a list of sentences", build("a.jsonl"), files={"a.jsonl": '{"text": ["ba", "be"]}\n'}),
    Case("jsonl: not a number", build("a.jsonl"), files={"a.jsonl": '{"text": NaN}\n'}),
    Case("jsonl: a number of 5,000 digits", build("a.jsonl"), files={"a.jsonl": '{"text": %s}\n' % ("9" * 5000)}),
    Case("jsonl: too deep", build("a.jsonl"), files={"a.jsonl": '{"text": ' + "[" * 100_000 + "\n"}),
    Case("jsonl: a key twice", build("a.jsonl"), files={"a.jsonl": '{"text": "ba", "text": "be"}\n'}),
    Case("jsonl: half a pair", build("a.jsonl"), files={"a.jsonl": '{"text": "ba \\ud800"}\n'}),
    Case("jsonl: single quotes", build("a.jsonl"), files={"a.jsonl": "{'text': 'ba'}\n"}),
    Case("jsonl: cut short", build("a.jsonl"), files={"a.jsonl": '{"text": "ba"}\n{"text": "b'}),
    Case("jsonl: UTF-16", build("a.jsonl"), files={"a.jsonl": '{"text": "ba"}\n'.encode("utf-16")}),
    Case("jsonl: CSV in truth", build("a.jsonl"), files={"a.jsonl": "text\nba\n"}),
    Case("jsonl: an empty view", build("a.jsonl", "--view-columns a,b"), files={"a.jsonl": '{"a": "ba", "b": " "}\n'}),
    Case("jsonl: no such id", build("a.jsonl", "--id-column key"), files={"a.jsonl": '{"text": "ba", "id": 1}\n'}),
    # CSV and TSV
    Case("csv: no column text", build("a.csv"), files={"a.csv": "id,body\n1,ba\n"}),
    Case("csv: another delimiter", build("a.csv"), files={"a.csv": "id;text\n1;ba\n"}),
    Case("csv: the text twice", build("a.csv"), files={"a.csv": "text,text\nba,be\n"}),
    Case("csv: a ragged row", build("a.csv"), files={"a.csv": "id,text\n1,ba\n2,be,bi\n"}),
    Case("csv: a quotation mark alone", build("a.csv"), files={"a.csv": 'id,text\n1,"ba\n2,be\n'}),
    Case("csv: text behind a quotation mark", build("a.csv"), files={"a.csv": 'id,text\n1,"ba"be\n'}),
    Case("csv: a header alone", build("a.csv"), files={"a.csv": "id,text\n"}),
    Case("csv: blank lines", build("a.csv"), files={"a.csv": "\n\n\n"}),
    Case("csv: a gigantic field", build("a.csv", "--max-line-bytes 99"), files={"a.csv": "text\n" + "ba " * 99 + "\n"}),
    Case("csv: no column of this number", build("a.csv", "--text-column 7"), files={"a.csv": "1,ba\n"}),
    Case("csv: NUL", build("a.csv"), files={"a.csv": b"text\nb\0a\n"}),
    Case("csv: Latin-1 in the header", build("a.csv"), files={"a.csv": "größe,text\n1,ba\n".encode("latin-1")}),
    Case("tsv: a field that does not end", build("a.tsv"), files={"a.tsv": 'id\ttext\n1\t"ba\n2\tbe"\n'}),
    Case("tsv: commas in truth", build("a.tsv"), files={"a.tsv": "id,text\n1,ba\n"}),
    # Parquet
    Case("parquet: text in truth", build("a.parquet"), files={"a.parquet": GOOD * 9}),
    Case("parquet: cut short", build("a.parquet"), files={"a.parquet": parquet(text=["ba"] * 9)[:-20]}),
    Case("parquet: damaged within", build("a.parquet"), files={"a.parquet": parquet(text=["ba be"] * 9)[:4] + bytes(60) + parquet(text=["ba be"] * 9)[64:]}),
    Case("parquet: another column", build("a.parquet"), files={"a.parquet": parquet(body=["ba"])}),
    Case("parquet: numbers", build("a.parquet"), files={"a.parquet": parquet(text=[1, 2])}),
    Case("parquet: bytes", build("a.parquet"), files={"a.parquet": parquet(text=[b"ba"])}),
    Case("parquet: null", build("a.parquet"), files={"a.parquet": parquet(text=["ba", None])}),
    Case("parquet: no rows", build("a.parquet"), files={"a.parquet": parquet(text=[])}),
    # Settings
    Case("build: no such language", build("a.txt", "--language xx"), files={"a.txt": GOOD}),
    Case("build: a word for a number", build("a.txt", "--shard-bytes big"), files={"a.txt": GOOD}),
    Case("build: shards too small", build("a.txt", "--shard-bytes 1"), files={"a.txt": GOOD}),
    Case("build: no bytes in a line", build("a.txt", "--max-line-bytes 0"), files={"a.txt": GOOD}),
    Case("build: no such choice", build("a.txt", "--errors ignore"), files={"a.txt": GOOD}),
    Case("build: a misspelt setting", build("a.txt", "--dedupliacte"), files={"a.txt": GOOD}),
    Case("build: neither true nor false", build("a.txt", "--deduplicate=perhaps"), files={"a.txt": GOOD}),
    Case("build: one view", build("a.csv", "--view-columns a"), files={"a.csv": "a\nba\n"}),
    Case("build: no processes", "corpus build a.txt --out out --processes 0", files={"a.txt": GOOD}),
    Case("build: processes without end", "corpus build a.txt --out out --processes 100000", files={"a.txt": GOOD}),
    Case("build: processes in words", "corpus build a.txt --out out --processes two", files={"a.txt": GOOD}),
    Case("build: an unknown cluster", "corpus build a.txt --out out --on dask", files={"a.txt": GOOD}),
    Case("build: no folder", "corpus build a.txt", files={"a.txt": GOOD}),
    Case("build: a tokenizer of three tokens", "corpus build a.txt --out out --vocab-size 3", files={"a.txt": GOOD}),
    Case("build: a size beside a tokenizer", build("a.txt", "--vocab-size 99"), files={"a.txt": GOOD}),
    Case("build: all sentences too short", build("a.txt", "--min-sentence-chars 999"), files={"a.txt": GOOD}),
    Case("build: settings that are not there", build("a.txt", "--settings s.yaml"), files={"a.txt": GOOD}),
    Case("build: settings that are a folder", build("a.txt", "--settings ."), files={"a.txt": GOOD}),
    Case("build: an unknown section", build("a.txt", "--settings s.yaml"), files={"a.txt": GOOD, "s.yaml": "reading: {errors: strict}\n"}),
    Case("build: a list for a section", build("a.txt", "--settings s.yaml"), files={"a.txt": GOOD, "s.yaml": "read: [errors]\n"}),
    Case("build: empty settings", build("a.txt", "--settings s.yaml"), files={"a.txt": GOOD, "s.yaml": ""}),
    Case("build: more tokens than text", "corpus build a.txt --out out --processes 1", files={"a.txt": GOOD}),
    Case("build: fewer tokens than characters", "corpus build a.txt --out out --processes 1 --vocab-size 6 --tokenizer.type bpe", files={"a.txt": GOOD}),
    Case("build: tokenizer is missing", "corpus build a.txt --out out --tokenizer.from-pretrained ./gone", files={"a.txt": GOOD}),
    Case("build: tokenizer is a file", "corpus build a.txt --out out --tokenizer.from-pretrained a.txt", files={"a.txt": GOOD}),
    Case("build: a folder without tokenizer", "corpus build a.txt --out out --tokenizer.from-pretrained ./t", files={"a.txt": GOOD, "t/readme.md": "x"}),
    Case("build: a damaged tokenizer", "corpus build a.txt --out out --tokenizer.from-pretrained copy", files={"a.txt": GOOD}, make=copied("tokenizer", tokenizer__json='{"version": "1.0"')),
    Case("build: a pipe for a tokenizer", "corpus build a.txt --out out --tokenizer.from-pretrained copy", files={"a.txt": GOOD}, make=piped("tokenizer", "tokenizer.json")),
    # The folder
    Case("out: without a name", "corpus build a.txt --out '' --tokenizer.from-pretrained {tokenizer}", files={"a.txt": GOOD}),
    Case("out: is a file", "corpus build a.txt --out b.txt --tokenizer.from-pretrained {tokenizer}", files={"a.txt": GOOD, "b.txt": "mine"}),
    Case("out: below a file", "corpus build a.txt --out b.txt/c --tokenizer.from-pretrained {tokenizer}", files={"a.txt": GOOD, "b.txt": "mine"}),
    Case("out: holds other files", build("a.txt"), files={"a.txt": GOOD, "out/thesis.tex": "mine"}),
    Case("out: holds another corpus", "corpus build a.txt --out copy --tokenizer.from-pretrained {tokenizer}", files={"a.txt": GOOD}, make=copied("corpus")),
    # corpus info and check
    Case("info: is missing", "corpus info gone"),
    Case("info: is a file", "corpus info a.txt", files={"a.txt": GOOD}),
    Case("info: holds nothing", "corpus info .", ),
    Case("info: unfinished", "corpus info c", files={"c/.building/plan.json": "{}"}),
    Case("info: nothing named", "corpus info"),
    Case("info: two named", "corpus info a b"),
    Case("info: the manifest is no JSON", "corpus info copy", make=copied("corpus", manifest__json="{")),
    Case("info: the manifest is a list", "corpus info copy", make=copied("corpus", manifest__json="[]")),
    Case("info: the manifest is a number", "corpus info copy", make=copied("corpus", manifest__json="1")),
    Case("info: the manifest is empty", "corpus info copy", make=copied("corpus", manifest__json="")),
    Case("info: the manifest is UTF-16", "corpus info copy", make=copied("corpus", manifest__json="{}".encode("utf-16"))),
    Case("info: the manifest is too deep", "corpus info copy", make=copied("corpus", manifest__json="[" * 100_000)),
    Case("info: the manifest is a folder", "corpus info copy", make=_manifest_is_a_folder),
    Case("info: a format of the future", "corpus info copy", make=edited("corpus", "manifest.json", version=99)),
    Case("info: a manifest without counts", "corpus info copy", make=edited("corpus", "manifest.json", counts=None)),
    Case("info: a manifest without a tokenizer", "corpus info copy", make=edited("corpus", "manifest.json", tokenizer=None)),
    Case("info: counts in words", "corpus info copy", make=edited("corpus", "manifest.json", counts="many")),
    Case("info: shards as a number", "corpus info copy", make=edited("corpus", "manifest.json", shards=3)),
    Case("info: more shards than there are", "corpus info copy", make=edited("corpus", "manifest.json", shards=[])),
    Case("info: no histogram", "corpus info copy", make=edited("corpus", "manifest.json", sentence_lengths=None)),
    Case("check: a shard is missing", "corpus check copy", make=copied("corpus", "shards/00000/tokens.npy")),
    Case("check: tokens cut short", "corpus check copy", make=copied("corpus", shards___00000___tokens__npy=b"\x93NUMPY\x01\x00")),
    Case("check: offsets are empty", "corpus check copy", make=copied("corpus", shards___00000___sentences__npy=b"")),
    Case("check: tokenizer changed", "corpus check copy", make=copied("corpus", tokenizer___tokenizer__json="{}")),
    Case("check: tokenizer is missing", "corpus check copy", make=copied("corpus", "tokenizer/tokenizer_config.json")),
    Case("check: is missing", "corpus check gone"),
    Case("corpus: no command", "corpus"),
    Case("corpus: no such command", "corpus biuld a.txt"),
    # augment
    Case("augment: no pivot", "augment a.txt --out out", files={"a.txt": GOOD}),
    Case("augment: no sources", "augment --out out --via de"),
    Case("augment: a source is missing", "augment gone.txt --out out --via de"),
    Case("augment: a source is Latin-1", "augment a.txt --out out --via de", files={"a.txt": b"\xe9t\xe9\n"}),
    Case("augment: a source is damaged", "augment a.txt.gz --out out --via de", files={"a.txt.gz": b"no gzip"}),
    Case("augment: a text is a number", "augment a.jsonl --out out --via de", files={"a.jsonl": '{"text": 1}\n'}),
    Case("augment: settings with a list", "augment a.txt --out out --settings s.yaml", files={"a.txt": GOOD, "s.yaml": "[de]\n"}),
    Case("augment: settings misspelt", "augment a.txt --out out --settings s.yaml", files={"a.txt": GOOD, "s.yaml": "via: [de]\nfliters: {empty: keep}\n"}),
    Case("augment: a word for a list", "augment a.txt --out out --settings s.yaml", files={"a.txt": GOOD, "s.yaml": "via: de\n"}),
    Case("augment: seed as a share", "augment a.txt --out out --via de --seed 0.5", files={"a.txt": GOOD}),
    Case("augment: no ratio", "augment a.txt --out out --via de --max-ratio .nan", files={"a.txt": GOOD}),
    Case("augment: a task without files", "augment --out out --via de --task RTE --data gone"),
    Case("augment: a task that lacks a split", "augment --out out --via de --task RTE --data d", files={"d/dev.tsv": "x\n"}),
    Case("augment: a model is missing", "augment a.txt --out out --via de --models.en-de ./gone --models.de-en ./gone", files={"a.txt": GOOD}),
    Case("augment: a model of another kind", "augment a.txt --out out --via de --models.en-de {model} --models.de-en {model}", files={"a.txt": GOOD}),
    Case("augment: out is a file", "augment a.txt --out b.txt --via de", files={"a.txt": GOOD, "b.txt": "mine"}),
    Case("augment: out holds other files", "augment a.txt --out o --via de", files={"a.txt": GOOD, "o/thesis.tex": "mine"}),
    # Words of the command line
    Case("command: none", ""),
    Case("command: misspelt", "pretrian run.yaml"),
    Case("command: unknown option", "schema --json"),
    Case("command: a word too many", "schema run.yaml"),
    Case("command: an option without its value", "corpus build a.txt --out", files={"a.txt": GOOD}),
    Case("demo: seconds without quick", "demo --seconds 5"),
    Case("demo: tokens in words", "demo --tokens many"),
    Case("demo: no tokens", "demo --out out --tokens 0"),
    Case("demo: tokens that are no number", "demo --out out --tokens nan"),
    Case("demo: tokens without end", "demo --out out --tokens inf"),
    Case("demo: negative seconds", "demo --quick --out out --seconds -5"),
    Case("demo: no seconds", "demo --quick --out out --seconds 0"),
    Case("demo: out is a file", "demo --out a.txt", files={"a.txt": "mine"}),
]
# fmt: on
