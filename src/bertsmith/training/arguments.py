"""The arguments of transformers' Trainer that are the same for every run, and the machine it runs on."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from bertsmith import __version__
from bertsmith.errors import InputError
from bertsmith.settings import nearest

_OWN: dict[str, Any] = {
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    "ddp_find_unused_parameters": False,
    "ddp_broadcast_buffers": False,
}
_DEFAULTS = {"report_to": "none", "optim": "adamw_torch_fused", "adam_epsilon": 1e-6, "max_grad_norm": 1.0}
# Arguments that would do nothing, or work against a setting of ours, and what to use instead.
_REFUSED = {
    "lr_scheduler_type": "training.schedule",
    "lr_scheduler_kwargs": "training.schedule",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "fp16": "training.precision",
    "resume_from_checkpoint": "the same command again",
}
_NO_EFFECT = "has no effect, because bertsmith logs, validates and saves by its own settings"
# Arguments that nothing reads, or that would do harm, and why.
_UNFIT = {
    "save_only_model": "a run would go on from such checkpoints with a fresh optimiser",
    "ignore_data_skip": "a run that goes on would read rows again that it has had",
    "dataloader_in_order": "the order of the rows would be another each time",
    "dataloader_drop_last": "the last rows of validation would not count",
    **dict.fromkeys(("logging_steps", "logging_first_step", "save_steps", "save_total_limit"), _NO_EFFECT),
    **dict.fromkeys(("eval_steps", "eval_delay", "metric_for_best_model", "greater_is_better"), _NO_EFFECT),
    **dict.fromkeys(("prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "label_names"), _NO_EFFECT),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval", "do_train", "do_eval", "do_predict"), _NO_EFFECT),
}


def make_arguments(own: Mapping[str, Any], given: Mapping[str, Any], refused: Mapping[str, str]) -> TrainingArguments:
    """Make Trainer's arguments.

    Args:
        own: What the settings of the run say.
        given: What the user passes on, ``training.trainer``.
        refused: Arguments that the user cannot pass on in this kind of run, and what to use instead.

    Raises:
        InputError: The user passes on an argument that is unknown, wrong or not to be set.
    """
    own = {**own, **_OWN}
    check_given(own, given, refused)
    try:
        args = TrainingArguments(**own, **{**_DEFAULTS, **given})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"training.trainer: {str(error).strip().splitlines()[0]}") from None
    _check_trackers(args.report_to)
    if args.n_gpu > 1:
        # Without torchrun, Trainer would split every batch over all GPUs in one process.
        args._n_gpu = 1
    return args


def check_given(own: Mapping[str, Any], given: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Check what a user passes on by name and type; arguments and errors as for :func:`make_arguments`."""
    for name in given:
        if instead := {**_REFUSED, **refused}.get(name):
            raise InputError(f"training.trainer.{name}: use {instead} instead")
        if reason := _UNFIT.get(name):
            raise InputError(f"training.trainer.{name}: {reason}; remove it")
        if name in own:
            raise InputError(f"training.trainer.{name}: bertsmith sets this itself; remove it")
        if name not in TrainingArguments.__dataclass_fields__:
            names = list(TrainingArguments.__dataclass_fields__)
            hint = nearest(name, names)
            hint = hint if hint.startswith("did") else "see transformers.TrainingArguments"
            raise InputError(f"training.trainer: unknown key {name!r}; {hint}")
        # Declared as text, though true is what switches it on.
        if name != "fsdp" or not isinstance(given[name], bool):
            _check_type(name, given[name])


def _check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown or not installed: Trainer does so only once it has begun."""
    try:
        for tracker in get_reporting_integration_callbacks(names):
            tracker()
    except (ValueError, RuntimeError, ImportError, AssertionError) as error:
        raise InputError(f"training.trainer.report_to: {' '.join(str(error).split())}; correct it") from None


def _check_type(name: str, value: Any) -> None:
    try:
        kind = get_type_hints(TrainingArguments)[name]
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"training.trainer.{name}: {reason[0].lower()}{reason[1:]}, found {value!r}") from None


def use_bf16(precision: str) -> bool:
    """Decide whether to compute in bf16: as told, or with "auto" where the hardware has it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        # Emulated, it is slower than fp32 here too.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions it is emulated.
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(torch.cpu._is_avx512_bf16_supported())


def machine(args: TrainingArguments) -> dict[str, Any]:
    """Describe the machine of a run, for its summary."""
    return {
        "processor": torch.cuda.get_device_name() if args.device.type == "cuda" else platform.processor() or "CPU",
        "cores": os.cpu_count(),
        "ranks": args.world_size,
        "precision": "bf16" if args.bf16 else "fp32",
    }


def versions() -> dict[str, str]:
    """Name the versions that a run was made with."""
    others = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    return {"bertsmith": __version__, **others}
