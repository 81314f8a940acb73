"""Mistakes in the run files of pretrain, sweep and compare, and in what they name."""

from pathlib import Path

import yaml
from world import Case, copied, edited, piped

from bertsmith.run_folder import prepare

RUN = """data: {corpus: "{corpus}", row_length: 16, validation: 0.1}
encoder: {preset: tiny, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, max_position_embeddings: 32}
objective: {name: mlm}
training: {budget: {steps: 2}, tokens_per_step: 256}
output: out
"""
TRAIN = "text,label\nba be,a\nbi bo,b\nbu da,a\nde di,b\n"
TASKS = {"train.csv": TRAIN, "valid.csv": TRAIN}
FINETUNE = """model: "{model}"
task: {train: train.csv, validation: valid.csv}
seeds: [0]
training: {epochs: 1, batch_size: 2, learning_rate: 1e-3}
output: out
"""
SWEEP = "run: run.yaml\nsearch: {training.learning_rate: [1e-3, 1e-2]}\ntrials: 2\noutput: out\n"
COMPARE = """data: {corpus: "{corpus}", row_length: 16, validation: 0.1}
encoder: {preset: tiny, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, max_position_embeddings: 32}
training: {budget: {tokens: 2000}, tokens_per_step: 256}
objectives: [{objective: {name: mlm}}]
seeds: [0]
tasks: [{task: {train: train.csv, validation: valid.csv}, training: {epochs: 1, batch_size: 2, learning_rate: 1e-3}}]
finetune_seeds: [0]
output: out
"""


def run(more: str = "") -> str:
    return f"pretrain run.yaml {more}".strip()


def file(content: bytes | str) -> dict[str, bytes | str]:
    return {"run.yaml": content}


def changed(content: str, **sections: object) -> str:
    """Change sections of a run file, at their first level; None takes one out."""
    values = yaml.safe_load(content) | sections
    return yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False)


def _begun(here: Path, world: Path) -> None:
    """Leave a run with other settings in the folder."""
    text = RUN.replace("{corpus}", str(world / "corpus")).replace("row_length: 16", "row_length: 12")
    (here / "out").mkdir()
    prepare(here / "out", yaml.safe_load(text), overwrite=False)
    (here / "out" / "checkpoints").mkdir()


def _damaged_run(here: Path, world: Path) -> None:
    (here / "out" / "checkpoints").mkdir(parents=True)
    (here / "out" / "run.yaml").write_text("# Written by bertsmith: every setting of the run in this folder.\ndata: [")


def sweep(name: str, more: str = "", content: str = SWEEP, **files: bytes | str) -> Case:
    return Case(
        f"sweep: {name}",
        f"sweep sweep.yaml {more}".strip(),
        files={"run.yaml": RUN, "sweep.yaml": content, **TASKS, **files},
    )


def search(name: str, values: str) -> Case:
    return sweep(name, content=SWEEP.replace("{training.learning_rate: [1e-3, 1e-2]}", values))


def compare(name: str, content: str = COMPARE, more: str = "", make: object = None) -> Case:
    return Case(
        f"compare: {name}", f"compare compare.yaml {more}".strip(), files={"compare.yaml": content, **TASKS}, make=make
    )  # type: ignore[arg-type]


