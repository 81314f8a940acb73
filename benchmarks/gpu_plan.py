"""What the GPU benchmark measures, in the order of importance, and how long each may take.

What a target asks for comes first, and of that what no GPU has measured yet; `gpu.py --merge` adds what one has.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gpu_profile
import gpu_runs
import gpu_steps
from gpu_bench import Bench, Figures, Scale, Setting

# What each takes on an H200 at the most, model and compilation included, in seconds.
ESTIMATES: dict[str, dict[str, float]] = {
    "small": {"ours": 25, "B-best": 40, "B-group": 30},
    "base": {"ours": 35, "B-best": 60, "B-group": 45},
    "large": {"ours": 100, "B-best": 140, "B-group": 90},
    # On a CPU that has more to do.
    "tiny": {"ours": 30, "B-best": 30, "B-group": 30},
}
STEP_COSTS, QUALITY, CEILINGS = 45, 45, 15


@dataclass(frozen=True)
class Measurement:
    """Something to measure.

    Attributes:
        name: Of it.
        estimate: Seconds that it takes at the most.
        run: Measures.
        repeats: Whether there is more to learn from measuring it again.
    """

    name: str
    estimate: float
    run: Callable[[Bench], Figures]
    repeats: bool = False


def training(setting: Setting, *forms: str) -> list[Measurement]:
    """Plan the training of a setting in some forms."""

    def run_of(form: str) -> Callable[[Bench], Figures]:
        return lambda bench: gpu_runs.run(bench, setting, form)

    return [
        Measurement(f"{setting.name}/{form}", ESTIMATES[setting.preset][form], run_of(form), repeats=True)
        for form in forms or gpu_runs.FORMS
    ]


def make_plan(scale: Scale) -> list[Measurement]:
    """Plan everything for the presets of a scale, the most valuable first."""
    small, base, large = (scale.presets * 3)[:3]
    first, second = scale.row_lengths
    watched = Setting(small, "full", first)

    def full(preset: str, length: int) -> Setting:
        return Setting(preset, "full", length)

    def short(preset: str, rows: str) -> Setting:
        return Setting(preset, rows, scale.short)

    plan = [
        Measurement("ceilings", CEILINGS, gpu_steps.ceilings),
        Measurement("profile", ESTIMATES[small]["ours"], lambda bench: gpu_profile.profile(bench, watched)),
        *training(short(small, "pairs"), "ours", "B-group"),
        *training(short(small, "mixed"), "ours", "B-group"),
        *training(full(base, second), "ours"),
        Measurement("step costs", STEP_COSTS, gpu_steps.step_costs),
        Measurement(
            "synchronisations", ESTIMATES[small]["ours"], lambda bench: gpu_steps.synchronisations(bench, watched)
        ),
        Measurement("quality", QUALITY, lambda bench: gpu_steps.quality(bench, full(small, scale.short))),
        *training(full(large, first), "ours"),
        *training(short(base, "pairs"), "ours", "B-group"),
        *training(short(base, "mixed"), "ours", "B-group"),
        *training(full(small, first), "ours"),
        *training(full(base, first), "ours", "B-group"),
        *training(full(small, first), "B-best", "B-group"),
        *training(full(base, second), "B-group", "B-best"),
        *training(short(small, "pairs"), "B-best"),
        *training(short(small, "mixed"), "B-best"),
        *training(full(base, first), "B-best"),
        *training(short(base, "pairs"), "B-best"),
        *training(short(base, "mixed"), "B-best"),
        *training(full(small, second)),
        *training(full(large, first), "B-best", "B-group"),
        *training(full(large, second)),
        Measurement(
            f"{base}/{first}/ours, not compiled",
            ESTIMATES[base]["ours"],
            lambda bench: gpu_runs.run(bench, full(base, first), "ours", compile=False),
        ),
    ]
    # On a CPU the models are one and the same.
    return list({one.name: one for one in plan}.values())
