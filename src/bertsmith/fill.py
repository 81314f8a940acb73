"""Fill the masks of a sentence with a model: the quickest look at what it has learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.errors import InputError

MASK = "[MASK]"
"""What a user writes for a mask, whatever the model's own token is."""


class Guess(NamedTuple):
    """One proposal for a mask."""

    token: str
    probability: float


def fill(model: str | Path, texts: Sequence[str], top: int = 5) -> list[list[list[Guess]]]:
    """Propose tokens for every mask of some texts.

    Args:
        model: Folder or hub id of a masked-language model with its tokenizer.
        texts: Each with at least one ``[MASK]``.
        top: How many proposals for each mask.

    Returns:
        For each text, for each of its masks, the ``top`` most probable tokens.

    Raises:
        InputError: The model cannot be opened, or a text has no mask.
    """
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if top < 1:
        raise InputError(f"--top is {top}; expected at least 1")
    is_folder = Path(model).is_dir()
    if is_folder and (Path(model) / "checkpoints").is_dir():
        raise InputError(f"{model}: is a run folder; give its model, {Path(model) / 'model'}")
    if not is_folder and (Path(model).is_absolute() or str(model).count("/") != 1):
        raise InputError(f"{model}: no such model folder; give the `model` folder of a run, or a hub id")
    try:
        pipe = pipeline("fill-mask", model=str(model), top_k=top)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: cannot be opened as a masked-language model: {str(error).splitlines()[0]}"
        ) from None
    return [_fill_one(pipe, text) for text in texts]


def _fill_one(pipe: Any, text: str) -> list[list[Guess]]:
    mask = pipe.tokenizer.mask_token
    text = text.replace(MASK, mask)
    if mask not in text:
        raise InputError(f"{text!r}: has no mask; write {MASK} where a token is to be guessed")
    try:
        found = pipe(text)
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(f"{text[:60]!r}: cannot be filled: {str(error).splitlines()[0]}; is it too long?") from None
    # With a single mask the pipeline gives a list of proposals, with several a list of such lists.
    masks = [found] if isinstance(found[0], dict) else found
    return [[Guess(guess["token_str"].strip(), guess["score"]) for guess in guesses] for guesses in masks]
