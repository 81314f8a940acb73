"""How a model folder itself pools: what a fine-tuned model's config says, or a folder of sentence-transformers."""

from pathlib import Path
from typing import Any, get_args

from transformers import AutoConfig

from bertsmith.errors import InputError
from bertsmith.files import inside, read_json
from bertsmith.finetuning.models import PooledConfig, inner_config
from bertsmith.pooling import Pooling
from bertsmith.pretrained import open_pretrained

MODULES = "modules.json"
"""Is in every folder of sentence-transformers, and lists what follows the encoder."""

# What sentence-transformers before 5.4 wrote, each with true or false.
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


def own_pooling(origin: str) -> Pooling | None:
    """Say how a model's own embeddings are pooled.

    Args:
        origin: Folder or hub id of a model.

    Returns:
        The pooling, or None where nothing says it; of a hub id, only the config is asked.

    Raises:
        InputError: It cannot be opened, or its embeddings are made in a way that is not known here.
    """
    if (Path(origin) / MODULES).exists():
        return _of_modules(Path(origin))
    config = inner_config(open_pretrained(AutoConfig.from_pretrained, origin, "model", key="model"))
    return config.pooling if isinstance(config, PooledConfig) else None


def _of_modules(folder: Path) -> Pooling:
    try:
        modules = read_json(folder / MODULES)
        paths = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        values = read_json(inside(folder, paths["Pooling"]) / "config.json")
        modes = _modes(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / MODULES}: says nothing of a pooling; give --pooling") from None
    if others := paths.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise InputError(
            f"{folder / MODULES}: has a module {min(others)}, which bertsmith leaves out; give --pooling for "
            "embeddings of the encoder alone"
        )
    for pooling in get_args(Pooling):
        if modes == [pooling]:
            return pooling  # type: ignore[no-any-return]
    raise InputError(
        f"{folder / MODULES}: pools by {', '.join(modes) or 'nothing'}, and bertsmith by one of "
        f"{', '.join(get_args(Pooling))}; give --pooling"
    )


def _modes(values: dict[str, Any]) -> list[str]:
    if "pooling_mode" in values:
        mode = values["pooling_mode"]
        return [mode] if isinstance(mode, str) else list(mode)
    old = [name for name, value in values.items() if name.startswith("pooling_mode_") and value]
    return [_OLD_NAMES.get(name, name) for name in old]