# fmt: off
CASES: list[Case] = [
    # The file
    Case("run file: is missing", "pretrain gone.yaml"),
    Case("run file: a folder", "pretrain ."),
    Case("run file: none", "pretrain"),
    Case("run file: two", "pretrain run.yaml run.yaml", files=file(RUN)),
    Case("run file: empty", run(), files=file("")),
    Case("run file: a comment alone", run(), files=file("# later\n")),
    Case("run file: a byte order mark alone", run(), files=file(b"\xef\xbb\xbf")),
    Case("run file: a NUL byte", run(), files=file(RUN + "\0")),
    Case("run file: Latin-1", run(), files=file(RUN.encode() + b"# caf\xe9\n")),
    Case("run file: UTF-16", run(), files=file("data: {}\n".encode("utf-16"))),
    Case("run file: UTF-16 without a mark", run(), files=file("data: {}\n".encode("utf-16-le"))),
    Case("run file: a tab", run(), files=file("data:\n\tcorpus: c\n")),
    Case("run file: an open bracket", run(), files=file("data: {corpus: c\nencoder: {preset: tiny}\n")),
    Case("run file: an open quotation mark", run(), files=file('output: "out\n')),
    Case("run file: a key twice", run(), files=file(RUN + "output: other\n")),
    Case("run file: a key twice within", run(), files=file(RUN.replace("row_length: 16", "row_length: 16, row_length: 20"))),
    Case("run file: a list", run(), files=file("- data\n- encoder\n")),
    Case("run file: a word", run(), files=file("pretrain\n")),
    Case("run file: two documents", run(), files=file(RUN + "---\n" + RUN)),
    Case("run file: an alias of nothing", run(), files=file(RUN + "evaluation: *gone\n")),
    Case("run file: a Python object", run(), files=file("data: !!python/object/apply:os.system [ls]\n")),
    Case("run file: an unknown tag", run(), files=file("data: !corpus c\n")),
    Case("run file: a date for a key", run(), files=file(RUN + "2020-01-01: x\n")),
    Case("run file: a list for a key", run(), files=file(RUN + "? [a]\n: x\n")),
    Case("run file: null for a key", run(), files=file(RUN + "~: x\n")),
    Case("run file: a number for a key", run(), files=file(RUN + "1: x\n")),
    Case("run file: nothing to merge", run(), files=file(RUN + "<<: 3\n")),
    Case("run file: half a pair", run(), files=file(RUN.replace("output: out", 'output: "out\\ud800"'))),
    Case("run file: bytes", run(), files=file(RUN.replace("output: out", "output: !!binary aGVsbG8="))),
    Case("run file: a set", run(), files=file("data: !!set {a, b}\n")),
    Case("run file: JSON lines in truth", run(), files=file('{"data": 1}\n{"data": 2}\n')),
    Case("run file: a section is missing", run(), files=file(RUN.replace("objective: {name: mlm}\n", ""))),
    Case("run file: a misspelt section", run(), files=file(RUN.replace("training:", "trainning:"))),
    Case("run file: a section as a list", run(), files=file(RUN.replace("objective: {name: mlm}", "objective: [mlm]"))),
    Case("run file: a section as a word", run(), files=file(RUN.replace("objective: {name: mlm}", "objective: mlm"))),
    Case("run file: a section as nothing", run(), files=file(RUN.replace("objective: {name: mlm}", "objective:"))),
    Case("run file: of a fine-tuning", run(), files=file(FINETUNE)),
    Case("run file: of a sweep", run(), files=file(SWEEP)),
    Case("run file: text as a list", run(), files=file(RUN.replace("output: out", "output: [out]"))),
    # Words
    Case("words: a stray one", run("steps"), files=file(RUN)),
    Case("words: a key without a value", run("--training.learning_rate"), files=file(RUN)),
    Case("words: of another section", run("--training.mask_prob 0.2"), files=file(RUN)),
    Case("words: a section for a value", run("--training '{budget: 3}'"), files=file(RUN)),
    Case("words: a value for a section", run("--training.budget 3"), files=file(RUN)),
    Case("words: two budgets", run("--training.budget.steps 3 --training.budget.tokens 3"), files=file(RUN)),
    Case("words: a key with nothing between dots", run("--training..seed 3"), files=file(RUN)),
    # data
    Case("data: corpus is missing", run("--data.corpus gone"), files=file(RUN)),
    Case("data: corpus is a file", run("--data.corpus run.yaml"), files=file(RUN)),
    Case("data: corpus is empty text", run("--data.corpus="), files=file(RUN)),
    Case("data: corpus is a model", run("--data.corpus {model}"), files=file(RUN)),
    Case("data: corpus is unfinished", run("--data.corpus c"), files={**file(RUN), "c/.building/plan.json": "{}"}),
    Case("data: corpus of the future", run("--data.corpus copy"), files=file(RUN), make=edited("corpus", "manifest.json", version=2)),
    Case("data: a shard is missing", run("--data.corpus copy"), files=file(RUN), make=copied("corpus", "shards/00000/documents.npy")),
    Case("data: tokens are missing", run("--data.corpus copy"), files=file(RUN), make=copied("corpus", "shards/00000/tokens.npy")),
    Case("data: tokenizer damaged", run("--data.corpus copy"), files=file(RUN), make=copied("corpus", tokenizer___tokenizer__json="{}")),
    Case("data: rows of two", run("--data.row_length 2"), files=file(RUN)),
    Case("data: rows of a share", run("--data.row_length 16.5"), files=file(RUN)),
    Case("data: rows of true", run("--data.row_length true"), files=file(RUN)),
    Case("data: rows of nothing", run("--data.row_length null"), files=file(RUN)),
    Case("data: rows beyond positions", run("--data.row_length 4096"), files=file(RUN)),
    Case("data: rows without end", run("--data.row_length 9223372036854775808"), files=file(RUN)),
    Case("data: all held out", run("--data.validation 1"), files=file(RUN)),
    Case("data: less than none held out", run("--data.validation=-0.1"), files=file(RUN)),
    Case("data: no number held out", run("--data.validation .nan"), files=file(RUN)),
    # encoder
    Case("encoder: no such preset", run("--encoder.preset tinny"), files=file(RUN)),
    Case("encoder: no such architecture", run("--encoder.architecture gpt2"), files=file(RUN)),
    Case("encoder: heads that do not divide", run("--encoder.num_attention_heads 3"), files=file(RUN)),
    Case("encoder: no heads", run("--encoder.num_attention_heads 0"), files=file(RUN)),
    Case("encoder: no layers", run("--encoder.num_hidden_layers 0"), files=file(RUN)),
    Case("encoder: fewer layers than none", run("--encoder.num_hidden_layers=-1"), files=file(RUN)),
    Case("encoder: no token types", run("--encoder.type_vocab_size 0"), files=file(RUN)),
    Case("encoder: a word for a width", run("--encoder.hidden_size wide"), files=file(RUN)),
    Case("encoder: dropout of two", run("--encoder.hidden_dropout_prob 2"), files=file(RUN)),
    Case("encoder: an unknown activation", run("--encoder.hidden_act gleu"), files=file(RUN)),
    Case("encoder: a misspelt field", run("--encoder.hiden_size 8"), files=file(RUN)),
    Case("encoder: a vocabulary of its own", run("--encoder.vocab_size 9"), files=file(RUN)),
    Case("encoder: an initializer of nothing", run("--encoder.initializer_range .nan"), files=file(RUN)),
    Case("encoder: a negative initializer", run("--encoder.initializer_range=-1"), files=file(RUN)),
    Case("encoder: no preset", run(), files=file(changed(RUN, encoder={}))),
    Case("encoder: preset and checkpoint", run("--encoder.from_pretrained {model}"), files=file(RUN)),
    Case("encoder: checkpoint is missing", run(), files=file(changed(RUN, encoder={"from_pretrained": "./gone"}))),
    Case("encoder: checkpoint is a file", run(), files=file(changed(RUN, encoder={"from_pretrained": "run.yaml"}))),
    Case("encoder: checkpoint without config", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", "config.json")),
    Case("encoder: checkpoint with a damaged config", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", config__json="{")),
    Case("encoder: checkpoint with a pipe for a config", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=piped("model", "config.json")),
    Case("encoder: checkpoint with a config that is a list", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", config__json="[]")),
    Case("encoder: checkpoint of an unknown kind", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=edited("model", "config.json", model_type="berd")),
    Case("encoder: checkpoint of another width", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=edited("model", "config.json", hidden_size=8)),
    Case("encoder: checkpoint with more layers", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=edited("model", "config.json", num_hidden_layers=2)),
    Case("encoder: checkpoint without weights", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", "model.safetensors")),
    Case("encoder: checkpoint with damaged weights", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", model__safetensors=b"no weights")),
    Case("encoder: checkpoint with empty weights", run(), files=file(changed(RUN, encoder={"from_pretrained": "copy"})), make=copied("model", model__safetensors=b"")),
    Case("encoder: checkpoint with another vocabulary", run(), files=file(changed(RUN, encoder={"from_pretrained": "{other}"}))),
    # objective
    Case("objective: no such one", run("--objective.name mlmm"), files=file(RUN)),
    Case("objective: no name", run(), files=file(RUN.replace("{name: mlm}", "{mask_prob: 0.2}"))),
    Case("objective: name is a number", run("--objective.name 3"), files=file(RUN)),
    Case("objective: masks all", run("--objective.mask_prob 1.5"), files=file(RUN)),
    Case("objective: masks none", run("--objective.mask_prob 0"), files=file(RUN)),
    Case("objective: masks no number", run("--objective.mask_prob .nan"), files=file(RUN)),
    Case("objective: shares above one", run("--objective.mask_token_share 0.95"), files=file(RUN)),
    Case("objective: no number of a share", run("--objective.random_token_share .nan"), files=file(RUN)),
    Case("objective: no such unit", run("--objective.unit words"), files=file(RUN)),
    Case("objective: a setting of another", run("--objective.max_span 3"), files=file(RUN)),
    Case("objective: span without an effect", run("--objective.name span --objective.sbo false --objective.sbo_positions 3"), files=file(RUN)),
    Case("objective: span that masks most", run("--objective.name span --objective.mask_prob 0.9"), files=file(RUN)),
    Case("objective: electra around bert", run("--objective.name electra"), files=file(RUN)),
    Case("objective: electra of nothing", run("--objective.name electra --encoder.architecture electra --objective.generator_size 0"), files=file(RUN)),
    Case("objective: views that are not there", run("--objective.name cert"), files=file(RUN)),
    Case("objective: a temperature of 0", run("--objective.name cert --objective.views dropout --objective.temperature 0"), files=file(RUN)),
    Case("objective: rows too short for pairs", run("--objective.name ssp --data.row_length 4"), files=file(RUN)),
    Case("objective: all the same", run("--objective.name ssp --objective.same_probability 3"), files=file(RUN)),
    # training and evaluation
    Case("budget: none", run(), files=file(RUN.replace("budget: {steps: 2}, ", ""))),
    Case("budget: empty", run(), files=file(RUN.replace("{steps: 2}", "{}"))),
    Case("budget: two", run(), files=file(RUN.replace("{steps: 2}", "{steps: 2, tokens: 100}"))),
    Case("budget: nothing", run("--training.budget.steps 0"), files=file(RUN)),
    Case("budget: less than nothing", run("--training.budget.tokens=-1"), files=file(RUN)),
    Case("budget: no number", run("--training.budget.seconds .nan"), files=file(RUN)),
    Case("budget: without end", run("--training.budget.flops .inf"), files=file(RUN)),
    Case("budget: unknown", run("--training.budget.hours 3"), files=file(RUN)),
    Case("budget: in words", run(), files=file(RUN.replace("{steps: 2}", '{seconds: "5 minutes"}'))),
    Case("budget: half a step", run("--training.budget.steps 0.5"), files=file(RUN)),
    Case("training: a negative rate", run("--training.learning_rate=-1"), files=file(RUN)),
    Case("training: no number of a rate", run("--training.learning_rate .nan"), files=file(RUN)),
    Case("training: a rate without end", run("--training.learning_rate .inf"), files=file(RUN)),
    Case("training: a rate in quotes", run(), files=file(RUN.replace("tokens_per_step", 'learning_rate: "1e-3", tokens_per_step'))),
    Case("training: warm to the end", run("--training.warmup 1"), files=file(RUN)),
    Case("training: no such schedule", run("--training.schedule linaer"), files=file(RUN)),
    Case("training: no number of decay", run("--training.weight_decay .nan"), files=file(RUN)),
    Case("training: decay without end", run("--training.weight_decay .inf"), files=file(RUN)),
    Case("training: a large seed", run("--training.seed 4294967296"), files=file(RUN)),
    Case("training: no tokens", run("--training.tokens_per_step 0"), files=file(RUN)),
    Case("training: more parts than rows", run("--training.gradient_accumulation 999"), files=file(RUN)),
    Case("training: no such optimizer", run("--training.optimizer lion"), files=file(RUN)),
    Case("training: no such arithmetic", run("--training.precision fp8"), files=file(RUN)),
    Case("training: logs without end", run("--training.log_every .nan"), files=file(RUN)),
    Case("training: minutes that are no number", run("--training.checkpoint_minutes .nan"), files=file(RUN)),
    Case("training: an unknown argument", run("--training.trainer.max_grad_nrm 1"), files=file(RUN)),
    Case("training: an argument that is ours", run("--training.trainer.max_steps 9"), files=file(RUN)),
    Case("training: an argument against a setting", run("--training.trainer.torch_compile true"), files=file(RUN)),
    Case("training: a word for an argument", run("--training.trainer.max_grad_norm high"), files=file(RUN)),
    Case("training: an unknown tracker", run("--training.trainer.report_to nobody"), files=file(RUN)),
    Case("training: steps without end", run("--training.budget '{steps: 1e30}'"), files=file(RUN)),
    Case("training: processes without end", run("--training.workers 100000"), files=file(RUN)),
    Case("evaluation: never", run("--evaluation.every 0"), files=file(RUN)),
    Case("evaluation: no number", run("--evaluation.every .nan"), files=file(RUN)),
    Case("evaluation: no rows", run("--evaluation.rows 0"), files=file(RUN)),
    # output
    Case("output: none", run(), files=file(RUN.replace("output: out\n", ""))),
    Case("output: empty text", run("--output="), files=file(RUN)),
    Case("output: a blank", run("--output ' '"), files=file(RUN)),
    Case("output: is a file", run("--output run.yaml"), files=file(RUN)),
    Case("output: below a file", run("--output run.yaml/out"), files=file(RUN)),
    Case("output: holds other files", run(), files={**file(RUN), "out/thesis.tex": "mine"}),
    Case("output: the corpus", run("--output copy --data.corpus copy"), files=file(RUN), make=copied("corpus")),
    Case("output: in the corpus", run("--output copy/run --data.corpus copy"), files=file(RUN), make=copied("corpus")),
    Case("output: a run with other settings", run(), files=file(RUN), make=_begun),
    Case("output: a run whose file is damaged", run(), files=file(RUN), make=_damaged_run),
    Case("output: a name that cannot be", run(), files=file(RUN.replace("output: out", 'output: "a\\0b"'))),
    Case("output: a name that is too long", run("--output " + "a" * 300), files=file(RUN)),
    # sweep
    Case("sweep: is missing", "sweep gone.yaml"),
    sweep("run is missing", "--run gone.yaml"),
    sweep("run is no YAML", **{"run.yaml": "data: ["}),
    sweep("run is a sweep", "--run sweep.yaml"),
    sweep("run has a mistake", **{"run.yaml": RUN.replace("mlm", "mlmm")}),
    search("empty", "{}"),
    search("a list", "[training.seed]"),
    search("an unknown key", "{training.lerning_rate: [1, 2]}"),
    search("a section", "{training: [1, 2]}"),
    search("no choices", "{training.seed: []}"),
    search("choices of lists", "{training.seed: [[1], [2]]}"),
    search("a plain value", "{training.seed: 3}"),
    search("low above high", "{training.learning_rate: {low: 1e-2, high: 1e-3}}"),
    search("the logarithm of 0", "{training.learning_rate: {low: 0.0, high: 1e-3, log: true}}"),
    search("no high", "{training.learning_rate: {low: 1e-3}}"),
    search("a step of 0", "{training.seed: {low: 1, high: 3, step: 0}}"),
    search("a step of a logarithm", "{training.learning_rate: {low: 1e-4, high: 1e-3, step: 1e-4, log: true}}"),
    search("log in words", "{training.learning_rate: {low: 1e-4, high: 1e-3, log: maybe}}"),
    search("ends in words", "{training.learning_rate: {low: small, high: large}}"),
    search("ends that are no numbers", "{training.learning_rate: {low: .nan, high: 1e-3}}"),
    search("ends without end", "{training.learning_rate: {low: 1e-3, high: .inf}}"),
    search("a choice of another type", "{training.learning_rate: [fast, slow]}"),
    search("values out of range", "{training.warmup: {low: 0.0, high: 2.0}}"),
    search("the output", "{output: [a, b]}"),
    search("what does not compare", "{objective.mask_prob: [0.1, 0.3]}"),
    sweep("no trials", "--trials 0"),
    sweep("no processes", "--parallel 0"),
    sweep("processes without end", "--parallel 100000"),
    sweep("no such metric", "--metric accuracyy"),
    sweep("the judge is missing", "--finetune gone.yaml"),
    sweep("the judge is the run", "--finetune run.yaml"),
    sweep("output is empty text", "--output="),
    sweep("output is a file", "--output run.yaml"),
    sweep("output with a question mark", "--output 'what?'"),
    sweep("output holds other files", **{"out/thesis.tex": "mine"}),
    sweep("seed out of range", "--seed=-1"),
    # compare
    Case("compare: is missing", "compare gone.yaml"),
    compare("of a run file", RUN),
    compare("an unknown objective", COMPARE.replace("name: mlm", "name: mlmm")),
    compare("no objectives", COMPARE.replace("[{objective: {name: mlm}}]", "[]")),
    compare("an arm in a word", COMPARE.replace("[{objective: {name: mlm}}]", "[mlm]")),
    compare("an objective without a name", COMPARE.replace("{name: mlm}", "{mask_prob: 0.2}")),
    compare("two arms of one name", COMPARE.replace("[{objective: {name: mlm}}]", "[{objective: {name: mlm}}, {objective: {name: mlm}}]")),
    compare("a label over two lines", COMPARE.replace("[{objective", '[{label: "a\\nb", objective')),
    compare("an arm with a misspelt key", COMPARE.replace("[{objective", "[{lable: a, objective")),
    compare("an arm with a mistake", COMPARE.replace("{name: mlm}", "{name: mlm, mask_prob: 2}")),
    compare("a budget below a step", COMPARE.replace("tokens: 2000", "tokens: 10")),
    compare("no budget", COMPARE.replace("budget: {tokens: 2000}, ", "")),
    compare("a budget in a word", COMPARE.replace("budget: {tokens: 2000}", "budget: large")),
    compare("two budgets", COMPARE.replace("{tokens: 2000}", "{tokens: 2000, seconds: 5}")),
    compare("a task without validation", COMPARE.replace(", validation: valid.csv", "")),
    compare("a task that is missing", COMPARE.replace("train.csv", "gone.csv")),
    compare("a task in a word", COMPARE.replace("tasks: [{task: {train: train.csv, validation: valid.csv}, ", "tasks: [{task: RTE, ")),
    compare("a task without a task", COMPARE.replace("task: {train: train.csv, validation: valid.csv}, ", "")),
    compare("a task with its own seeds", COMPARE.replace("tasks: [{", "tasks: [{seeds: [1], ")),
    compare("a task that varies", COMPARE.replace("tasks: [{", "tasks: [{vary: {pooling: [cls, mean]}, ")),
    compare("a task beyond the model", COMPARE.replace("tasks: [{", "tasks: [{max_length: 999, ")),
    compare("more examples than there are", COMPARE.replace("validation: valid.csv}", "validation: valid.csv, examples: 99}")),
    compare("a checkpoint that is missing", COMPARE + "checkpoints: {base: ./gone}\n"),
    compare("a checkpoint of another tokenizer", COMPARE + 'checkpoints: {base: "{other}"}\n'),
    compare("a checkpoint called none", COMPARE + 'checkpoints: {none: "{model}"}\n'),
    compare("a checkpoint in a list", COMPARE + 'checkpoints: ["{model}"]\n'),
    compare("a checkpoint with damaged weights", COMPARE + "checkpoints: {base: copy}\n", make=copied("model", model__safetensors=b"no")),
    compare("a checkpoint without weights", COMPARE + "checkpoints: {base: copy}\n", make=copied("model", "model.safetensors")),
    compare("seeds twice", COMPARE.replace("seeds: [0]\ntasks", "seeds: [0, 0]\ntasks")),
    compare("seeds in a word", COMPARE.replace("seeds: [0]\ntasks", "seeds: many\ntasks")),
    compare("a curve of less than none", COMPARE + "curve: -1\n"),
    compare("no processes", COMPARE + "parallel: 0\n"),
    compare("processes without end", COMPARE + "parallel: 100000\n"),
    compare("the corpus is missing", COMPARE.replace("{corpus}", "gone")),
    compare("no corpus at all", COMPARE.replace('corpus: "{corpus}", ', "")),
    compare("a section in a word", COMPARE.replace("training: {budget: {tokens: 2000}, tokens_per_step: 256}", "training: fast")),
    compare("output is empty text", COMPARE.replace("output: out", "output: ''")),
    compare("output is a file", COMPARE, "--output train.csv"),
    compare("output holds other files", COMPARE, make=lambda here, world: ((here / "out").mkdir(), (here / "out" / "thesis.tex").write_text("mine"))),
]
# fmt: on
