"""bertsmith: pre-train, compare and fine-tune BERT-like text encoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertsmith.corpus import Corpus
    from bertsmith.finetuning.run import finetune
    from bertsmith.pretraining import pretrain

__all__ = ["Corpus", "finetune", "pretrain"]

__version__ = "0.1.0"
"""Stands here, not in the metadata of an installation, because the package also runs from its source folder."""


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: importing torch and transformers takes seconds."""
    if name == "Corpus":
        from bertsmith.corpus import Corpus

        return Corpus
    if name == "finetune":
        from bertsmith.finetuning.run import finetune

        return finetune
    if name == "pretrain":
        from bertsmith.pretraining import pretrain

        return pretrain
    raise AttributeError(f"module 'bertsmith' has no attribute {name!r}")
