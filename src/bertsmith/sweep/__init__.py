"""Search for the settings of a run that give the best model, with Optuna: resumable, by any number of processes.

Each trial is a run of its own inside the sweep's folder, as `bertsmith pretrain` or `finetune` would do it. What has
been tried is in an SQLite file there, which all processes share; a trial that a kill left unfinished goes on from its
checkpoint. Unpromising trials end early: those that are worse at a validation than half of the others at that point.
"""

from bertsmith.errors import missing_package

try:
    import optuna as _optuna  # noqa: F401  # asked for here, once, for all modules of the folder
except ImportError as error:
    raise missing_package("bertsmith sweep needs Optuna", "sweep") from error

from bertsmith.sweep.search import sweep
from bertsmith.sweep.settings import SweepSettings, load_sweep

__all__ = ["SweepSettings", "load_sweep", "sweep"]
