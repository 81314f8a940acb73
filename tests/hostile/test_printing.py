"""What data hold is shown, and acts nowhere: not in a terminal, in Markdown, in HTML or in a figure."""

import ast
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hostile_words import ESCAPES, MARKUP, UNSAFE
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text

from bertsmith.cli import main
from bertsmith.corpus.progress import ConsoleProgress
from bertsmith.export import model_card
from bertsmith.finetuning import card
from bertsmith.finetuning.importance import Line, Piece, Shown, to_terminal, write_html
from bertsmith.markdown import block, code, plain
from bertsmith.plots import plot_arms, plot_confusion, plot_sweep
from bertsmith.results import Mistake, write_errors
from bertsmith.tasks.examples import Example
from bertsmith.terminal import safe, say, say_on
from bertsmith.training.monitors import Monitor

SOURCE = Path(__file__).parents[2] / "src" / "bertsmith"
ALL = " ".join(ESCAPES.values())


def unsafe(text: str) -> list[str]:
    return [character for character in UNSAFE if character in text]


def test_all_that_is_printed_goes_through_one_place() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "print" or name.endswith((".print", "stdout.write", "stderr.write")):
                    wrong.append(f"{path.name}: {name}")
                if name == "TextColumn" and "markup=False" not in ast.unparse(node) and "fields" in ast.unparse(node):
                    wrong.append(f"{path.name}: a column reads markup")
    # The page of the doctor is a table, of texts that are made safe one by one.
    assert [name for name in wrong if name != "page.py: console.print"] == [
        "terminal.py: print", "terminal.py: console.print"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_text_is_made_safe(name: str) -> None:
    assert unsafe(safe(ESCAPES[name])) == []
    assert len(safe(ESCAPES[name])) == len(ESCAPES[name])


def test_honest_text_is_left_alone() -> None:
    text = "Zeile\n\tTab, 한국어, עברית, العربية, 👩\u200d👩\u200d👧, é, ✓ [MASK] a:b:c"
    assert safe(text) == text
    assert safe("a\x1bb\rc\x7fd") == "a␛b␍c\ufffdd"


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say(ALL)
    assert unsafe(capsys.readouterr().out) == []
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=500)
    say_on(console, ALL)
    shown = stream.getvalue()
    assert unsafe(shown) == [] and ESCAPES["markup"] in shown
    stream.truncate(0)
    say_on(console, Text.assemble(("a\x1b[2J", "bold red"), "b"))
    assert "\x1b[1;31ma␛[2J\x1b[0mb" in stream.getvalue()


def test_progress_reads_no_markup(tmp_path: Path) -> None:
    stream = io.StringIO()
    with ConsoleProgress(Console(file=stream, force_terminal=True, color_system=None, width=300)) as progress:
        progress.advance(ESCAPES["markup"], 1, 2, ESCAPES["renames the window"])
        progress.note(ALL)
    assert "[bold red]x[/bold red]" in stream.getvalue() and "\x1b]" not in stream.getvalue()
    stream = io.StringIO()
    with Monitor(tmp_path) as monitor:
        monitor._console.file = stream
        monitor.say(ALL)
    assert unsafe(stream.getvalue()) == [] and ESCAPES["markup"] in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "renames the window",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted(ESCAPES.keys() - {"renames the window", "half a pair"})
        ),
    ],
)
def test_errors_and_pages_of_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word = ESCAPES[name].replace("/", "∕")
    folder = tmp_path / word
    folder.mkdir()
    file = folder / f"{word}.csv"
    file.write_bytes(f"{word},b\na,b\n".encode())
    fill = ["fill", str(folder), f"{word} no mask"]
    for words in (
        ["corpus", "build", str(file), "--out", str(tmp_path / "corpus")],
        ["corpus", "info", str(folder)],
        ["report", str(folder)],
        ["pretrain", str(file)],
        ["export", str(folder), "--out", str(folder)],
        fill,
        ["evaluate", word, "--task.name", word],
        ["nothing", word],
    ):
        assert main(words) == 2
        printed = capsys.readouterr()
        assert unsafe(printed.err + printed.out) == [], words
        assert len([line for line in printed.err.splitlines() if line.startswith("bertsmith: ")]) == 1


def test_a_name_of_a_file_in_no_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / "half \udcff a name.csv"
    name.write_text("a,b\n")
    assert main(["corpus", "build", str(name), "--out", str(tmp_path / "corpus")]) == 2
    assert "half \ufffd a name.csv: its name is not UTF-8" in capsys.readouterr().err


