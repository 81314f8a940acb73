"""The model that is fine-tuned: a stock transformers model with its own head, or a head over pooled hidden states.

With ``pooling: cls`` and for question answering it is the stock model that ``AutoModelForSequenceClassification`` or
``AutoModelForQuestionAnswering`` gives, so that it opens everywhere. With ``mean`` or ``max`` it is
:class:`bertsmith.pooled.PooledClassifier`, which the same Auto class opens once this module is imported;
with ``ssa`` either of them is inside a :class:`bertsmith.ssa.SsaForSequenceClassification`, of which the same holds.
"""

import inspect
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from bertsmith.attention import ATTENTION_DROPOUT
from bertsmith.encoder import num_positions
from bertsmith.errors import InputError
from bertsmith.export import write_folder
from bertsmith.pooled import PooledClassifier, PooledConfig
from bertsmith.pooling import Pooling
from bertsmith.pretrained import TOKENIZER_FILES, num_ids, open_pretrained, reason
from bertsmith.ssa import SsaConfig, SsaForSequenceClassification, add_layer, special_ids
from bertsmith.ssa_settings import SsaSettings
from bertsmith.tasks.examples import TaskType

# What the architectures call their dropout rates.
_HIDDEN_DROPOUT = ("hidden_dropout_prob", "dropout", "hidden_dropout", "embedding_dropout", "mlp_dropout")
_HEAD_DROPOUT = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "qa_dropout")


# The first parts of the names of layers that only fine-tuned models have.
_HEADS = ("classifier", "pre_classifier", "qa_outputs")


def _config_of_encoder(config: Any) -> Any:
    """Take the config of the encoder out of those that have it inside."""
    config = inner_config(config)
    return _inside(config, "encoder") if isinstance(config, PooledConfig) else config


def inner_config(config: Any) -> Any:
    """Take the config of the classifier out of that of self-supervised attention; others are returned as they are.

    Raises:
        InputError: It is damaged.
    """
    return _inside(config, "classifier") if isinstance(config, SsaConfig) else config


def _inside(config: Any, name: str) -> Any:
    try:
        return AutoConfig.for_model(**config.to_dict()[name])
    except Exception as error:  # TypeError, ValueError and those of fields, by what is wrong in it
        raise InputError(f"model: `{name}` in the config.json of {config.name_or_path}: {reason(error)}") from None


