"""What the tests of fine-tuning share: tiny tasks in files, tiny encoders in folders."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModel, AutoTokenizer

from bertsmith.encoder import EncoderSettings, new_config
from bertsmith.finetuning.material import Material
from bertsmith.finetuning.run import load_material
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.training.monitors import read_metrics

LABELS = ("neutral", "긍정", "부정")
"""In the order of their code points, which is that of their indices."""

MakeRun = Callable[..., FinetuningSettings]

_SIGNS = {
    "neutral": ["table", "paper", "월요일"],
    "긍정": ["lovely", "좋아요", "최고"],
    "부정": ["awful", "싫어요", "별로"],
}
_WORDS = [
    *("the", "a", "film", "book", "영화", "정말", "배우", "story", "and", "was", "그리고", "scene", "with", "music"),
    *("음악", "very", "long", "short", "actor", "plot"),
]

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 64}


def sentences(num: int, seed: int) -> list[tuple[str, str]]:
    """Texts of 2 to 30 words with a word that gives the label away, and their labels."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        label = LABELS[number % 3]
        words = rng.choice(_WORDS, rng.integers(1, 30)).tolist()
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(_SIGNS[label])))
        found.append((" ".join(words), label))
    return found


def pairs(num: int, seed: int) -> list[tuple[str, str, float]]:
    """Two texts, and twice the share of words of the first one that the second has in the same place."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        length, common = int(rng.integers(2, 8)), float(rng.random())
        first = rng.choice(_WORDS, length).tolist()
        second = [word if rng.random() < common else str(rng.choice(_WORDS)) for word in first]
        shared = np.mean([a == b for a, b in zip(first, second, strict=True)])
        # Never the same, so that no two cosines are.
        found.append((" ".join(first), " ".join([*second, "별로"]), round(2 * float(shared), 2)))
    return found


def write_squad(path: Path, num: int, seed: int, impossible: bool = False) -> None:
    """Questions of which word stands behind another one, with contexts longer than a window of 24 tokens."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(num):
        words = rng.choice(_WORDS, rng.integers(8, 36)).tolist()
        place = int(rng.integers(1, len(words)))
        words[place - 1] = "actor"
        start = len(" ".join(words[:place])) + 1
        answers = [] if impossible and number % 3 == 0 else [{"text": words[place], "answer_start": start}]
        question = {"id": f"q{number}", "question": "the word with actor", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a .csv."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def save_encoder(folder: Path, tokenizer: Any, architecture: str = "bert") -> Path:
    """Save a tiny encoder with random weights, without a head, and its tokenizer."""
    torch.manual_seed(7)
    settings = EncoderSettings(preset="tiny", architecture=architecture)  # type: ignore[arg-type]
    sizes = {**SIZES, "intermediate_size": 64, "hidden_dim": 64, "embedding_size": 16, "initializer_range": 0.1}
    made = new_config(settings, tokenizer, 64)
    known = made.to_dict().keys() | made.attribute_map.keys()
    for name, value in sizes.items():
        if name in known:
            setattr(made, name, value)
    # DeBERTa copies its size when it is made.
    values = {name: value for name, value in made.to_dict().items() if name != "pooler_hidden_size"}
    AutoModel.from_config(AutoConfig.for_model(**values)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def material_of(run: FinetuningSettings) -> Material:
    return load_material(run, Console(quiet=True))


def tokenizer_of(run: FinetuningSettings) -> Any:
    return AutoTokenizer.from_pretrained(run.model)


def losses(folder: Path) -> list[float]:
    """The logged training losses of a seed."""
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]
