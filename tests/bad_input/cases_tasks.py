"""Mistakes in the data and the run files of fine-tunings, and in what evaluate is given."""

import gzip
from pathlib import Path

from cases_runs import FINETUNE, TASKS, TRAIN, changed
from targets import parquet, squad
from transformers import AutoTokenizer, XLNetConfig, XLNetModel
from world import Case, copied, edited, piped

CLASSES = {"train": "train.csv", "validation": "valid.csv"}
RTE = "index\tsentence1\tsentence2\tlabel\n0\tba be\tbi\tentailment\n1\tbo\tbu\tnot_entailment\n"
STS = "index\tsentence1\tsentence2\tscore\n0\tba be\tbi\t{}\n1\tbo\tbu\t2.5\n"
NSMC = "id\tdocument\tlabel\n1\tba be\t{}\n2\tbo\t0\n"
PAIRS = '{"text": "ba be", "other": "bi", "label": 1.5}\n{"text": "bo", "other": "bu", "label": 0.5}\n'


def finetune(name: str, more: str = "", content: str = FINETUNE, make: object = None, **files: bytes | str) -> Case:
    """Of the task in CSV files, some of which are replaced."""
    given = {"run.yaml": content, **TASKS, **{name.replace("__", "."): data for name, data in files.items()}}
    return Case(f"finetune: {name}", f"finetune run.yaml {more}".strip(), files=given, make=make)  # type: ignore[arg-type]


def csv(name: str, train: bytes | str, more: str = "") -> Case:
    return finetune(name, more, train__csv=train)


def official(name: str, task: str, files: dict[str, bytes | str]) -> Case:
    content = changed(FINETUNE, task={"name": task, "data": "d"})
    return Case(
        f"{task}: {name}",
        "finetune run.yaml",
        files={"run.yaml": content, **{f"d/{file}": data for file, data in files.items()}},
    )


def pairs(name: str, train: str) -> Case:
    task = {"train": "a.jsonl", "validation": "b.jsonl", "text_pair": "other", "type": "regression"}
    return Case(
        f"pairs: {name}",
        "finetune run.yaml",
        files={"run.yaml": changed(FINETUNE, task=task), "a.jsonl": train, "b.jsonl": PAIRS},
    )


def question(name: str, train: bytes | str, file: str = "a.json") -> Case:
    task = {"train": file, "validation": "b.json", "type": "question_answering"}
    content = changed(FINETUNE, task=task, max_length=24, document_stride=8)
    return Case(
        f"questions: {name}",
        "finetune run.yaml",
        files={"run.yaml": content, file: train, "b.json": squad("ba be bi", be=3)},
    )


def evaluate(name: str, words: str, make: object = None, **files: bytes | str) -> Case:
    given = {**TASKS, **{name.replace("__", "."): data for name, data in files.items()}}
    return Case(f"evaluate: {name}", f"evaluate {words}", files=given, make=make)  # type: ignore[arg-type]


VALID = "--task.validation valid.csv"


def _xlnet(here: Path, world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "plain")
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=16)
    XLNetModel(config).save_pretrained(here / "xlnet")
    tokenizer.save_pretrained(here / "xlnet")


