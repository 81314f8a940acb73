"""Imports point one way, down the pipe, and objectives know nothing of each other."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "bertsmith"

# From the source of the pipe to its mouth: a module may import those before it.
PIPE = [
    "errors", "terminal", "markdown", "files", "pretrained", "yaml_files", "settings", "randomness", "corpus",
    "tasks", "augment", "spans", "masking", "rows", "pairs", "views", "batching", "contrast", "pooling", "pooled",
    "ssa_settings", "ssa", "attention", "positions", "encoder", "electra_generator", "sampling", "detection",
    "objectives", "training", "short_rows", "run_settings", "gpu", "closing", "run_folder", "statistics", "plots",
    "results", "export", "pretraining", "finetuning", "sentence", "sweep", "report", "comparison", "fill", "show",
    "demo", "doctor", "command_words", "commands", "command_parser", "cli", "__main__",
]  # fmt: skip


def imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bertsmith."):
            names.add(node.module.removeprefix("bertsmith."))
        elif isinstance(node, ast.Import):
            names |= {name.name.removeprefix("bertsmith.") for name in node.names if name.name.startswith("bertsmith.")}
    return names


def test_imports_point_down_the_pipe() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        if room in ("__init__", "__main__"):
            continue
        for name in imported_by(path):
            if PIPE.index(name.split(".")[0]) > PIPE.index(room):
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert wrong == []


def test_every_module_has_a_place_in_the_pipe() -> None:
    assert {path.stem for path in SOURCE.iterdir() if path.name[0] not in "_." and path.name != "py.typed"} == {
        *PIPE
    } - {"__main__"}


def test_objectives_do_not_import_each_other() -> None:
    folder = SOURCE / "objectives"
    for path in folder.glob("*.py"):
        # pairs is no objective, but what those over pairs share; cert_rows is a part of cert.
        if path.stem not in ("__init__", "base"):
            shared = {"objectives.base", "objectives.collator", "objectives.pairs"}
            own = {"objectives.cert_rows"} if path.stem == "cert" else set()
            assert {name for name in imported_by(path) if name.startswith("objectives.")} <= shared | own
