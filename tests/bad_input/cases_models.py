"""Mistakes in what fill, show, export and report are given."""

from pathlib import Path

from cases_runs import RUN, TASKS
from world import Case, copied, edited, piped, without_role


def _run(here: Path, world: Path) -> None:
    """Make a run folder without a checkpoint."""
    (here / "r" / "checkpoints").mkdir(parents=True)
    (here / "r" / "run.yaml").write_text("# Written by bertsmith: every setting of the run in this folder.\n" + RUN)


def comparison(name: str, **values: object) -> Case:
    return Case(f"report: {name}", "report copy", make=edited("comparison", "comparison.json", **values))


# fmt: off
CASES: list[Case] = [
    # fill
    Case("fill: no model", "fill"),
    Case("fill: no text", "fill {model}"),
    Case("fill: no mask", "fill {model} 'ba be'"),
    Case("fill: a text without a mask among others", "fill {model} 'ba [MASK]' 'ba be'"),
    Case("fill: an empty text", "fill {model} ''"),
    Case("fill: model is missing", "fill ./gone 'ba [MASK]'"),
    Case("fill: model is a file", "fill a.txt 'ba [MASK]'", files={"a.txt": "mine"}),
    Case("fill: model is a run", "fill r 'ba [MASK]'", make=_run),
    Case("fill: model is an empty folder", "fill . 'ba [MASK]'"),
    Case("fill: a model without a vocabulary head", "fill {plain} 'ba [MASK]'"),
    Case("fill: a classifier", "fill {classifier} 'ba [MASK]'"),
    Case("fill: a model without config", "fill copy 'ba [MASK]'", make=copied("model", "config.json")),
    Case("fill: a damaged config", "fill copy 'ba [MASK]'", make=copied("model", config__json="{")),
    Case("fill: a pipe for a config", "fill copy 'ba [MASK]'", make=piped("model", "config.json")),
    Case("fill: a config that is a list", "fill copy 'ba [MASK]'", make=copied("model", config__json="[]")),
    Case("fill: a config whose class is a number", "fill copy 'ba [MASK]'", make=edited("model", "config.json", architectures=[1])),
    Case("fill: a tokenizer of no length", "fill copy 'ba [MASK]'", make=edited("model", "tokenizer_config.json", model_max_length={})),
    Case("fill: damaged weights", "fill copy 'ba [MASK]'", make=copied("model", model__safetensors=b"no weights")),
    Case("fill: no weights", "fill copy 'ba [MASK]'", make=copied("model", "model.safetensors")),
    Case("fill: no tokenizer", "fill copy 'ba [MASK]'", make=copied("model", "tokenizer.json", "tokenizer_config.json")),
    Case("fill: a damaged tokenizer", "fill copy 'ba [MASK]'", make=copied("model", tokenizer__json="{}")),
    Case("fill: a tokenizer without a mask", "fill copy 'ba [MASK]'", make=without_role),
    Case("fill: a text beyond the model", f"fill {{model}} '{'ba ' * 99}[MASK]'"),
    Case("fill: no proposals", "fill {model} 'ba [MASK]' --top 0"),
    Case("fill: proposals in words", "fill {model} 'ba [MASK]' --top few"),
    Case("fill: more proposals than tokens", "fill {model} 'ba [MASK]' --top 9999"),
    Case("fill: file is missing", "fill {model} --file gone.txt"),
    Case("fill: file is a folder", "fill {model} --file ."),
    Case("fill: file is empty", "fill {model} --file a.txt", files={"a.txt": ""}),
    Case("fill: file is blank", "fill {model} --file a.txt", files={"a.txt": "\n \n"}),
    Case("fill: file is Latin-1", "fill {model} --file a.txt", files={"a.txt": b"caf\xe9 [MASK]\n"}),
    Case("fill: file is UTF-16", "fill {model} --file a.txt", files={"a.txt": "ba [MASK]\n".encode("utf-16")}),
    Case("fill: a line without a mask", "fill {model} --file a.txt", files={"a.txt": "ba [MASK]\nba be\n"}),
    # show
    Case("show: nothing", "show"),
    Case("show: is missing", "show gone.yaml"),
    Case("show: no YAML", "show run.yaml", files={"run.yaml": "data: ["}),
    Case("show: the corpus is missing", "show run.yaml --data.corpus gone", files={"run.yaml": RUN}),
    Case("show: no rows", "show run.yaml --rows 0", files={"run.yaml": RUN}),
    Case("show: rows in words", "show run.yaml --rows all", files={"run.yaml": RUN}),
    Case("show: a page of a run file", "show run.yaml --out a.html", files={"run.yaml": RUN}),
    Case("show: a run file against a model", "show run.yaml --against {model}", files={"run.yaml": RUN}),
    Case("show: rows beyond reason", "show run.yaml --data.row_length 2", files={"run.yaml": RUN}),
    Case("show: a model without ssa", "show {classifier} --task.validation v.csv", files={"v.csv": "text,label\nba,bad\nbe,good\n"}),
    Case("show: a model without a task", "show {classifier}"),
    Case("show: a model that is nowhere", "show org/gone --task.validation v.csv", files={"v.csv": "text,label\nba,bad\nbe,good\n"}),
    Case("show: an empty folder", "show e --task.validation valid.csv", files=TASKS, make=lambda here, world: (here / "e").mkdir()),
    # export
    Case("export: nothing", "export"),
    Case("export: no out", "export {model}"),
    Case("export: is missing", "export gone --out out"),
    Case("export: is a file", "export a.txt --out out", files={"a.txt": "mine"}),
    Case("export: an empty folder", "export e --out out", make=lambda here, world: (here / "e").mkdir()),
    Case("export: a run without a checkpoint", "export r --out out", make=_run),
    Case("export: a corpus", "export {corpus} --out out"),
    Case("export: a damaged config", "export copy --out out", make=copied("classifier", config__json="{")),
    Case("export: a pipe for a config", "export copy --out out", make=piped("classifier", "config.json")),
    Case("export: a config that is a list", "export copy --out out", make=copied("classifier", config__json="[]")),
    Case("export: damaged weights", "export copy --out out", make=copied("classifier", model__safetensors=b"no")),
    Case("export: weights lacking", "export copy --out out", make=copied("classifier", "model.safetensors")),
    Case("export: no tokenizer", "export copy --out out", make=copied("classifier", "tokenizer.json", "tokenizer_config.json")),
    Case("export: out is a file", "export {classifier} --out a.txt", files={"a.txt": "mine"}),
    Case("export: out below a file", "export {classifier} --out a.txt/b", files={"a.txt": "mine"}),
    Case("export: out holds other files", "export {classifier} --out o", files={"o/thesis.tex": "mine"}),
    Case("export: out is the model itself", "export copy --out copy", make=copied("classifier")),
    Case("export: out holds the model", "export o/copy --out o", make=lambda here, world: (copied("classifier")(here, world), (here / "o").mkdir(), (here / "copy").rename(here / "o" / "copy"))),
    Case("export: pooling without sentence", "export {model} --out out --pooling mean"),
    Case("export: normalize without sentence", "export {model} --out out --normalize"),
    Case("export: a head with sentence", "export {model} --out out --sentence --head"),
    Case("export: a head of a fine-tuned model", "export {classifier} --out out --head"),
    Case("export: no such pooling", "export {model} --out out --sentence --pooling median"),
    Case("export: sentence of nothing", "export gone --out out --sentence"),
    Case("export: sentence of an empty folder", "export e --out out --sentence", make=lambda here, world: (here / "e").mkdir()),
    Case("export: sentence into other files", "export {model} --out o --sentence", files={"o/thesis.tex": "mine"}),
    Case("export: sentence into a file", "export {model} --out a.txt --sentence", files={"a.txt": "mine"}),
    Case("export: sentence of damaged weights", "export copy --out out --sentence", make=copied("model", model__safetensors=b"no")),
    Case("export: sentence without a tokenizer", "export copy --out out --sentence", make=copied("model", "tokenizer.json", "tokenizer_config.json")),
    # report
    Case("report: nothing", "report"),
    Case("report: is missing", "report gone"),
    Case("report: is a file", "report a.txt", files={"a.txt": "mine"}),
    Case("report: no comparison", "report e", make=lambda here, world: (here / "e").mkdir()),
    Case("report: of a corpus", "report {corpus}"),
    Case("report: cut short", "report copy", make=copied("comparison", comparison__json='{"title": "t", ')),
    Case("report: empty", "report copy", make=copied("comparison", comparison__json="")),
    Case("report: a list", "report copy", make=copied("comparison", comparison__json="[]")),
    Case("report: UTF-16", "report copy", make=copied("comparison", comparison__json="{}".encode("utf-16"))),
    Case("report: too deep", "report copy", make=copied("comparison", comparison__json="[" * 100_000)),
    Case("report: a folder for the file", "report o", files={"o/comparison.json/a.txt": "x"}),
    comparison("no arms", arms=[]),
    comparison("arms in words", arms="many"),
    comparison("a budget in words", budget={"tokens": "many"}),
    comparison("scores of nothing", scores=[{}]),
    comparison("no tasks", tasks=[]),
    Case("report: half a pair of surrogates", "report copy", make=edited("comparison", "comparison.json", title="\ud800")),
]
# fmt: on
