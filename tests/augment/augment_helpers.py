"""Tiny random Marian models with real SentencePiece vocabularies, and sentences that they can read."""

import json
import random
import shutil
import warnings
from pathlib import Path

KEEP_ALL = ["--filters.language", "skip"]
for reason in ("identical", "empty", "runaway", "duplicate"):
    KEEP_ALL += [f"--filters.{reason}", "keep"]
SYLLABLES = [first + second + third for first in "bdfgk" for second in "aeiou" for third in "lmnrs"]
"""125 syllables, of which the words of the sentences are made."""


def made_up_sentences(num: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(SYLLABLES, k=draw.randint(3, 12))).capitalize() + "." for _ in range(num)]


def train_sentencepiece(file: Path, seed: int) -> None:
    """Train a vocabulary and save it."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(made_up_sentences(300, seed)), model_prefix=str(file.with_suffix("")), vocab_size=150,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    file.with_suffix(".model").rename(file)


def pieces_of(file: Path) -> list[str]:
    import sentencepiece

    trained = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [trained.id_to_piece(index) for index in range(trained.get_piece_size())]


def save_marian(
    folder: Path, vocabularies: tuple[Path, Path], direction: str, seed: int, codes: tuple[str, ...] = ()
) -> Path:
    """Save a random model of one layer whose two languages have vocabularies of their own, joined as OPUS-MT's are."""
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(parents=True)
    source, target = direction.split("-")
    for name, file in zip(("source.spm", "target.spm"), vocabularies, strict=True):
        shutil.copy(file, folder / name)
    pieces = [piece for file in vocabularies for piece in pieces_of(file)]
    special = ("<s>", "</s>", "<unk>")
    words = list(dict.fromkeys(piece for piece in pieces if piece not in special))
    vocabulary = {piece: index for index, piece in enumerate(["</s>", "<unk>", *codes, *words, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        tokenizer = MarianTokenizer(
            *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")),
            source_lang=source, target_lang=target,
        )  # fmt: skip
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=512,
        pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0, init_std=0.5,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = MarianMTModel(config)
    # Else nothing would ever end; so it does now and then.
    model.final_logits_bias[0, 0] = 5.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
