"""The scripts that measure run, at their smallest sizes, and write the tables that results are made of."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from bertsmith.corpus import Corpus
from commands import Command

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run_script(words: list[str]) -> int:
    sys.path.insert(0, str(BENCHMARKS))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0


def finish(process: Command) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def material(
    corpus_folder: Path, text_file: Path, pairs: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Texts, corpora, a model and a task, by the name that stands for them in what scripts are given."""
    folder = tmp_path_factory.mktemp("material")
    run = {
        "data": {"corpus": str(pairs.path), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "cert"},
        "training": {"budget": {"steps": 1}, "tokens_per_step": 256},
        "output": str(folder / "run"),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    finish(Command(["pretrain", str(folder / "run.yaml")]))
    (folder / "RTE").mkdir()
    for name, count in (("train", 64), ("dev", 16)):
        lines = [f"{k}\tword{k} is here.\tword{k % 7}.\t{('', 'not_')[k % 2]}entailment" for k in range(count)]
        text = "\n".join(["index\tsentence1\tsentence2\tlabel", *lines])
        (folder / "RTE" / f"{name}.tsv").write_text(text + "\n", encoding="utf-8")
    sentences = "One is here.\nTwo is there, and three.\nFour is away.\nFive is not six.\nIt is seven.\n"
    (folder / "sentences.txt").write_text("\n".join([sentences] * 100), encoding="utf-8")
    return {
        "CORPUS": str(corpus_folder), "PAIRS": str(pairs.path), "JSONL": str(text_file), "DATA": str(folder),
        "TEXT": str(folder / "sentences.txt"), "MODEL": str(folder / "run" / "model"),
    }  # fmt: skip


BRIEF = "--preset tiny --row-length 32 --rounds 1"
SCRIPTS = {
    "batch_density": "CORPUS --tokens-per-step 512",
    "cert": f"--pairs PAIRS --model MODEL {BRIEF} --tokens-per-step 256 --steps 3 --rows 8",
    "cluster": "--text JSONL --files 2 --vocab-size 300 --rounds 1",
    "comparison_statistics": "--simulations 3",
    "electra": f"--corpus CORPUS {BRIEF} --rows 4",
    "finetune_vs_hf": "--model MODEL --data DATA --epochs 1 --batch-size 16 --max-length 32 --rounds 1",
    "pair_objectives": "--corpus CORPUS --preset tiny --row-length 32 --tokens 2000 --tokens-per-step 512 --seeds 0",
    "pairs": f"--corpus CORPUS {BRIEF} --tokens-per-step 512 --steps 6 --warmup 1",
    "pairs_memory": "TEXT --copies 1 --vocab-size 50",
    "pretrain_vs_hf": f"--text TEXT {BRIEF} --vocab-size 50 --tokens-per-step 256 --steps 2 --warmup 1",
    "scaling": "--sizes 1 --sentences 2 --lengths 16 --widths 64 --queues 64 --layers 1 --tokens 128 --rounds 1",
    "spans": f"--corpus CORPUS {BRIEF} --rows 4 --spans 500 --steps 1",
}
"""What each is given."""
NOT_HERE = {
    "augment": "wants the extra `augment`",
    "corpus_build": "writes into the results",
    "fuzz": "wants the extra `fuzz`",
    "soak": "takes minutes",
    **dict.fromkeys(("cert_rte", "electra_against_mlm", "ssa"), "pre-train or fine-tune dozens of models"),
    **dict.fromkeys(("faults", "gpu", "gpu_variants"), "have tests of their own"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_measures(name: str, material: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "result.md"
    words = [material.get(word, word) for word in SCRIPTS[name].split()]
    finish(Command([str(BENCHMARKS / f"{name}.py"), *words, "--out", str(out)], tmp_path, run_script))
    text = out.read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    assert sum(not set(row) <= set("|-: ") for row in rows) > 1, text
    assert not re.search(r"\bnan\b", "\n".join(rows)), text


def test_all_scripts_are_here() -> None:
    is_script = 'if __name__ == "__main__"'
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if is_script in path.read_text(encoding="utf-8")}
    assert scripts == {*SCRIPTS, *NOT_HERE}
