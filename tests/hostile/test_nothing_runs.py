"""No file runs code: our own lines are searched for what could, and every kind of folder is given malicious pickles."""

import ast
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_helpers import KEEP_ALL, made_up_sentences, save_marian, train_sentencepiece

from bertsmith.cli import main
from bertsmith.corpus import Corpus
from bertsmith.files import read_record
from bertsmith.training.checkpoints import in_order, seal
from bertsmith.training.pace import Pace

SOURCE = Path(__file__).parents[2] / "src" / "bertsmith"
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}


def dotted(node: ast.AST) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_constant(call: ast.Call, name: str, value: object) -> bool:
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module may run what a file holds, by the name of the rule that it breaks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {name.name}" for name in node.names if name.name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield from (f"imports {name.name}" for name in node.names if not name.name.endswith("Error"))
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            if name in ("eval", "exec", "compile", "__import__", "input"):
                yield f"calls {name}"
            if name == "torch.load" and not is_constant(node, "weights_only", True):
                yield "torch.load without weights_only=True"
            if name.startswith(("yaml.load", "yaml.full_load", "yaml.unsafe")) and "Loader=_Loader" not in ast.unparse(
                node
            ):
                yield f"calls {name}"
            if last == "load" and any(word.arg == "allow_pickle" for word in node.keywords):
                yield "loads arrays with allow_pickle"
            if is_constant(node, "shell", True) or name in ("os.system", "os.popen"):
                yield "starts a shell"
            if any(word.arg == "trust_remote_code" for word in node.keywords) and not is_constant(
                node, "trust_remote_code", False
            ):
                yield "may trust code that comes with a model"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)",
        "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "np.load(f, allow_pickle=True)", "os.system(x)",
        "subprocess.run(x, shell=True)", "load(x, trust_remote_code=flag)", "input()",
    ],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert len(list(dangers(ast.parse(line)))) == 1


def test_no_line_of_ours_can_run_what_a_file_holds() -> None:
    found = {str(path.relative_to(SOURCE)): [*dangers(ast.parse(path.read_text()))] for path in SOURCE.rglob("*.py")}
    assert len(found) > 100
    assert {name: dangers for name, dangers in found.items() if dangers} == {}


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What malicious content would make; that it can is shown first."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Malicious(path)))
    path.rmdir()
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def model(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("model") / "bert"
    tokenizer = Corpus(corpus_folder).tokenizer
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(folder: Path, file: str, **values: Any) -> None:
    """Change some values of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


Words = list[str]


def openers(folder: Path, tmp_path: Path, text_file: Path, corpus_folder: Path) -> dict[str, Words]:
    """The commands that open the folder of a model."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nba be,a\nbi bo,b\nba bo,a\nbi be,b\n", encoding="utf-8")
    task = ["--task.train", str(rows), "--task.validation", str(rows)]
    run = tmp_path / "run.yaml"
    run.write_text(
        f"data: {{corpus: {corpus_folder}, row_length: 32}}\nencoder: {{from_pretrained: {folder}}}\n"
        f"objective: {{name: mlm}}\ntraining: {{budget: {{steps: 2}}}}\noutput: {tmp_path / 'run'}\n"
    )
    tuned = tmp_path / "tuned.yaml"
    tuned.write_text(
        f"model: {folder}\ntask: {{train: {rows}, validation: {rows}}}\nseeds: [0]\noutput: {tmp_path / 'tuned'}\n"
    )
    compared = tmp_path / "compare.yaml"
    compared.write_text(
        f"data: {{corpus: {corpus_folder}, row_length: 32}}\nencoder: {{preset: tiny}}\nobjectives: [{{objective: "
        f"{{name: mlm}}}}]\ntraining: {{budget: {{tokens: 1000}}}}\ncheckpoints: {{theirs: {folder}}}\n"
        f"tasks: [{{task: {{train: {rows}, validation: {rows}}}}}]\noutput: {tmp_path / 'comparison'}\n"
    )
    searched = tmp_path / "sweep.yaml"
    searched.write_text(
        f"run: {tuned}\nsearch: {{training.learning_rate: [1e-4, 1e-3]}}\ntrials: 1\noutput: {tmp_path / 'sweep'}\n"
    )
    out = str(tmp_path / "out")
    return {
        "fill": ["fill", str(folder), "ba [MASK]"],
        "export": ["export", str(folder), "--out", out],
        "export --sentence": ["export", str(folder), "--sentence", "--out", out],
        "corpus build": ["corpus", "build", str(text_file), "--out", out, "--tokenizer.from-pretrained", str(folder)],
        "pretrain": ["pretrain", str(run)],
        "finetune": ["finetune", str(tuned)],
        "compare": ["compare", str(compared)],
        "sweep": ["sweep", str(searched)],
        "evaluate": ["evaluate", str(folder), *task],
        "show": ["show", str(folder), *task],
        "augment": [
            *("augment", str(text_file), "--out", out, "--via", "de", "--engine", "transformers"),
            *("--models.en-de", str(folder), "--models.de-en", str(folder)),
        ],
    }


