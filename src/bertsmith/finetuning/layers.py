"""Layers by their depth: which are frozen, and at which rate each of the others learns."""

import re

import torch
from transformers import PreTrainedModel

from bertsmith.errors import InputError
from bertsmith.training.trainer import ObjectiveTrainer


def layer_depths(model: PreTrainedModel) -> dict[str, int]:
    """Number the parameters of a model: embeddings 0, layers from 1, the head and all else layers + 2, as in ELECTRA.

    Raises:
        InputError: The parameters of its layers cannot be told apart.
    """
    body = {id(parameter) for parameter in model.base_model.parameters()}
    parameters = dict(model.named_parameters())
    names = list(parameters)
    layers = {name: int(found[1]) for name in names if (found := re.search(r"\.layers?\.(\d+)\.", name))}
    if not layers:
        raise InputError(
            f"training: the layers of architecture {model.base_model.config.model_type!r} share their weights or have "
            "unknown names; set layer_decay to 1 and frozen_layers to 0"
        )
    # The last layer has the index layers - 1.
    top = max(layers.values()) + 3
    return {
        name: layers[name] + 1 if name in layers else 0 if id(parameters[name]) in body and "embed" in name else top
        for name in names
    }


def freeze(model: PreTrainedModel, num_layers: int, probe: bool) -> None:
    """Exclude the embeddings and the first layers, or with ``probe`` the whole encoder, from training.

    Raises:
        InputError: The encoder has fewer layers, or they cannot be told apart.
    """
    if probe:
        for name, parameter in model.base_model.named_parameters():
            # BERT's pooler belongs to the head, and may be as new as the rest of it.
            parameter.requires_grad_("pooler" in name)
    elif num_layers:
        depths = layer_depths(model)
        if num_layers > max(depths.values()) - 2:
            raise InputError(
                f"training.frozen_layers is {num_layers}, but the encoder has {max(depths.values()) - 2} layers; "
                "lower it, or set linear_probe to freeze them all"
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(depths[name] > num_layers)


def layerwise_optimizer(trainer: ObjectiveTrainer, decay: float) -> torch.optim.Optimizer:
    """Make Trainer's own optimizer with a learning rate that falls by a factor from each layer to the one below it.

    As in ELECTRA's code, lr(depth) = lr * decay^(layers + 2 - depth) with the embeddings at depth 0, the layers from 1
    and the head at layers + 2, so that the last layer is two factors below the head.
    """
    model = trainer.objective.encoder
    depths = layer_depths(model)
    decayed = set(trainer.get_decay_parameter_names(model))
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths[name], name in decayed), []).append(parameter)
    optimizer, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    made: torch.optim.Optimizer = optimizer(
        [
            {
                "params": parameters,
                "lr": trainer.args.learning_rate * decay ** (top - depth),
                "weight_decay": trainer.args.weight_decay if is_decayed else 0.0,
            }
            for (depth, is_decayed), parameters in groups.items()
        ],
        **options,
    )
    return made
