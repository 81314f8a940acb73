"""The README's commands, run word for word but for shorter budgets."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "pretrain": ["--training.budget.steps", "4"],
    "finetune": ["--training.epochs", "1", "--task.examples", "32", "--seeds", "[0, 1]"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(words: list[str], folder: Path) -> str:
    assert words[0] == "bertsmith"
    extra = SHORTER.get(words[1], [])
    done = subprocess.run(
        [sys.executable, "-m", "bertsmith.cli", *words[1:], *extra], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bertsmith.corpus.python_docs import documents

    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_texts").mkdir()
    texts = [document.text for document in islice(documents(), 1500)]
    for number in range(0, 1400, 100):
        (folder / "my_texts" / f"{number}.txt").write_text("\n\n".join(texts[number : number + 100]), encoding="utf-8")
    with gzip.open(folder / "notes.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts[1400:])
    shutil.copytree(ROOT / "runs", folder / "runs")
    return folder


@pytest.mark.slow
def test_the_commands_and_the_script(workplace: Path) -> None:
    own_text, continued = (block for block in blocks("bash") if block.startswith("bertsmith corpus build"))
    for line in own_text.strip().splitlines():
        printed = run(shlex.split(line), workplace)
    assert printed.count("%") == 5  # the last command fills one mask

    opened, script = (block for block in blocks("python"))
    for code in (opened + '\nprint(fill("A [MASK] ."))', script):
        done = subprocess.run([sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (workplace / "out" / "mine").exists()

    (over_pairs,) = (block for block in blocks("bash") if block.startswith("bertsmith show"))
    shown, _ = (run(shlex.split(line), workplace) for line in over_pairs.strip().splitlines())
    assert shown.count("label ") == shown.count("[CLS]") == 4
    assert "same document" in run([*shlex.split(over_pairs.strip().splitlines()[0]), "--rows", "24"], workplace)
    assert (workplace / "out" / "ssp-mini" / "model").exists()

    # The demo's model, which these commands begin with, is not trained here.
    shutil.copytree(workplace / "out" / "mlm-mini" / "model", workplace / "out" / "demo" / "mlm" / "model")
    (tuned,) = (block for block in blocks("bash") if block.startswith("bertsmith finetune"))
    *_, scored = (run(shlex.split(line), workplace) for line in tuned.strip().splitlines())
    assert "validation accuracy 0." in scored
    assert (workplace / "out" / "docs" / "seed-1" / "model" / "config.json").exists()

    for line in continued.strip().splitlines():
        words = line.replace("CHECKPOINT", "out/mlm-mini/model").replace("out/corpus", "out/corpus2")
        run([*shlex.split(words), *(["--data.corpus", "out/corpus2"] if " pretrain " in words else [])], workplace)
    assert (workplace / "out" / "mlm-continue" / "model").exists()


def test_every_command_of_the_readme_exists() -> None:
    from bertsmith.cli import main

    named = set(re.findall(r"bertsmith (corpus \w+|[a-z]+)", README)) - {"is", "pretrain RUN"}
    known = {
        "corpus build",
        "corpus info",
        "corpus check",
        "pretrain",
        "fill",
        "show",
        "export",
        "schema",
        "finetune",
        "evaluate",
    }
    assert {name for name in named if name.split()[0] in {word.split()[0] for word in known}} == known
    for name in known:
        with pytest.raises(SystemExit) as caught:
            main([*name.split(), "--help"])
        assert caught.value.code == 0


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).exists()] == []
