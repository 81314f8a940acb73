"""The Markdown of the GPU benchmark, made of the content of its JSON file."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PEAK = 989e12
"""Floating-point operations a second that NVIDIA names for an H100 or H200: bf16, dense."""
TARGETS = {"small/512": 1.8e6, "base/512": 600e3, "base/128": 640e3, "large/512": 205e3}
"""Real tokens a second to reach, on an H200."""
FACTORS = {"base/pairs": 2.0, "base/mixed": 2.0, "small/pairs": 3.0, "small/mixed": 3.0}
"""So many times B-group, to reach."""
FORMS = ("ours", "B-best", "B-group", "ours, not compiled")

Content = Mapping[str, Any]


def report(content: Content) -> str:
    """Write everything that was measured so far."""
    machine = content["machine"]
    lines = [
        f"# On a GPU, {content['date']}",
        "",
        f"Machine: {machine['device']}, {machine['memory_gib']:.0f} GiB, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + ".",
        f"Command: `{content['command']}` ({content['seconds']:.0f} s).",
        f"Text, made up: {content.get('text', 'none yet')}.",
    ]
    found = content["measurements"]
    for part in (ceilings, training, profile, synchronisations, step_costs, quality, missing):
        if made := part(found):
            lines += ["", *made]
    return "\n".join(lines)


def first_round(found: Content, name: str) -> dict[str, Any] | None:
    rounds = found.get(name, {}).get("rounds")
    return rounds[0] if rounds else None


def ceilings(found: Content) -> list[str]:
    figures = first_round(found, "ceilings")
    if figures is None:
        return []
    shapes = ("gemm", "gemm_base")
    products = [
        f"{' × '.join(map(str, figures[f'{name}_shape']))} at {figures[f'{name}_flops_per_second'] / 1e12:,.1f} TFLOP/s"
        for name in shapes
    ]
    copied = figures["copy_bytes_per_second"] / 1e12
    return [f"Ceilings: matrix products in bf16 {', '.join(products)}; copying {copied:,.2f} TB/s, read and written."]


def training(found: Content) -> list[str]:
    """Lay out the runs, those of one setting together."""
    names = [name for name in found if name.count("/") == 2 and found[name]["rounds"]]
    if not names:
        return []
    ceiling = first_round(found, "ceilings")
    gemm = ceiling["gemm_flops_per_second"] if ceiling else None
    lines = [
        "| model/rows | form | real tokens/s, median (min–max) of rounds | ours / this | MFU of 989 TFLOP/s | "
        "of the measured product | peak GiB | first step, s | compilation, s | recompiles | graph breaks | "
        "micro-batch |",
        "|---" * 12 + "|",
    ]
    for setting in dict.fromkeys(name.rpartition("/")[0] for name in names):
        own = median_rate(found, f"{setting}/ours")
        for form in FORMS:
            if f"{setting}/{form}" in names:
                lines.append(row(setting, form, found[f"{setting}/{form}"]["rounds"], own, gemm))
    lines += [
        "",
        "ours: bertsmith pretrain, compiled, bf16, packed. B-group: transformers' Trainer with its collator as they "
        "come (fp32, TF32 off): blocks of all text, or for mixed lengths and pairs the very rows of ours, padded to "
        "the longest of a batch. B-best: that in bf16 with fused AdamW and data loader workers, compiled, or for mixed "
        "and pairs in batches of like lengths.",
        "",
        "MFU: the model's necessary operations, forward and backward, not those of padding, recomputation or unused "
        "logits. Compilation: what the warm-up took beyond its steps' usual time, in the first round.",
    ]
    return [*lines, *targets(found)]


def median_rate(found: Content, name: str) -> float | None:
    rounds = found.get(name, {}).get("rounds")
    return statistics.median(one["tokens_per_second"] for one in rounds) if rounds else None


def row(setting: str, form: str, rounds: Sequence[Mapping[str, Any]], own: float | None, gemm: float | None) -> str:
    rates = [one["tokens_per_second"] for one in rounds]
    middle = statistics.median(rates)
    flops = statistics.median(one["flops_per_second"] for one in rounds)
    first = rounds[0]
    cells = [
        setting,
        form,
        f"{middle:,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) of {len(rates)}",
        f"{own / middle:.2f}" if own else "–",
        f"{flops / PEAK:.1%}",
        f"{flops / gemm:.1%}" if gemm else "–",
        "–" if first["peak_gib"] is None else f"{max(one['peak_gib'] for one in rounds):.1f}",
        f"{first['first_step_seconds']:.1f}",
        f"{first['compile_seconds']:.1f}",
        f"{first['recompiles']}",
        f"{first['graph_breaks']}",
        f"{first['micro_tokens']:,}",
    ]
    return f"| {' | '.join(cells)} |"


def targets(found: Content) -> list[str]:
    """Say what is reached of what is to be reached."""
    lines = []
    for setting, least in TARGETS.items():
        if rate := median_rate(found, f"{setting}/ours"):
            lines.append(f"| {setting} | {least:,.0f} tokens/s | {rate:,.0f} tokens/s | {rate / least:.2f} |")
    for setting, least in FACTORS.items():
        rate, peer = median_rate(found, f"{setting}/ours"), median_rate(found, f"{setting}/B-group")
        if rate and peer:
            lines.append(f"| {setting} | {least:.0f} × B-group | {rate / peer:.2f} × | {rate / peer / least:.2f} |")
    return ["", "| target (H200) | to reach | reached | share |", "|---|---|---|---|", *lines] if lines else []


def profile(found: Content) -> list[str]:
    figures = first_round(found, "profile")
    if figures is None:
        return []
    return [
        f"Where a step of {figures['setting']} goes: it takes {figures['step_ms']:.1f} ms, of which the device is at "
        f"work for {figures['device_ms']:.1f} ms.",
        "",
        "| on the processor | ms a step |",
        "|---|---|",
        *(f"| {label} | {ms:.2f} |" for label, ms in figures["host_ms"].items()),
        "",
        "| on the device | ms a step | times a step |",
        "|---|---|---|",
        *(f"| `{shortened(one['name'])}` | {one['ms']:.3f} | {one['number']:.1f} |" for one in figures["kernels"]),
    ]


def shortened(name: str) -> str:
    """Leave the beginning of a kernel's name, which may be a page of template arguments."""
    return name.replace("|", "/")[:100]


