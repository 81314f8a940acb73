"""The model folder: weights, config and tokenizer that every transformers Auto class opens, and a model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel

from bertsmith.errors import InputError
from bertsmith.files import synchronise
from bertsmith.settings import read_yaml
from bertsmith.training import checkpoints

_POOLER_SEED = 0


def write_model(encoder: PreTrainedModel, tokenizer: Any, folder: Path, card: str) -> None:
    """Write a model folder, whole or not at all; an existing one is replaced.

    Architectures whose bare model has a pooler get one, initialised as usual and untrained, so that AutoModel gives the
    same output every time it opens the folder instead of a pooler that is random anew.

    Args:
        encoder: A masked-language model.
        tokenizer: Its tokenizer.
        folder: Where to.
        card: The text of README.md.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    write_folder(encoder, tokenizer, folder, card, {**encoder.state_dict(), **_pooler(encoder)})


def write_folder(
    model: PreTrainedModel, tokenizer: Any, folder: Path, card: str, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write model, tokenizer and card into a folder, whole or not at all; an existing one is replaced.

    Args:
        model: Any transformers model.
        tokenizer: Its tokenizer.
        folder: Where to.
        card: The text of README.md.
        weights: Other weights than the model's own.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    staging = folder.with_name(folder.name + ".staging")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        model.save_pretrained(staging, state_dict=weights)
        tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(
            f"{folder}: the model could not be written ({str(error).splitlines()[0]}); nothing is lost: make room, and "
            "the same command goes on"
        ) from None
    for file in staging.iterdir():
        # safetensors makes its file readable by the owner alone.
        file.chmod(0o644)
        synchronise(file)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def _pooler(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_POOLER_SEED)
        bare = AutoModel.from_config(encoder.config)
    prefix = encoder.base_model_prefix
    return {f"{prefix}.{name}": value for name, value in bare.state_dict().items() if name.startswith("pooler.")}


def export_checkpoint(checkpoint: str | Path, out: str | Path) -> Path:
    """Write the encoder of a training checkpoint as a model folder.

    Args:
        checkpoint: A checkpoint folder of a run, or the run folder itself, meaning its newest whole checkpoint.
        out: The folder to write; it must not exist.

    Returns:
        The folder written.

    Raises:
        InputError: There is no whole checkpoint, or ``out`` exists.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists():
        raise InputError(f"{out}: exists already; give another --out")
    if (checkpoint / "checkpoints").is_dir():
        found = checkpoints.newest_whole(checkpoint / "checkpoints")
        if found is None:
            raise InputError(f"{checkpoint}: this run has no checkpoint yet")
        checkpoint = found[0]
    facts = checkpoints.read_seal(checkpoint)
    if facts is None:
        raise InputError(f"{checkpoint}: not a whole checkpoint; give a folder like RUN/checkpoints/checkpoint-100")
    encoder = _encoder_of(checkpoint)
    from bertsmith.corpus import Corpus

    run = read_yaml(checkpoint.parent.parent / "run.yaml")
    tokenizer = Corpus(run["data"]["corpus"]).tokenizer
    card = model_card(run, {"step": checkpoint.name.rpartition("-")[2], **facts["used"], "corpus": facts["corpus"]})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_model(encoder, tokenizer, out, card)
    return out


def _encoder_of(checkpoint: Path) -> PreTrainedModel:
    """Load the encoder inside an objective's checkpoint."""
    from safetensors.torch import load_file
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(checkpoint)
    encoder = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**config["encoder"]))
    weights = load_file(checkpoint / "model.safetensors")
    missing, unexpected = encoder.load_state_dict(
        {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")},
        strict=False,
    )
    tied = set(encoder.all_tied_weights_keys)
    assert not unexpected and set(missing) <= tied, (missing, unexpected)
    encoder.tie_weights()
    return encoder


def model_card(run: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Write the text of a model card.

    Args:
        run: The resolved run file.
        figures: What is known of the result; each becomes a line of the table.
    """
    origin = run["encoder"]["from_pretrained"]
    start = f"continued from `{origin}`" if origin else f"trained from scratch (preset `{run['encoder']['preset']}`)"
    lines = "\n".join(f"| {name} | {_cell(value)} |" for name, value in figures.items())
    settings = "\n".join(f"| {name} | `{value}` |" for name, value in run["objective"].items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [bertsmith, {run["objective"]["name"]}]
---
# An encoder pre-trained with bertsmith

A text encoder {start} with the objective `{run["objective"]["name"]}` on the corpus `{run["data"]["corpus"]}`,
in rows of {run["data"]["row_length"]} tokens.

```python
from transformers import pipeline
fill = pipeline("fill-mask", "path/to/this/folder")
```

| result | |
|---|---|
{lines}

| objective | |
|---|---|
{settings}

Validation figures are on held-out documents of the corpus. The pooler, where the architecture has one, is not trained
by this objective. The whole run is described by `run.yaml` beside this folder.
"""


def _cell(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
