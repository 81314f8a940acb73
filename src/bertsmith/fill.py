"""Fill the masks of a sentence with a model: the quickest look at what it has learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertsmith.errors import InputError
from bertsmith.files import read_json
from bertsmith.pretrained import GENERATOR, TOKENIZER_FILES, open_pretrained

MASK = "[MASK]"
"""What a user writes for a mask, whatever the model's own token is."""


class Guess(NamedTuple):
    """One proposal for a mask."""

    token: str
    probability: float


def fill(model: str | Path, texts: Sequence[str], top: int = 5) -> list[list[list[Guess]]]:
    """Propose tokens for every mask of some texts.

    Args:
        model: Folder or hub id of a masked-language model with its tokenizer; of an ELECTRA's folder its generator.
        texts: Each with at least one ``[MASK]``.
        top: How many proposals for each mask.

    Returns:
        For each text, for each of its masks, the ``top`` most probable tokens.

    Raises:
        InputError: The model cannot be opened, or a text has no mask.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if top < 1:
        raise InputError(f"--top is {top}; expected at least 1")
    if blank := [text for text in texts if not text.strip()]:
        raise InputError(f"fill: {blank[0]!r} is no sentence; write one with a {MASK} where a token is to be guessed")
    if (Path(model) / "checkpoints").is_dir():
        raise InputError(f"{model}: is a run folder; give its model, {Path(model) / 'model'}")
    folder = _masked_model(Path(model)) if Path(model).is_dir() else Path(model)
    # A path as it was given: "./model" is no name on the hub, and "model" may be one.
    origin = str(model if folder == Path(model) else folder)
    tokenizer = open_pretrained(AutoTokenizer.from_pretrained, origin, "tokenizer", "fill")
    opened, report = open_pretrained(
        AutoModelForMaskedLM.from_pretrained, origin, "masked-language model", "fill", output_loading_info=True
    )
    # Without a word, transformers would make them at random.
    if missing := report["missing_keys"] - opened.all_tied_weights_keys.keys():
        raise InputError(
            f"fill: {origin} lacks weights that fill masks ({min(missing)}); take a model that was trained to predict "
            "tokens, of an ELECTRA its generator"
        )
    if tokenizer.mask_token is None:
        raise InputError(f"fill: the tokenizer of {origin} has no mask; take a model that was trained to fill masks")
    if top > len(tokenizer):
        raise InputError(f"--top is {top}, but the model knows only {len(tokenizer)} tokens; lower it")
    pipe = pipeline("fill-mask", model=opened, tokenizer=tokenizer, top_k=top)
    return [_fill_one(pipe, text) for text in texts]


def read_sentences(path: Path) -> list[str]:
    """Read a text file with a sentence a line; blank lines do not count.

    Raises:
        InputError: It cannot be read, is empty or not UTF-8, or a line has no mask.
    """
    try:
        # Other ends of lines, such as U+2028, are of the sentence.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a text file as --file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    for number, line in enumerate(lines, start=1):
        if line.strip() and MASK not in line:
            raise InputError(f"{path}, line {number}: has no mask; write {MASK} where a token is to be guessed")
    sentences = [line for line in lines if line.strip()]
    if not sentences:
        raise InputError(f"{path}: holds no sentence; write some with a {MASK}, one a line")
    return sentences


def _masked_model(folder: Path) -> Path:
    """Find the model with a vocabulary head: a discriminator has none, but may have its generator in its folder."""
    try:
        classes = read_json(folder / "config.json").get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return folder
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return folder  # What is wrong with it is said where it is opened.
    if classes and not any(name.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel")) for name in classes):
        raise InputError(
            f"{folder}: has no vocabulary head ({classes[0]}), so it fills no masks; fine-tune it, or take a model "
            "that was trained to predict tokens (objective cert does so with mlm_weight)"
        )
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"{folder}: has no tokenizer; put the one it was trained with into the folder")
    if classes != ["ElectraForPreTraining"]:
        return folder
    if not (folder / GENERATOR).is_dir():
        raise InputError(f"{folder}: is a discriminator, which fills no masks, and has no {GENERATOR} folder inside")
    return folder / GENERATOR


def _fill_one(pipe: Any, text: str) -> list[list[Guess]]:
    mask = pipe.tokenizer.mask_token
    text = text.replace(MASK, mask)
    if mask not in text:
        raise InputError(f"{text!r}: has no mask; write {MASK} where a token is to be guessed")
    try:
        found = pipe(text)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"{text[:60]!r}: cannot be filled: {what}; is it too long, or a file of the model damaged?"
        ) from None
    # With a single mask the pipeline gives a list of proposals, with several a list of such lists.
    masks = [found] if isinstance(found[0], dict) else found
    return [[Guess(guess["token_str"].strip(), guess["score"]) for guess in guesses] for guesses in masks]
