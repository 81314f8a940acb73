"""The model folder: weights, config and tokenizer that every transformers Auto class opens, and a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging

from bertsmith.errors import Hindered, InputError, see_doctor
from bertsmith.files import new_folder, read_json, remove, settle
from bertsmith.markdown import code, plain
from bertsmith.objectives import OBJECTIVES, Objective
from bertsmith.objectives.base import HEAD, ObjectiveConfig
from bertsmith.pretrained import refuse_code
from bertsmith.training import checkpoints
from bertsmith.yaml_files import read_yaml

_POOLER_SEED = 0


def write_model(objective: Objective, tokenizer: Any, folder: Path, card: str, *, with_head: bool = False) -> None:
    """Write the model folder of an objective, whole or not at all, as :func:`write_folder` does.

    Architectures whose bare model has a pooler get one: the objective's, or else one that is initialised as usual and
    untrained, so that AutoModel gives the same output every time it opens the folder instead of a pooler that is random
    anew.

    Args:
        objective: The objective, whose encoder is written.
        tokenizer: Its tokenizer.
        folder: Where to.
        card: The text of README.md.
        with_head: Write the objective's own head too: in the architecture's ``...ForPreTraining`` model where that has
            such a head, otherwise in a file ``head.safetensors`` beside the model.

    Raises:
        InputError: The disk is full, or the folder cannot be written, or there is no head.
    """
    encoder = objective.encoder
    pooler = {**_untrained_pooler(encoder), **objective.pooler_weights()}
    weights = {**encoder.state_dict(), **pooler}
    if not with_head:
        write_folder(encoder, tokenizer, folder, card, weights, companions=objective.companions())
        return
    head = objective.head_weights()
    if not head:
        raise InputError("this objective has no head beside those that are always written; leave --head out")
    whole = objective.for_pretraining()
    if whole is not None:
        write_folder(whole, tokenizer, folder, card)
    else:
        write_folder(encoder, tokenizer, folder, card, weights, beside=head)


def write_folder(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    card: str,
    weights: Mapping[str, torch.Tensor] | None = None,
    beside: Mapping[str, torch.Tensor] | None = None,
    companions: Mapping[str, PreTrainedModel] | None = None,
) -> None:
    """Write model, tokenizer and card into a folder, whole or not at all.

    An existing one is replaced, and so is what a killed run has left under its name and ``.staging``: the folder is for
    one that is ours, such as a run's, or of :func:`bertsmith.files.new_folder`.

    Args:
        model: Any transformers model.
        tokenizer: Its tokenizer.
        folder: Where to.
        card: The text of README.md.
        weights: Other weights than the model's own.
        beside: Weights to write into ``head.safetensors`` beside the model.
        companions: Models to write, with the tokenizer, into folders of these names inside.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    staging = folder.with_name(folder.name + ".staging")
    remove(staging)
    try:
        model.save_pretrained(staging, state_dict=weights)
        tokenizer.save_pretrained(staging)
        if beside is not None:
            save_file({name: value.contiguous() for name, value in beside.items()}, staging / HEAD)
        for name, companion in (companions or {}).items():
            companion.save_pretrained(staging / name)
            tokenizer.save_pretrained(staging / name)
        (staging / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise Hindered(
            see_doctor(
                f"{folder}: the model could not be written ({str(error).splitlines()[0]}); nothing is lost: make room, "
                "and the same command goes on"
            )
        ) from None
    settle(staging)
    remove(folder)
    staging.rename(folder)


def _untrained_pooler(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    if encoder.base_model is encoder:
        # A bare model has its own.
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_POOLER_SEED)
        bare = AutoModel.from_config(encoder.config)
    prefix = encoder.base_model_prefix
    return {f"{prefix}.{name}": value for name, value in bare.state_dict().items() if name.startswith("pooler.")}


def export_checkpoint(checkpoint: str | Path, out: str | Path, *, with_head: bool = False) -> Path:
    """Write the encoder of a training checkpoint as a model folder.

    Args:
        checkpoint: A checkpoint folder of a run, or the run folder itself, meaning its newest whole checkpoint.
        out: The folder to write; it must not exist.
        with_head: See :func:`write_model`.

    Returns:
        The folder written.

    Raises:
        InputError: There is no whole checkpoint, or ``out`` exists or cannot be written.
    """
    with new_folder(Path(out), "--out") as folder:
        _write_checkpoint(Path(checkpoint), folder, with_head)
    return Path(out)


def _write_checkpoint(checkpoint: Path, folder: Path, with_head: bool) -> None:
    if (checkpoint / "checkpoints").is_dir():
        found = checkpoints.newest_whole(checkpoint / "checkpoints")
        if found is None:
            raise InputError(f"{checkpoint}: this run has no checkpoint yet")
        checkpoint = found[0]
    facts = checkpoints.read_seal(checkpoint)
    if facts is None:
        raise InputError(
            f"{checkpoint}: not a whole checkpoint; give a folder like RUN/checkpoints/checkpoint-100, or, of a "
            "fine-tuning, RUN/seed-0/model"
        )
    logging.disable_progress_bar()
    objective = objective_of(checkpoint)
    from bertsmith.corpus import Corpus

    run = read_yaml(checkpoint.parent.parent / "run.yaml")
    tokenizer = Corpus(run["data"]["corpus"]).tokenizer
    card = model_card(run, {"step": checkpoint.name.rpartition("-")[2], **facts["used"], "corpus": facts.get("corpus")})
    write_model(objective, tokenizer, folder, card, with_head=with_head)


def objective_of(checkpoint: Path) -> Objective:
    """Load the objective of a checkpoint."""
    refuse_code(str(checkpoint))
    config = ObjectiveConfig.from_pretrained(checkpoint)
    objective = OBJECTIVES[config.objective["name"]](config)
    missing, unexpected = objective.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
    tied = set(objective.all_tied_weights_keys)
    assert not unexpected and set(missing) <= tied, (missing, unexpected)
    for model in (objective.encoder, *objective.companions().values()):
        model.tie_weights()
    return objective


_NOT_SIZES = {"_name_or_path", "architectures", "dtype", "transformers_version"}
"""What a config says of where a model is from."""


def refuse_other_models(checkpoint: Path, objective: Objective) -> None:
    """Refuse to go on from a checkpoint with other models than those that were trained.

    Args:
        checkpoint: A whole checkpoint.
        objective: What its weights are to be loaded into, as it was made.

    Raises:
        InputError: What a model was begun from is gone or has come, or its config is another.
    """
    saved, made = read_json(checkpoint / "config.json"), json.loads(objective.config.to_json_string(use_diff=False))
    remedy = "or start over with --overwrite"
    for part in ("encoder", "generator"):
        before, now = saved.get(part, {}), made.get(part, {})
        earlier, origin = before.get("_name_or_path"), now.get("_name_or_path")
        if earlier != origin and not Path(earlier or "").exists():
            raise Hindered(f"{earlier}: is gone, and the {part} of {checkpoint} began from it; bring it back, {remedy}")
        if earlier != origin:
            raise Hindered(f"{origin}: the {part} of {checkpoint} did not begin from it; take it away, {remedy}")
        if before.get("transformers_version") != now.get("transformers_version"):
            continue  # which may have other fields, and other names for them
        for name in sorted(before.keys() - _NOT_SIZES):
            if before[name] != now.get(name):
                raise Hindered(
                    f"{origin or part}: its {name} was {before[name]!r} when {checkpoint} was trained, and is "
                    f"{now.get(name)!r}; bring back what the run began from, {remedy}"
                )


_FILL = """from transformers import pipeline
fill = pipeline("fill-mask", "path/to/this/folder")"""

_BARE = """from transformers import AutoModel
encoder = AutoModel.from_pretrained("path/to/this/folder")"""

_DISCRIMINATOR = """from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining
encoder = AutoModel.from_pretrained("path/to/this/folder")
discriminator = AutoModelForPreTraining.from_pretrained("path/to/this/folder")
generator = AutoModelForMaskedLM.from_pretrained("path/to/this/folder/generator")"""


def model_card(run: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Write the text of a model card.

    Args:
        run: The resolved run file.
        figures: What is known of the result; each becomes a line of the table.
    """
    origin = run["encoder"]["from_pretrained"]
    preset = run["encoder"]["preset"]
    start = f"continued from {code(origin)}" if origin else f"trained from scratch (preset {code(preset)})"
    lines = "\n".join(f"| {plain(name)} | {_cell(value)} |" for name, value in figures.items())
    settings = "\n".join(f"| {plain(name)} | {code(str(value))} |" for name, value in run["objective"].items())
    is_electra = run["objective"]["name"] == "electra"
    is_bare = run["objective"]["name"] == "cert" and not run["objective"]["mlm_weight"]
    is_trained = "trained by" if run["objective"]["name"] in ("nsp", "ssp") else "not trained by"
    short = run["training"].get("short_rows")
    begin = f", after a beginning in rows of {short['row_length']}" if short else ""
    pooler = f"The pooler, where the architecture has one, is {is_trained} this objective."
    return f"""---
library_name: transformers
pipeline_tag: {"feature-extraction" if is_electra or is_bare else "fill-mask"}
tags: [bertsmith, {run["objective"]["name"]}]
---
# An encoder pre-trained with bertsmith

A text encoder {start} with the objective `{run["objective"]["name"]}` on the corpus {code(run["data"]["corpus"])},
in rows of {run["data"]["row_length"]} tokens{begin}.

```python
{_DISCRIMINATOR if is_electra else _BARE if is_bare else _FILL}
```

| result | |
|---|---|
{lines}

| objective | |
|---|---|
{settings}

Validation figures are on held-out documents of the corpus. {pooler}
The whole run is described by `run.yaml` beside this folder.
"""


def _cell(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else plain(str(value))
