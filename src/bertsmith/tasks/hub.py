"""Data sets of the ``datasets`` library: of the Hugging Face hub, or in a folder that ``save_to_disk`` wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError, first_line
from bertsmith.tasks.records import require

Splits = Mapping[str, Any]
"""``datasets.Dataset`` by the name of their split."""


def check_data(data: str, config: str | None) -> None:
    """Check that ``task.data`` is an existing folder, without a configuration, or may be an id of the hub.

    Raises:
        InputError: It is neither.
    """
    path = Path(data)
    if path.is_file():
        raise InputError(f"{data}: is a file; give a folder as task.data, or files as task.train and task.validation")
    if path.is_dir() and config:
        raise InputError(f"{data}: is a folder, and task.config {config!r} is for data sets of the hub; leave it out")
    if not path.is_dir() and (data.startswith((".", "/", "~")) or data.count("/") > 1):
        raise InputError(f"{data}: no such folder; give task.data a folder, or an id on the hub such as nyu-mll/glue")


def load_hub(data: str, config: str | None) -> Splits:
    """Load a data set from the hub, or from where it was downloaded to before.

    Raises:
        InputError: It cannot be reached, or there is none.
    """
    require("datasets", data)
    import datasets

    try:
        splits: Splits = datasets.load_dataset(data, config)
    except Exception as error:  # datasets', the client's and the network's own errors have no common class
        raise _unreachable(data, error) from error
    return splits


def config_names(data: str) -> list[str]:
    """List the configurations of a data set of the hub.

    Raises:
        InputError: It cannot be reached, or there is none.
    """
    import datasets

    try:
        return list(datasets.get_dataset_config_names(data))
    except Exception as error:  # as above
        raise _unreachable(data, error) from error


def _unreachable(data: str, error: Exception) -> InputError:
    return InputError(
        f"{data}: no such folder, and the hub gave no such data set ({first_line(error)}); "
        "check the id, task.config and the network, or download it and give the folder"
    )


def load_saved(folder: str) -> Splits:
    """Load a data set with its splits that ``save_to_disk`` wrote.

    Raises:
        InputError: The folder holds something else.
    """
    require("datasets", folder)
    import datasets

    try:
        splits: Splits = datasets.DatasetDict.load_from_disk(folder)
    except Exception as error:  # as above
        raise InputError(
            f"{folder}: holds no saved data set with splits ({first_line(error)}); "
            "name files with task.train and task.validation, or a known task with task.name"
        ) from error
    return splits