# fmt: off
CASES: list[Case] = [
    # CSV of one's own
    finetune("train is missing", "--task.train gone.csv"),
    finetune("train is a folder", "--task.train ."),
    finetune("train is of an unknown kind", "--task.train run.yaml"),
    csv("train is empty", ""),
    csv("train is a byte order mark", b"\xef\xbb\xbf"),
    csv("train has a header alone", "text,label\n"),
    csv("train has no text", "txt,label\nba,a\nbe,b\n"),
    csv("train has no label", "text,lable\nba,a\nbe,b\n"),
    csv("train has a column twice", "text,label,label\nba,a,a\n"),
    csv("train has a ragged row", "text,label\nba,a\nbe,b,c\n"),
    csv("train has a short row", "text,label\nba,a\nbe\n"),
    csv("train has an open quotation mark", 'text,label\n"ba,a\nbe,b\n'),
    csv("train is Latin-1", "text,label\nba,a\ncafé,b\n".encode("latin-1")),
    csv("train is UTF-16", TRAIN.encode("utf-16")),
    csv("train is UTF-16 without a mark", TRAIN.encode("utf-16-le")),
    csv("train has NUL", b"text,label\nb\0a,a\nbe,b\n"),
    csv("train is semicolons", TRAIN.replace(",", ";")),
    csv("train has an empty text", "text,label\nba,a\n,b\n"),
    csv("train has blanks for a text", "text,label\nba,a\n  ,b\n"),
    csv("train lacks a label", "text,label\nba,a\nbe,\n"),
    csv("train is of one class", "text,label\nba,a\nbe,a\n"),
    csv("validation has another class", "text,label\nba,a\nbe,c\n"),
    csv("train has a text beyond the model", f"text,label\n{'ba ' * 99},a\nbe,b\n"),
    finetune("train is a gzip that is none", "--task.train a.csv.gz", **{"a.csv.gz": b"text,label\n"}),
    finetune("train is a gzip cut short", "--task.train a.csv.gz", **{"a.csv.gz": gzip.compress(TRAIN.encode() * 50)[:-12]}),
    finetune("train is a damaged Parquet", "--task.train a.parquet", **{"a.parquet": b"PAR1"}),
    finetune("Parquet without text", "--task.train a.parquet", **{"a.parquet": parquet(body=["ba"], label=["a"])}),
    finetune("Parquet of numbers", "--task.train a.parquet", **{"a.parquet": parquet(text=[1, 2], label=["a", "b"])}),
    finetune("Parquet of lists", "--task.train a.parquet", **{"a.parquet": parquet(text=["ba"], label=[["a"]])}),
    finetune("JSON lines cut short", "--task.train a.jsonl", **{"a.jsonl": '{"text": "ba", "label": "a"}\n{"te'}),
    finetune("JSON lines with a key twice", "--task.train a.jsonl", **{"a.jsonl": '{"text": "ba", "text": "be", "label": "a"}\n'}),
    finetune("JSON lines of lists", "--task.train a.jsonl", **{"a.jsonl": '["ba", "a"]\n'}),
    finetune("JSON with a number for a text", "--task.train a.jsonl", **{"a.jsonl": '{"text": 5, "label": "a"}\n'}),
    finetune("JSON with a list for a label", "--task.train a.jsonl", **{"a.jsonl": '{"text": "ba", "label": ["a"]}\n'}),
    finetune("JSON with NaN for a label", "--task.train a.jsonl", **{"a.jsonl": '{"text": "ba", "label": NaN}\n'}),
    finetune("JSON that is one object", "--task.train a.json", **{"a.json": '{"text": "ba",\n "label": "a"}\n'}),
    finetune("JSON too deep", "--task.train a.json", **{"a.json": "[" * 100_000}),
    # Pairs and values
    pairs("no second column", '{"text": "ba", "label": 1.5}\n'),
    pairs("an empty side", '{"text": "ba", "other": "", "label": 1.5}\n'),
    pairs("null for a side", '{"text": "ba", "other": null, "label": 1.5}\n'),
    pairs("a word for a value", '{"text": "ba", "other": "be", "label": "high"}\n'),
    pairs("NaN for a value", '{"text": "ba", "other": "be", "label": NaN}\n'),
    pairs("a value without end", '{"text": "ba", "other": "be", "label": 1e999}\n'),
    pairs("true for a value", '{"text": "ba", "other": "be", "label": true}\n'),
    pairs("half a pair of surrogates", '{"text": "ba", "other": "\\udc00", "label": 1}\n'),
    # Questions
    question("no JSON", "{"),
    question("no data", "{}"),
    question("data is an object", '{"data": {}}'),
    question("a list of rows", '[{"question": "ba", "context": "be"}]'),
    question("no questions", '{"data": []}'),
    question("the answer is elsewhere", squad("ba be bi", be=0)),
    question("the answer is nowhere", squad("ba be bi", bo=0)),
    question("an offset below 0", squad("ba be bi", bi=-2)),
    question("an offset as a share", squad("ba be bi", be=3).replace(b": 3", b": 3.0")),
    question("an offset without end", squad("ba be bi", be=3).replace(b": 3", b": " + b"9" * 30)),
    question("an offset of 5,000 digits", squad("ba be bi", be=3).replace(b": 3", b": " + b"9" * 5000)),
    question("an empty answer", squad("ba be bi", be=3).replace(b'"be"', b'""')),
    question("too deep", "[" * 100_000),
    question("Latin-1", squad("ba be bi", be=3).replace(b"who", b"wh\xe9")),
    question("a gzip that is none", squad("ba be bi", be=3), "a.json.gz"),
    question("an id twice", squad("ba be bi", be=3, bi=6).replace(b"q1", b"q0")),
    question("rows without a context", '{"id": "1", "question": "ba", "answers": {"text": [], "answer_start": []}}\n', "a.jsonl"),
    question("rows with answers in a list", '{"question": "ba", "context": "be", "answers": ["be"]}\n', "a.jsonl"),
    # Known tasks
    official("a folder that is missing", "RTE", {}),
    official("no validation", "RTE", {"train.tsv": RTE}),
    official("no training", "RTE", {"dev.tsv": RTE}),
    official("another header", "RTE", {"train.tsv": RTE.replace("sentence1", "premise"), "dev.tsv": RTE}),
    official("another label", "RTE", {"train.tsv": RTE.replace("not_entailment", "neutral"), "dev.tsv": RTE}),
    official("a row with fewer fields", "RTE", {"train.tsv": RTE + "2\tba\n", "dev.tsv": RTE}),
    official("an empty file", "RTE", {"train.tsv": "", "dev.tsv": RTE}),
    official("Latin-1", "RTE", {"train.tsv": RTE.encode() + b"2\tb\xe9\tb\tentailment\n", "dev.tsv": RTE}),
    official("a file for the folder", "RTE", {}),
    official("a score above 5", "STS-B", {"train.tsv": STS.format("7.5"), "dev.tsv": STS.format("5.0")}),
    official("a score below 0", "STS-B", {"train.tsv": STS.format("-0.5"), "dev.tsv": STS.format("5.0")}),
    official("a score in words", "STS-B", {"train.tsv": STS.format("five"), "dev.tsv": STS.format("5.0")}),
    official("a rating of 2", "NSMC", {"ratings_train.txt": NSMC.format("2"), "ratings_test.txt": NSMC.format("1")}),
    official("a comma for a tab", "NSMC", {"ratings_train.txt": NSMC.format("1").replace("\t", ","), "ratings_test.txt": NSMC.format("1")}),
    official("a row too many columns", "CoLA", {"train.tsv": "a\t1\t\tba\tbe\n", "dev.tsv": "a\t1\t\tba\n"}),
    official("a label of 2", "CoLA", {"train.tsv": "a\t2\t\tba\n", "dev.tsv": "a\t1\t\tba\n"}),
    official("of version 1.1 without answers", "SQuAD-1.1", {"train-v1.1.json": squad("ba be"), "dev-v1.1.json": squad("ba be", be=3)}),
    official("half of it", "MNLI", {"train.tsv": "x\n"}),
    official("only the release of Microsoft", "MRPC", {"msr_paraphrase_train.txt": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"}),
    # Settings
    finetune("the file is missing", "--output x", make=lambda here, world: (here / "run.yaml").unlink()),
    finetune("no model", content=changed(FINETUNE, model=None)),
    finetune("no task", content=changed(FINETUNE, task=None)),
    finetune("an empty task", content=changed(FINETUNE, task={})),
    finetune("a task in a word", content=changed(FINETUNE, task="RTE")),
    finetune("a misspelt task", "--task.name RTF", content=changed(FINETUNE, task={"name": "RTF", "data": "d"})),
    finetune("a known task without files", content=changed(FINETUNE, task={"name": "RTE"})),
    finetune("a known task with files of one's own", content=changed(FINETUNE, task={"name": "RTE", "data": "d", "train": "a.csv"})),
    finetune("two columns for one", "--task.label text"),
    finetune("no examples", "--task.examples 0"),
    finetune("more examples than there are", "--task.examples 99"),
    finetune("seeds twice", "--seeds '[1, 1]'"),
    finetune("no seeds", "--seeds '[]'"),
    finetune("a negative seed", "--seeds '[-1]'"),
    finetune("seeds in words", "--seeds many"),
    finetune("no epochs", "--training.epochs 0"),
    finetune("no batch", "--training.batch_size 0"),
    finetune("a rate without end", "--training.learning_rate .inf"),
    finetune("a rate of nothing", "--training.learning_rate 0"),
    finetune("decay above one", "--training.layer_decay 2"),
    finetune("more frozen layers than there are", "--training.frozen_layers 99"),
    finetune("frozen twice", "--training.linear_probe true --training.frozen_layers 1"),
    finetune("more parts than examples", "--training.gradient_accumulation 99"),
    finetune("weights of an unknown class", "--training.class_weights '{x: 1.0}'"),
    finetune("weights of no number", "--training.class_weights '{a: .nan}'"),
    finetune("a misspelt recipe", "--training.recipe brt"),
    finetune("a misspelt metric of pooling", "--pooling average"),
    finetune("texts of three tokens", "--max_length 3"),
    finetune("texts beyond the model", "--max_length 999"),
    finetune("ssa on and off", "--ssa.mode both"),
    finetune("ssa beyond one", "--ssa.aug_loss_weight 2"),
    finetune("ssa that nothing learns of", "--ssa.mode co_training --training.linear_probe true"),
    finetune("vary nothing", content=changed(FINETUNE, vary={})),
    finetune("vary an unknown key", content=changed(FINETUNE, vary={"poling": ["cls", "mean"]})),
    finetune("vary in a word", content=changed(FINETUNE, vary={"pooling": "mean"})),
    finetune("vary without values", content=changed(FINETUNE, vary={"pooling": []})),
    finetune("vary to a mistake", content=changed(FINETUNE, vary={"pooling": ["cls", "average"]})),
    finetune("vary the output", content=changed(FINETUNE, vary={"output": ["a", "b"]})),
    finetune("a submission that is no zip", "--submission a.tar"),
    finetune("a submission of one's own task", "--submission a.zip"),
    finetune("no processes", "--parallel 0"),
    finetune("processes without end", "--parallel 100000"),
    finetune("an argument that is ours", "--training.trainer.max_steps 3"),
    finetune("output is empty text", "--output="),
    finetune("output is a file", "--output train.csv"),
    finetune("output holds other files", **{"out/thesis.tex": "mine"}),
    # The model
    finetune("model is missing", "--model ./gone"),
    finetune("model is a file", "--model train.csv"),
    finetune("model is a run", "--model r", **{"r/run.yaml": "x: 1\n", "r/model/config.json": "{}"}),
    finetune("model without config", "--model copy", make=copied("model", "config.json")),
    finetune("model with a pipe for weights", "--model copy", make=piped("model", "model.safetensors")),
    finetune("model without tokenizer", "--model copy", make=copied("model", "tokenizer.json", "tokenizer_config.json")),
    finetune("model without weights", "--model copy", make=copied("model", "model.safetensors")),
    finetune("model with damaged weights", "--model copy", make=copied("model", model__safetensors=b"no weights at all")),
    finetune("model with a damaged tokenizer", "--model copy", make=copied("model", tokenizer__json="{}")),
    finetune("model with a larger vocabulary than weights", "--model copy", make=edited("model", "config.json", vocab_size=9)),
    finetune("a head that ssa does not know", "--model xlnet --ssa=true", make=_xlnet),
    finetune("model of another kind", "--model copy", make=edited("model", "config.json", model_type="t5")),
    # evaluate
    evaluate("no model", VALID),
    evaluate("model is missing", f"./gone {VALID}"),
    evaluate("no task", "{classifier}"),
    evaluate("data are missing", "{classifier} --task.validation gone.csv"),
    evaluate("labels that the model does not know", f"{{classifier}} {VALID}"),
    evaluate("an encoder without a head", f"{{plain}} {VALID}"),
    evaluate("a masked model", f"{{model}} {VALID}"),
    evaluate("values of a classifier", "{classifier} --task.type regression --task.validation v.csv", v__csv="text,label\nba,1\nbe,2\n"),
    evaluate("questions of a classifier", "{classifier} --task.type question_answering --task.validation q.json --max_length 24 --document_stride 8", q__json=squad("ba be", be=3)),
    evaluate("pooling without zero-shot", f"{{classifier}} {VALID} --pooling mean"),
    evaluate("zero-shot of classes", f"{{plain}} {VALID} --zero-shot"),
    evaluate("nothing to score by", "{classifier} --task.test t.csv", t__csv="text\nba\n"),
    evaluate("out is a file", f"{{classifier}} {VALID} --out train.csv"),
    evaluate("out below a file", f"{{classifier}} {VALID} --out train.csv/x"),
    evaluate("a misspelt setting", f"{{classifier}} {VALID} --max_lenght 9"),
    evaluate("texts beyond the model", "{classifier} --task.validation v.csv --max_length 9999", v__csv="text,label\nba,bad\nbe,good\n"),
    evaluate("a misspelt task", "{classifier} --task RTF"),
    evaluate("a config whose classes are a number", f"copy {VALID}", make=edited("classifier", "config.json", architectures=3)),
    evaluate("damaged weights", f"copy {VALID}", make=copied("classifier", model__safetensors=b"\x08\0\0\0\0\0\0\0{}")),
    evaluate("a pipe for a tokenizer", f"copy {VALID}", make=piped("classifier", "tokenizer.json")),
    evaluate("no classifier in a config of ssa", f"copy {VALID}", make=edited("ssa", "config.json", classifier=None)),
    evaluate("a classifier of no kind in a config of ssa", f"copy {VALID}", make=edited("ssa", "config.json", classifier={"model_type": "zzz"})),
    evaluate("no mode of ssa", f"copy {VALID}", make=edited("ssa", "config.json", mode="zzz")),
    evaluate("a weight of ssa in words", f"copy {VALID}", make=edited("ssa", "config.json", cls_weight="x")),
    evaluate("no positions of ssa", f"copy {VALID}", make=edited("ssa", "config.json", num_positions=0)),
    evaluate("special tokens of ssa in words", f"copy {VALID}", make=edited("ssa", "config.json", special_ids=["a"])),
    evaluate("no precision", f"{{classifier}} {VALID} --precision half"),
    evaluate("a text that is a number", "{classifier} --task.validation v.jsonl", v__jsonl='{"text": 1, "label": "good"}\n'),
]
# fmt: on