def test_a_corpus_is_described_safely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "[red]\x1b]0;x\x07"
    folder.mkdir()
    (folder / "\x1b[2J.jsonl").write_text(json.dumps({"text": f"{ESCAPES['right to left']} a \x9bb."}) + "\n")
    words = ["corpus", "build", str(folder), "--out", str(tmp_path / "c"), "--processes", "1", "--type", "bpe"]
    assert main([*words, "--vocab-size", "270", "--bad-documents", "skip"]) in (0, 2)
    printed = capsys.readouterr()
    assert main([*words, "--vocab-size", "261"]) == 0
    assert main(["corpus", "info", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr()
    assert "[red]␛]0;x␇" in printed.out
    assert unsafe(printed.err + printed.out) == []


def pieces(words: list[str]) -> list[Shown]:
    parts = [Piece(word, " ", 0.5, 0.7, number % 2 == 1) for number, word in enumerate(words)]
    return [Shown(word, word, [Line(word, word, True, parts)]) for word in words]


def test_importance_is_shown_safely(tmp_path: Path) -> None:
    stream = io.StringIO()
    say_on(Console(file=stream, color_system=None, width=300), to_terminal(ALL, pieces(list(ESCAPES.values()))))
    assert unsafe(stream.getvalue()) == [] and ESCAPES["markup"] in stream.getvalue()
    write_html(tmp_path / "page.html", MARKUP[0], pieces(MARKUP))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|img)|[^&]onmouseover=\"", page)
    assert "default-src 'none'" in page


# Markdown


def tokens(text: str) -> list[Any]:
    found: list[Any] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found += [token, *(token.children or ())]
    return found


def kinds(text: str) -> set[str]:
    return {token.type for token in tokens(text)}


ACTIVE = {"html_block", "html_inline", "link_open", "image", "fence", "code_block"}


@pytest.mark.parametrize("word", [*MARKUP, ALL])
def test_markdown_shows_words_as_they_are(word: str) -> None:
    line = " ".join(safe(word).split())
    for text in (f"Words {plain(word)} end", f"Words {code(word)} end"):
        (inline,) = [token for token in tokens(text) if token.type == "inline"]
        assert kinds(text) <= {"paragraph_open", "paragraph_close", "inline", "text", "code_inline", "text_special"}
        shown = "".join(token.content for token in inline.children)
        assert shown.replace("｜", "|") == f"Words {line} end"
    table = f"| a | b |\n|---|---|\n| {plain(word)} | {code(word)} |\n"
    assert not kinds(table) & ACTIVE
    assert sum(token.type == "td_open" for token in tokens(table)) == 2
    (fence,) = [token for token in tokens(block(word, "yaml")) if token.type == "fence"]
    assert fence.content == safe(word).rstrip() + "\n"


def test_errors_are_written_safely(tmp_path: Path) -> None:
    mistakes = [Mistake(Example(word, word, word, 0), word, word, 0.9) for word in [*MARKUP, ALL]]
    write_errors(tmp_path / "errors.md", "classification", mistakes)
    text = (tmp_path / "errors.md").read_text(encoding="utf-8")
    assert not kinds(text) & ACTIVE and unsafe(text) == []
    assert sum(token.type == "heading_open" for token in tokens(text)) == 1 + len(mistakes)


def test_cards_are_written_safely() -> None:
    word = " ".join(MARKUP)
    run = {
        "encoder": {"from_pretrained": word, "preset": None}, "data": {"corpus": word, "row_length": 8},
        "objective": {"name": "mlm", "unit": word}, "training": {},
    }  # fmt: skip
    task = SimpleNamespace(type="classification", name=word)
    training = SimpleNamespace(selection="best")
    tuned = SimpleNamespace(model=word, from_scratch=False, ssa=None, pooling="cls", training=training)
    for text in (
        model_card(run, {"corpus": word, word: 0.5}),
        card.model_card(tuned, SimpleNamespace(task=task), 0, {word: {word: 0.5}}),  # type: ignore[arg-type]
    ):
        _, front, body = text.split("---\n", 2)
        assert word not in front
        assert kinds(body) & ACTIVE == {"fence"}
        assert sum(token.type == "fence" for token in tokens(body)) == 1


# Figures


@pytest.mark.slow
def test_figures_draw_dollars_and_not_formulas(tmp_path: Path) -> None:
    name = r"$\frac{$ [x] \alpha ^_ $"
    rows = [{"epoch": 1.0, "validation_loss": 1.0, "validation_accuracy": 0.5}]
    plot_arms(tmp_path / "a.png", [{"task.text": name}, {"task.text": "$x$"}], [[rows], [rows]], "accuracy")
    plot_confusion(tmp_path / "b.png", np.ones((2, 2), np.int64), [name, "$"])
    plot_sweep(tmp_path / "c.png", [({"pooling": name}, 0.5), ({"pooling": "$"}, 0.6)], "accuracy", {}, ())
    assert len(list(tmp_path.glob("*.png"))) == 3