def open_tokenizer(origin: str) -> Any:
    """Open the tokenizer of a model.

    Raises:
        InputError: There is none, or it lacks the padding token, or is of another model.
    """
    _check_folder(origin)
    if Path(origin).is_dir() and not any((Path(origin) / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"model: {origin} has no tokenizer; put the one it was trained with into the folder")
    tokenizer = open_pretrained(AutoTokenizer.from_pretrained, origin, "tokenizer", key="model")
    # From a folder without vocabulary transformers makes a tokenizer that knows nothing but special tokens.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InputError(f"model: {origin} has no tokenizer; put the one it was trained with into the folder")
    if tokenizer.pad_token_id is None:
        raise InputError(f"model: the tokenizer of {origin} has no padding token; set pad_token in its config")
    config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model")
    config = _config_of_encoder(config)
    if num_ids(tokenizer) > config.vocab_size:
        raise InputError(
            f"model: {origin} has {config.vocab_size:,} token embeddings, fewer than the {num_ids(tokenizer):,} tokens "
            "of its tokenizer; put the tokenizer it was trained with into the folder"
        )
    return tokenizer


def _check_folder(origin: str) -> None:
    """Point to the model that is inside of a run folder, or of an older folder of sentence-transformers."""
    folder = Path(origin)
    if (folder / "config.json").exists():
        return
    for found in (folder / "model", *sorted(folder.glob("seed-*/model")), *sorted(folder.glob("?_Transformer"))):
        if (found / "config.json").exists():
            is_run = found.name == "model"
            what = "run folder; give its model" if is_run else "folder of sentence-transformers; give its encoder"
            raise InputError(f"model: {origin} is a {what}, {found}")


def build_model(
    origin: str,
    *,
    type: TaskType,
    labels: Sequence[str],
    pooling: Pooling,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    probe: bool = False,
    from_scratch: bool = False,
) -> PreTrainedModel:
    """Make the model to fine-tune, its head new (drawn from torch's global random state), ready for the CPU in fp32.

    Args:
        origin: Folder or hub id of an encoder, whatever it was trained for.
        type: What is predicted.
        labels: Names of the classes; empty for other types.
        pooling: How hidden states become one vector; of no effect for question answering.
        dropout: Rate in the encoder and before the head; None for what the model's config says.
        attention_dropout: Rate in attention; None for what the model's config says.
        probe: The encoder is not trained, so there is dropout before the head only.
        from_scratch: Take the architecture alone, with new weights.

    Raises:
        InputError: The model cannot be opened, or has not the layers that its config says.
    """
    config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model")
    is_own = isinstance(config, PooledConfig | SsaConfig)
    config = _config_of_encoder(config)
    _set(config, _HIDDEN_DROPOUT, 0.0 if probe else dropout)
    _set(config, ATTENTION_DROPOUT, 0.0 if probe else attention_dropout)
    _set(config, _HEAD_DROPOUT, dropout)
    head = _head_settings(type, labels)
    is_new = from_scratch or is_own
    if type != "question_answering" and pooling != "cls":
        encoder = _load(AutoModel, origin, config, is_new)
        rate = _known_dropout(config) if dropout is None else dropout
        pooled = PooledConfig(encoder=encoder.config.to_dict(), pooling=pooling, head_dropout=rate, **head)
        model: PreTrainedModel = PooledClassifier(pooled, encoder)
    else:
        for name, value in head.items():
            setattr(config, name, value)
        if "classifier_pooling" in config.to_dict():
            config.classifier_pooling = "cls"
        is_qa = type == "question_answering"
        auto = AutoModelForQuestionAnswering if is_qa else AutoModelForSequenceClassification
        model = _load(auto, origin, config, is_new)
    if is_own and not from_scratch:
        # Other classes do not know its names; one that pools by itself has no pooler.
        weights = open_finetuned(origin, "classification").base_model.state_dict()
        model.base_model.load_state_dict(weights, strict=False)
    return model


def add_attention(
    model: PreTrainedModel, ssa: SsaSettings, origin: str, type: TaskType, tokenizer: Any
) -> SsaForSequenceClassification:
    """Put self-supervised attention on a classifier that was made from ``origin``, which may have it too.

    Raises:
        InputError: The saved layer is to be used, and there is none, or it is of another kind or for other classes.
    """
    made = add_layer(model, ssa, special_ids(tokenizer), longest_input(model.base_model.config, tokenizer))
    if ssa.use_saved:
        config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model")
        if not isinstance(config, SsaConfig):
            raise InputError(f"ssa.use_saved is true, but {origin} was not trained with ssa; leave it out")
        for what, theirs, ours in (
            # A row of the classifier is a class, whatever its name.
            ("the labels", list(config.id2label.values()), list(made.config.id2label.values())),
            ("pooling", _pooling_of(config), _pooling_of(made.config)),
            ("ssa.share_weight", config.share_weight, made.config.share_weight),
            # Which one head for all positions does not depend on.
            ("a longest input of", *(not each.share_weight and each.num_positions for each in (config, made.config))),
        ):
            if theirs != ours:
                raise InputError(
                    f"ssa.use_saved is true, but {origin} was trained with {what} {theirs!r:.150}, and not "
                    f"{ours!r:.150}; give it what it had, or leave use_saved out"
                )
        made.load_state_dict(open_finetuned(origin, type).state_dict())
    return made


def _pooling_of(config: SsaConfig) -> Pooling:
    classifier = inner_config(config)
    return classifier.pooling if isinstance(classifier, PooledConfig) else "cls"


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path, card: str) -> None:
    """Write a fine-tuned model, so that its tokenizer gives it no token types where it does not take them.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    if not takes_types(model):
        tokenizer = copy(tokenizer)
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    write_folder(model, tokenizer, folder, card)


def open_finetuned(origin: str, type: TaskType) -> PreTrainedModel:
    """Open a model that was fine-tuned for a type of task.

    Raises:
        InputError: It cannot be opened, or has no trained head of this type.
    """
    auto = AutoModelForQuestionAnswering if type == "question_answering" else AutoModelForSequenceClassification
    config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model")
    # The heads of some architectures have the same names and shapes, whatever they were trained for.
    classes = config.architectures or []
    if not isinstance(classes, list):
        raise InputError(
            f"{origin}: its config.json has {classes!r:.60} as architectures, not a list of names; mend it"
        )
    if type != "question_answering" and any(name.endswith("ForQuestionAnswering") for name in classes):
        raise InputError(f"{origin}: was fine-tuned for question answering, and not for {type}")
    is_classifier = any(name.endswith("ForSequenceClassification") for name in classes)
    if type == "question_answering" and (is_classifier or isinstance(config, PooledConfig | SsaConfig)):
        kind = "regression" if config.problem_type == "regression" else "classification"
        raise InputError(f"{origin}: was fine-tuned for {kind}, and not for question answering")
    model, missing = _open_weights(auto, origin, config)
    if missing:
        raise InputError(
            f"{origin}: has no trained head for {type.replace('_', ' ')} ({missing[0]} is missing); "
            "fine-tune it first with bertsmith finetune, or give the `model` folder of a fine-tuned seed"
        )
    return model.eval()


def open_encoder(origin: str) -> PreTrainedModel:
    """Open an encoder without a head, for embeddings.

    Raises:
        InputError: It cannot be opened.
    """
    config = open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model")
    if isinstance(config, PooledConfig | SsaConfig):
        model: PreTrainedModel = open_finetuned(origin, "classification").base_model
        return model
    return _load(AutoModel, origin, config, is_new=False).eval()


def takes_types(model: PreTrainedModel) -> bool:
    """Whether a model tells the first text from the second by token types; RoBERTa takes them, but has only one."""
    encoder = model.base_model
    num_types = encoder.config.to_dict().get("type_vocab_size", 2)
    return num_types > 1 and "token_type_ids" in inspect.signature(encoder.forward).parameters


def longest_input(config: Any, tokenizer: Any) -> int:
    """Say how many tokens a model can take."""
    config = _config_of_encoder(config)
    known = "max_position_embeddings" in config.to_dict()
    # A tokenizer without a limit has a huge one.
    return min(num_positions(config) if known else 512, int(min(tokenizer.model_max_length, 10**6)))


def _known_dropout(config: Any) -> float:
    """Say what a config has for the dropout before the head: its own rate, else that of hidden states."""
    known = config.to_dict()
    rates = (known.get(name) for name in (*_HEAD_DROPOUT, *_HIDDEN_DROPOUT))
    return next((float(rate) for rate in rates if rate is not None), 0.0)


def _set(config: Any, names: Sequence[str], value: float | None) -> None:
    known = config.to_dict()
    for name in names:
        if value is not None and name in known:
            setattr(config, name, value)


def _head_settings(type: TaskType, labels: Sequence[str]) -> dict[str, Any]:
    """Give the config fields by which pipelines know what a model predicts."""
    match type:
        case "classification":
            return {
                "id2label": dict(enumerate(labels)),
                "label2id": {label: number for number, label in enumerate(labels)},
                "problem_type": "single_label_classification",
            }
        case "regression":
            return {"id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression"}
        case "question_answering":
            return {"num_labels": 2}


def _load(auto: Any, origin: str, config: Any, is_new: bool) -> PreTrainedModel:
    if is_new:
        made: PreTrainedModel = auto.from_config(config)
        return made
    model, new = _open_weights(auto, origin, config)
    for name, module in model.named_modules():
        # A checkpoint that was fine-tuned before brings a head that was trained for another task.
        if name.split(".")[0] in _HEADS and isinstance(module, nn.Linear) and f"{name}.weight" not in new:
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return model


def _open_weights(auto: Any, origin: str, config: Any) -> tuple[PreTrainedModel, list[str]]:
    """Open a model and say which parameters of its head are new.

    Raises:
        InputError: Layers of the encoder itself would be new, which a user would take for those of the checkpoint.
    """
    verbosity = logging.get_verbosity()
    # What the report would say is checked here.
    logging.set_verbosity_error()
    try:
        model, report = open_pretrained(
            auto.from_pretrained, origin, "model", key="model",
            config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    finally:
        logging.set_verbosity(verbosity)
    new = _new_parameters(model, report)
    is_bare = model.base_model is model
    broken = [
        name for name in new if (is_bare or name.startswith(f"{model.base_model_prefix}.")) and "pooler" not in name
    ]
    if broken:
        raise InputError(
            f"model: {origin} does not have the layers that its config says ({broken[0]} is missing); is it whole?"
        )
    return model, new


def _new_parameters(model: PreTrainedModel, report: Mapping[str, Any]) -> list[str]:
    mismatched = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]]
    return sorted(name for name in [*report["missing_keys"], *mismatched] if name not in model.all_tied_weights_keys)