def synchronisations(found: Content) -> list[str]:
    figures = first_round(found, "synchronisations")
    if figures is None:
        return []
    if figures["between_logged_rows"] is None:
        return ["Synchronisations: there is no GPU to wait for."]
    lines = [
        f"Synchronisations in {figures['steps']} steps of ours: {figures['between_logged_rows']} between logged rows "
        f"({figures['per_step']:.2f} a step), {figures['while_logging']} while logging.",
    ]
    return [*lines, "", *(f"- {number} × `{place}`" for place, number in figures["places"].items())]


def step_costs(found: Content) -> list[str]:
    figures = first_round(found, "step costs")
    if figures is None:
        return []
    lines = [
        "| step of a small model, not compiled | milliseconds, median (min–max) | real tokens | a token, of MLM's |",
        "|---|---|---|---|",
    ]
    for name, one in figures.items():
        if "error" in one:
            lines.append(f"| {name} | failed: {one['error'].replace('|', '/')} | | |")
            continue
        spread = f"{one['milliseconds']:.1f} ({one['least']:.1f}–{one['most']:.1f})"
        share = "–" if one["of_mlm"] is None else f"{one['of_mlm']:.2f}"
        lines.append(f"| {name} | {spread} | {one['tokens']:,} | {share} |")
    return lines


def quality(found: Content) -> list[str]:
    figures = first_round(found, "quality")
    if figures is None:
        return []
    return [
        f"Equal quality: mean loss of the last 20 of {figures['steps']} steps on the same rows and masks: ours "
        f"{figures['ours']:.4f}, stock model {figures['stock']:.4f}, difference {figures['difference']:.5f} "
        "(at most 0.01 allowed)."
    ]


def missing(found: Content) -> list[str]:
    """Name what was skipped and what failed, and what was said of compilation."""
    lines = [
        f"- {name}: skipped, {one['skipped']}" for name, one in found.items() if "skipped" in one and not one["rounds"]
    ]
    for name, one in found.items():
        if "error" in one:
            lines.append(f"- {name}: failed\n\n  ```\n{indented(one['error'])}\n  ```\n")
        for kind in ("recompile_reasons", "graph_break_reasons"):
            for reason in (one["rounds"] or [{}])[0].get(kind, ()):
                lines.append(f"- {name}: {kind.replace('_reasons', '').replace('_', ' ')}: `{reason}`")
    return lines


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def in_a_line(figures: Mapping[str, Any]) -> str:
    """Say the main figures of a measurement."""
    if "tokens_per_second" in figures:
        peak = "" if figures["peak_gib"] is None else f", {figures['peak_gib']:.1f} GiB"
        return (
            f"{figures['tokens_per_second']:,.0f} real tokens/s, MFU {figures['flops_per_second'] / PEAK:.1%}{peak}, "
            f"compilation {figures['compile_seconds']:.0f} s, {figures['recompiles']} recompiles"
        )
    if "device_ms" in figures:
        return f"{figures['step_ms']:.1f} ms a step, of which the device works {figures['device_ms']:.1f}"
    return ", ".join(
        f"{name} {value['milliseconds']:.1f} ms" if isinstance(value, Mapping) and "milliseconds" in value
        else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )  # fmt: skip