def one_line(words: Words, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("bertsmith: ")]
    assert "Traceback" not in error
    return line


@pytest.mark.slow
def test_a_pickle_in_the_place_of_weights_is_not_unpickled(
    model: Path, marker: Path, tmp_path: Path, text_file: Path, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.bias": Malicious(marker)}, folder / "pytorch_model.bin")
    for name in ("training_args.bin", "optimizer.pt", "tokenizer.pkl", "head.safetensors", "rust_model.ot"):
        torch.save(Malicious(marker), folder / name)
    commands = openers(folder, tmp_path, text_file, corpus_folder)
    # Of a tokenizer's folder no weights are read; a comparison opens a model only after its arms are trained.
    for name in commands.keys() - {"corpus build", "compare", "sweep", "augment"}:
        assert "was not unpickled" in one_line(commands[name], capsys), name
    # It is a model of other languages, before it is one of bad weights.
    assert "models.en-de" in one_line(commands["augment"], capsys)
    assert main(commands["corpus build"]) == 0


@pytest.mark.parametrize("answer", [pytest.param("", marks=pytest.mark.slow), "y\n" * 40], ids=["none", "yes"])
def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(
    answer: str,
    model: Path,
    marker: Path,
    tmp_path: Path,
    text_file: Path,
    corpus_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    maps = {name: f"theirs.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoTokenizer")}
    changed(folder, "config.json", model_type="theirs", auto_map=maps)
    changed(folder, "tokenizer_config.json", tokenizer_class="Theirs", auto_map={"AutoTokenizer": ["theirs.T", None]})
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    commands = openers(folder, tmp_path, text_file, corpus_folder)
    assert main(commands.pop("sweep")) == 1, "a search ends when all its trials fail"
    for name, words in commands.items():
        assert "needs code that comes with it, which is not run" in one_line(words, capsys), name


@pytest.mark.parametrize(
    "field",
    [
        {"attn_implementation": "somebody/kernel"}, {"_attn_implementation": "kernels-community/flash-attn2"},
        {"text_config": {"attn_implementation": "flash_attention_2"}}, {"quantization_config": {"quant_method": "fp8"}},
    ],
)  # fmt: skip
def test_a_config_fetches_no_kernels(
    field: dict[str, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    changed(folder, "config.json", **field)
    line = one_line(["fill", str(folder), "ba [MASK]"], capsys)
    assert "code may be fetched from the hub" in line


def test_a_shard_is_not_unpickled(
    corpus_folder: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus_folder, folder)
    file = folder / "shards" / "00000" / "tokens.npy"
    np.save(file, np.array([Malicious(marker)], dtype=object), allow_pickle=True)
    run = tmp_path / "run.yaml"
    run.write_text(
        f"data: {{corpus: {folder}, row_length: 32}}\nencoder: {{preset: tiny}}\nobjective: {{name: mlm}}\n"
        f"training: {{budget: {{steps: 1}}}}\noutput: {tmp_path / 'run'}\n"
    )
    assert f"{file}: damaged" in one_line(["pretrain", str(run)], capsys)
    assert f"{file}: damaged" in one_line(["show", str(run)], capsys)
    assert f"{file}: changed since it was built" in one_line(["corpus", "check", str(folder)], capsys)


@pytest.fixture(scope="module")
def begun(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training of two steps."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "run.yaml").write_text(
        f"data: {{corpus: {corpus_folder}, row_length: 32}}\n"
        "encoder: {preset: tiny, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8}\n"
        "objective: {name: mlm}\ntraining: {budget: {steps: 2}, tokens_per_step: 64, precision: fp32, compile: off}\n"
    )
    assert main(["pretrain", str(folder / "run.yaml"), "--output", str(folder / "run")]) == 0
    return folder


def put_into(checkpoint: Path, name: str, marker: Path) -> None:
    """Put a malicious file into a checkpoint; whoever makes that can make the seal too."""
    facts = read_record(checkpoint / "seal.json")
    (checkpoint / "seal.json").unlink()
    torch.save(Malicious(marker), checkpoint / name)
    seal(checkpoint, {key: value for key, value in facts.items() if key != "files"})


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("scheduler.pt", "rng_state.pth", "training_args.bin")
        ),
    ],
)
def test_a_checkpoint_is_not_unpickled(
    name: str, begun: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun / "run", folder)
    checkpoint = in_order(folder / "checkpoints")[-1]
    put_into(checkpoint, name, marker)
    words = ["pretrain", str(begun / "run.yaml"), "--output", str(folder), "--training.budget.steps", "3"]
    if name == "training_args.bin":
        assert main(words) == 0
    else:
        assert f"{checkpoint}: a .bin, .pt or .pth in it" in one_line(words, capsys)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0


@pytest.fixture(scope="module")
def begun_tuning(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning that was interrupted in its second epoch."""
    folder = tmp_path_factory.mktemp("begun_tuning")
    (folder / "rows.csv").write_text("text,label\nba be,a\nbi bo,b\nba bo,a\nbi be,b\n", encoding="utf-8")
    (folder / "run.yaml").write_text(
        f"model: {model}\ntask: {{train: {folder}/rows.csv, validation: {folder}/rows.csv}}\nseeds: [0]\n"
        "training: {epochs: 2, batch_size: 2, precision: fp32}\n"
    )
    on_step_end = Pace.on_step_end

    def interrupt(self: Pace, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt
        on_step_end(self, args, state, control, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "on_step_end", interrupt)
        assert main(["finetune", str(folder / "run.yaml"), "--output", str(folder / "run")]) == 130
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt", "pytorch_model.bin",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("scheduler.pt", "rng_state.pth", "training_args.bin")
        ),
    ],
)  # fmt: skip
def test_a_checkpoint_of_a_seed_is_not_unpickled(
    name: str, begun_tuning: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun_tuning / "run", folder)
    (checkpoint,) = in_order(folder / "seed-0" / "checkpoints")
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    put_into(checkpoint, name, marker)
    words = ["finetune", str(begun_tuning / "run.yaml"), "--output", str(folder)]
    if name == "training_args.bin":
        assert main(words) == 0
    else:
        assert f"{checkpoint}: a .bin, .pt or .pth in it" in one_line(words, capsys)


def test_the_best_checkpoint_of_a_trained_seed_is_not_unpickled(
    begun_tuning: Path,
    marker: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun_tuning / "run", folder)
    words = ["finetune", str(begun_tuning / "run.yaml"), "--output", str(folder)]

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt  # and no signal, which a process in the background ignores

    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.finetuning.seed._finish", interrupt)
        assert main(words) == 130
    for checkpoint in in_order(folder / "seed-0" / "checkpoints"):
        (checkpoint / "model.safetensors").unlink()
        put_into(checkpoint, "pytorch_model.bin", marker)
    assert "a .bin, .pt or .pth in it" in one_line(words, capsys)


@pytest.mark.slow
def test_a_folder_of_sentence_transformers_is_not_unpickled(
    model: Path, marker: Path, tmp_path: Path, text_file: Path, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sentence"
    assert main(["export", str(model), "--sentence", "--out", str(folder)]) == 0
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    for number, kind in enumerate(("sentence_transformers.models.Dense", "theirs.Pooling"), start=len(modules)):
        place = f"{number}_{kind.rpartition('.')[2]}"
        modules.append({"idx": number, "name": str(number), "path": place, "type": kind})
        (folder / place).mkdir()
        shutil.copy(folder / "1_Pooling" / "config.json", folder / place)
        torch.save(Malicious(marker), folder / place / "pytorch_model.bin")
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    commands = openers(folder, tmp_path, text_file, corpus_folder)
    scored = tmp_path / "pairs.csv"
    scored.write_text("text,other,label\nba be,ba,1\nbi bo,bu,0\nba bo,ba bo,2\n", encoding="utf-8")
    zero_shot = [
        "--task.validation",
        str(scored),
        "--task.text_pair",
        "other",
        "--task.type",
        "regression",
        "--zero-shot",
    ]
    commands["evaluate"] = ["evaluate", str(folder), *zero_shot]
    names = ("export", "export --sentence", "pretrain", "finetune", "evaluate")
    for name in ("export --sentence", "evaluate"):
        assert "has a module Dense, which bertsmith leaves out" in one_line(commands[name], capsys), name
        commands[name] += ["--pooling", "mean"]
    for name in names:
        assert main(commands[name]) == 0, name
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.rmtree(tmp_path / "tuned", ignore_errors=True)

    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.bias": Malicious(marker)}, folder / "pytorch_model.bin")
    for name in names:
        assert "was not unpickled" in one_line(commands[name], capsys), name


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random Marian models."""
    folder = tmp_path_factory.mktemp("translators")
    vocabularies = folder / "first.spm", folder / "second.spm"
    for seed, file in enumerate(vocabularies):
        train_sentencepiece(file, seed)
    save_marian(folder / "en-de", vocabularies, "en-de", 0)
    save_marian(folder / "de-en", vocabularies[::-1], "de-en", 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_a_model_that_translates_is_not_unpickled(
    engine: str, translators: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(made_up_sentences(3)) + "\n", encoding="utf-8")
    words = ["augment", str(texts), "--engine", engine, "--via", "de", "--cache", str(tmp_path / "cache"), *KEEP_ALL]
    words += ["--models.de-en", str(translators / "de-en"), "--models.en-de"]
    beside, instead = tmp_path / "beside", tmp_path / "instead"
    for folder in (beside, instead):
        shutil.copytree(translators / "en-de", folder)
        for name in ("training_args.bin", "optimizer.pt", "rust_model.ot", "tf_model.h5"):
            torch.save(Malicious(marker), folder / name)
    assert main([*words, str(beside), "--out", str(tmp_path / "out")]) == 0

    (instead / "model.safetensors").unlink()
    torch.save({"final_logits_bias": Malicious(marker)}, instead / "pytorch_model.bin")
    line = one_line([*words, str(instead), "--out", str(tmp_path / "again")], capsys)
    assert "its .bin holds more than weights and was not unpickled" in line
