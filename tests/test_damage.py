"""Files that are damaged, replaced or cannot be written between runs or under them: noticed, and said in one line."""

import errno
import io
import itertools
import json
import pkgutil
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bertsmith import cli
from bertsmith.augment.cache import FILE, open_cache
from bertsmith.augment.output import look_at
from bertsmith.augment.run import _the_same
from bertsmith.augment.sources import Survey, Unit
from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.shards import ShardWriter
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import Hindered, InputError
from bertsmith.files import read_record, write_record, write_text
from bertsmith.pretrained import open_pretrained
from bertsmith.pretraining import assemble, pretrain
from bertsmith.run_folder import prepare, read_run
from bertsmith.run_settings import RunSettings, load_run
from bertsmith.sweep import load_sweep, study, sweep, trials
from bertsmith.sweep import report as sweep_report
from bertsmith.sweep.plan import make_plan
from bertsmith.training import checkpoints, ranks, running
from bertsmith.training.board import Board
from bertsmith.training.monitors import METRICS, Monitor, read_metrics
from bertsmith.training.trainer import ObjectiveTrainer, is_of_writing


def flip(file: Path, place: int = -3) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let no file grow larger, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def exchange(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def own_corpus(corpus_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def run_file(own_corpus: Path, tmp_path: Path) -> Path:
    values = {
        "data": {"corpus": str(own_corpus), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 2}, "tokens_per_step": 256},
        "evaluation": {"every": 0.5, "rows": 8},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def run(run_file: Path) -> RunSettings:
    return load_run(run_file)


def test_a_changed_figure_in_a_record_is_noticed(tmp_path: Path) -> None:
    value = {"used": {"tokens": 1234.5, "steps": 8}, "names": ["ü", "b"], "best": None}
    write_record(tmp_path / "record.json", value)
    assert read_record(tmp_path / "record.json") == value
    exchange(tmp_path / "record.json", "1234.5", "1235.5")
    for _ in range(2):
        with pytest.raises(ValueError, match="changed since it was written"):
            read_record(tmp_path / "record.json")
        # One that says nothing of itself is as bad.
        (tmp_path / "record.json").write_text(json.dumps(value))


def test_a_checkpoint_whose_seal_tells_another_budget_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    checkpoints.seal(tmp_path, {"used": {"steps": 24, "tokens": 9.0, "flops": 9.0, "seconds": 1.0}})
    assert checkpoints.read_seal(tmp_path) is not None
    exchange(tmp_path / checkpoints.SEAL, '"steps": 24', '"steps": 20')
    assert checkpoints.read_seal(tmp_path) is None


def test_a_damaged_log_comes_back_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    rows = [{"step": step, "tokens": 10 * step, "seconds": 1, "flops": 1, "loss": 5.0} for step in (1, 2, 3)]
    with Monitor(tmp_path) as monitor:
        for row in rows:
            monitor.write(row)
            if row["step"] == 2:
                monitor.keep_rows(checkpoint)
    log = (tmp_path / METRICS).read_text()
    for damaged in (log[:30], log.replace("20", "21"), log.replace("step", "stfp"), "7\n" + log, None):
        (tmp_path / METRICS).unlink() if damaged is None else (tmp_path / METRICS).write_text(damaged)
        with Monitor(tmp_path, checkpoint):
            assert read_metrics(tmp_path) == rows[:2]
    (tmp_path / METRICS).write_bytes(log.encode().replace(b"5.0", b"5\xff0", 1))
    assert read_metrics(tmp_path) == []


def test_a_log_that_is_deleted_while_the_run_goes_on_is_written_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    rows = [{"step": step, "tokens": 10 * step, "seconds": 1, "flops": 1, "loss": 5.0} for step in (1, 2, 3)]
    with Monitor(tmp_path) as monitor:
        for row in rows:
            monitor.write(row)
            (tmp_path / METRICS).unlink()
        monitor.keep_rows(checkpoint)
        assert read_metrics(tmp_path) == read_metrics(checkpoint) == rows
        (tmp_path / METRICS).unlink()
        monitor.write({"step": 4})
    assert read_metrics(tmp_path) == [*rows, {"step": 4}]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    file, failures = tmp_path / "a.txt", list[Exception]()

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_text(file, letter * 10_000)
                assert file.read_text() in ("a" * 10_000, "b" * 10_000)
        except (OSError, AssertionError) as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_run_file_that_is_damaged_or_gone(tmp_path: Path) -> None:
    run = {"objective": {"name": "mlm"}, "training": {"seed": 100, "budget": {"steps": 8}}}
    (tmp_path / "run.yaml.part").write_text("# Written")
    prepare(tmp_path, run, overwrite=False)
    assert read_run(tmp_path) == run
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-3" / "seal.json").touch()
    text = (tmp_path / "run.yaml").read_text()
    changed = text.replace("100", "101"), text.replace("objective:", "objective")
    for damaged in (*changed, text[1:], text[:9], text[:-40], None):
        (tmp_path / "run.yaml").unlink() if damaged is None else (tmp_path / "run.yaml").write_text(damaged)
        with pytest.raises(Hindered, match=r"its run.yaml is damaged or gone, or a setting .* bring it back, or start"):
            prepare(tmp_path, run, overwrite=False)
    # What may change, and notes, are for people to edit.
    (tmp_path / "run.yaml").write_text(text.replace("steps: 8", "steps: 9  # longer") + "# good\n")
    prepare(tmp_path, run, overwrite=False)
    assert (tmp_path / "run.yaml").read_text() == text
    (tmp_path / "run.yaml").unlink()
    prepare(tmp_path, run, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-3" / "seal.json").touch()
    # What is not ours alone is never to be deleted.
    (tmp_path / "run.yaml").unlink()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files"):
        prepare(tmp_path, run, overwrite=True)


def test_a_bit_that_flips_in_a_corpus_is_noticed(
    run: RunSettings, own_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble(run)
    flip(own_corpus / "shards" / "00000" / "tokens.npy")
    with pytest.raises(Hindered, match=r"tokens.npy: changed since it was built; build the corpus again"):
        assemble(run)
    flip(own_corpus / "shards" / "00000" / "tokens.npy")
    assemble(run)
    monkeypatch.setattr("bertsmith.corpus.info._LARGE", 0)
    assemble(run)
    assert f"checking 0.0 GiB of corpus in {own_corpus}: " in capsys.readouterr().err
    manifest = read_record(own_corpus / "manifest.json")
    exchange(own_corpus / "manifest.json", f'"seconds": {manifest["seconds"]}', '"seconds": 77')
    with pytest.raises(InputError, match=r"manifest.json: damaged"):
        Corpus(own_corpus)


def test_a_terminal_that_cannot_show_a_name(own_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    assert cli.main(["corpus", "check", str(own_corpus.rename(own_corpus.with_name("日")))]) == 0
    assert rb"\u65e5: all files are as they were built" in printed.getvalue()


SETTINGS = BuildSettings(shard_bytes=4096, tokenizer=TokenizerSettings(type="bpe", vocab_size=261))


def test_a_finished_corpus_is_looked_at_before_nothing_is_to_be_done(text_file: Path, tmp_path: Path) -> None:
    build([str(text_file)], tmp_path / "corpus", SETTINGS, workers=1)
    flip(tmp_path / "corpus" / "shards" / "00001" / "tokens.npy")
    with pytest.raises(InputError, match=r"00001/tokens.npy: changed since it was built"):
        build([str(text_file)], tmp_path / "corpus", SETTINGS, workers=1)
    build([str(text_file)], tmp_path / "corpus", SETTINGS, workers=1, overwrite=True)


def test_a_source_that_changes_under_a_build(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, kept = tmp_path / "text.jsonl", tmp_path / "kept"
    for target in (source, kept):
        shutil.copy2(text_file, target)
    whole = build([str(source)], tmp_path / "whole", SETTINGS, workers=1)
    append = ShardWriter.append

    def change(writer: ShardWriter, encoded: Any) -> None:
        if writer.folder.name == "00002":
            source.write_text(json.dumps({"text": "Quite another text."}) + "\n")
        append(writer, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", change)
        with pytest.raises(InputError, match=r"out: text.jsonl has changed or is gone since this build began; bring"):
            build([str(source)], tmp_path / "out", SETTINGS, workers=1)
    shards = tmp_path / "out" / ".building" / "shards"
    assert sorted(path.name for path in shards.iterdir()) == ["00000", "00001"]
    shutil.copy2(kept, source)
    assert build([str(source)], tmp_path / "out", SETTINGS, workers=1).hash == whole.hash


@pytest.mark.parametrize("when", ["build.describe_tokenizer", "shards.ShardWriter.append"])
def test_a_file_that_comes_into_a_folder_under_a_build_is_not_of_it(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    shutil.copy2(text_file, folder)
    function = pkgutil.resolve_name(f"bertsmith.corpus.{when}")

    def add(*arguments: Any) -> Any:
        (folder / "other.jsonl").write_text(json.dumps({"text": "Quite another text."}) + "\n")
        return function(*arguments)

    monkeypatch.setattr(f"bertsmith.corpus.{when}", add)
    corpus = build([str(folder)], tmp_path / "out", SETTINGS, workers=1)
    assert [source["name"] for source in corpus.manifest["sources"]] == ["texts/text.jsonl"]
    assert corpus.num_documents == 120


def test_what_an_unfinished_build_has_lost(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_it(**more: Any) -> Corpus:
        return build([str(text_file)], tmp_path / "out", SETTINGS, workers=1, **more)

    append = ShardWriter.append

    def fill(writer: ShardWriter, encoded: Any) -> None:
        if writer.folder.name == "00002":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", fill)
        with pytest.raises(InputError, match="the disk is full"):
            build_it()
    staging = tmp_path / "out" / ".building"
    plan = (staging / "build.json").read_text()
    for damaged in (plan.replace("4096", "4097"), None):
        (staging / "build.json").unlink() if damaged is None else (staging / "build.json").write_text(damaged)
        with pytest.raises(InputError, match=r"build.json: is damaged or gone; bring the file back, or add"):
            build_it()
    (staging / "build.json").write_text(plan)
    tokenizer = (staging / "tokenizer" / "tokenizer.json").read_bytes()
    flip(staging / "tokenizer" / "tokenizer.json", len(tokenizer) // 2)
    whole = build_it()
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").read_bytes() == tokenizer

    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest.json: is gone; bring the file back, or add --overwrite"):
        build_it()
    assert build_it(overwrite=True).hash == whole.hash


def test_text_that_changes_while_it_is_translated() -> None:
    units = [Unit("A b.", ("A b.",))]
    found = Survey(1, 1, 0, 0, "of another text", ())
    given = _the_same(units, found)  # type: ignore[arg-type]
    assert next(given) == units[0]
    with pytest.raises(InputError, match="has changed while it was translated; bring the old one back"):
        next(given)


def test_pairs_whose_plan_is_gone(tmp_path: Path) -> None:
    for name in (FILE, "pairs.jsonl.part"):
        (tmp_path / name).touch()
    assert look_at(tmp_path, {}, overwrite=False) == (None, None)
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(InputError, match=r"plan.json: is damaged or gone; bring it back, or add --overwrite"):
        look_at(tmp_path, {}, overwrite=False)
    assert look_at(tmp_path, {}, overwrite=True) == (None, None)
    (tmp_path / FILE).unlink()
    with pytest.raises(InputError, match="holds no pairs but pairs.jsonl; choose an empty folder"):
        look_at(tmp_path, {}, overwrite=True)


def test_a_damaged_translation_is_made_again(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        cache.store({b"one": "eins", b"two": "zwei"}, 0, 0.1)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE translations SET text = 'eims' WHERE text = 'eins'")
    with open_cache(tmp_path) as cache:
        assert set(cache.look_up([b"one", b"two"])) == {b"two"}
        cache.store({b"one": "eins"}, 0, 0.1)
        assert cache.look_up([b"one"])[b"one"].text == "eins"


def test_tensorboard_on_a_full_disk(tmp_path: Path) -> None:
    before = threading.active_count()
    board = Board(tmp_path)
    with closing(board), largest_file(200), pytest.raises(OSError, match="File too large"):
        for step in range(100):
            board.add({"step": step, "loss": 1.0})
    # No thread of its own, which would print its error, or for which Python would wait if it got no memory.
    assert threading.active_count() == before


def test_whatever_torch_says_of_a_full_disk_is_known(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    torch.save(torch.zeros(500), file)
    for num_bytes in range(0, file.stat().st_size, 61):
        with largest_file(num_bytes), pytest.raises((OSError, RuntimeError)) as error:
            torch.save(torch.zeros(500), file)
        assert isinstance(error.value, OSError) or is_of_writing(error.value)


def test_a_folder_is_not_called_damaged_for_lack_of_memory(tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        open_pretrained(fail, str(tmp_path), "model")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("std::bad_alloc"), 1, "not enough memory; take smaller steps"),
        (RuntimeError("could not create a primitive"), 1, "not enough memory; take smaller steps"),
        (
            OSError(errno.ENOSPC, "No space left", "out/x"),
            2,
            "out/x: the disk is full; make room, and the same",
        ),
        (OSError(errno.EROFS, "Read-only file system", "out/x"), 2, "out/x: no permission (Read-only file system); "),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_line(
    run_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: Exception, code: int, said: str,
) -> None:  # fmt: skip
    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("bertsmith.pretraining.pretrain", fail)
    assert cli.main(["pretrain", str(run_file)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bertsmith: ") and said in line


def test_an_error_in_the_code_is_not_taken_for_a_full_disk(run: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr(ObjectiveTrainer, "_save_rng_state", fail)
    with pytest.raises(RuntimeError, match="must match the size"):
        pretrain(run)


def test_a_process_that_cannot_write_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/x")

    monkeypatch.setattr(running.os, "setsid", lambda: None)
    monkeypatch.setattr(ranks, "end_with_parent", lambda: None)
    with pytest.raises(SystemExit):
        running._begin_process(fail, 0, 1)
    assert capfd.readouterr().err.startswith("bertsmith: ")


def test_when_the_first_process_was_killed_another_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(ranks, "_store", gone)
    monkeypatch.setenv("RANK", "1")
    assert ranks.speaks_for_all("bertsmith: one of the 2 processes is gone, perhaps killed or out of memory; nothing")
    # Of what befalls all of them, the first one has said it.
    assert not ranks.speaks_for_all("bertsmith: data.corpus: is not there")


Sweep = Callable[..., dict[str, Any]]


@pytest.fixture
def searched(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Searches with trainings that do nothing but what is given."""
    values = {"run": str(run_file), "search": {"training.learning_rate": {"low": 1e-5, "high": 1e-1}}, "trials": 3}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values | {"prune": False, "output": str(tmp_path / "sweep")}))

    monkeypatch.setattr(sweep_report, "_importances", lambda study: {})
    monkeypatch.setattr(sweep_report, "plot_sweep", lambda *arguments: None)

    def search(train: Callable[[RunSettings], float]) -> dict[str, Any]:
        monkeypatch.setattr(trials, "pretrain", lambda run, watch: {"validation_loss": train(run)})
        return sweep(load_sweep(tmp_path / "sweep.yaml"))

    return search


def rate(run: RunSettings) -> float:
    return run.training.learning_rate


def test_a_full_disk_ends_a_search_and_is_the_result_of_no_trial(searched: Sweep, tmp_path: Path) -> None:
    def fill(run: RunSettings) -> float:
        if "0001" in run.output:
            raise Hindered("the disk is full")
        return rate(run)

    with pytest.raises(Hindered, match="the disk is full"):
        searched(fill)
    summary = searched(rate)
    assert [row["outcome"] for row in summary["trials"]] == ["done"] * 3
    log = (tmp_path / "sweep" / "trials" / "0001" / "outcome.json").read_text()
    assert str(summary["trials"][1]["training.learning_rate"]) in log


# After two pages there is the table of studies, but not the index by which a study is there only once.
@pytest.mark.slow
@pytest.mark.parametrize("num_pages", [1, 2, 10])
def test_a_full_disk_while_the_file_of_trials_is_made(searched: Sweep, num_pages: int) -> None:
    said = "study.db: cannot be written .*; make room, and the same command goes on"
    with largest_file(4096 * num_pages), pytest.raises(Hindered, match=said):
        searched(rate)
    assert [row["outcome"] for row in searched(rate)["trials"]] == ["done"] * 3


@pytest.mark.parametrize("draws_before", [0, *(pytest.param(num, marks=pytest.mark.slow) for num in (1, 2, 3))])
def test_a_search_that_is_stopped_while_it_draws(
    searched: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draws_before: int
) -> None:
    file = tmp_path / "sweep.yaml"
    values = yaml.safe_load(file.read_text())
    values["search"]["training.weight_decay"] = {"low": 0.0, "high": 0.1}
    file.write_text(yaml.safe_dump(values))
    expected = [row["training.weight_decay"] for row in searched(rate)["trials"]]
    shutil.rmtree(tmp_path / "sweep")
    draw, left = trials._suggest, iter([True] * draws_before)

    def stop(*arguments: Any) -> Any:
        if not next(left, False):
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(trials, "_suggest", stop)
    with pytest.raises(KeyboardInterrupt):
        searched(rate)
    monkeypatch.setattr(trials, "_suggest", draw)
    assert [row["training.weight_decay"] for row in searched(rate)["trials"]] == expected


def test_the_file_of_trials_damaged_and_removed(
    searched: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=7)
    with monkeypatch.context() as patch:
        patch.setattr(trials.time, "monotonic", lambda: next(clock))
        before = searched(rate)
    assert all(row["seconds"] >= 7 for row in before["trials"])
    study = tmp_path / "sweep" / "study.db"
    study.write_bytes(study.read_bytes()[:4096] + b"\0" * 8192)
    with pytest.raises(InputError, match="study.db: is damaged .*; remove it, and the same command finds the finished"):
        searched(rate)
    study.unlink()
    after = searched(lambda run: pytest.fail("no trial is trained again"))
    assert before == after


@pytest.mark.slow
def test_no_trial_of_a_shared_search_is_done_again_when_the_file_of_trials_is_gone(
    searched: Sweep, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"trials": 13}))

    def share(run: RunSettings) -> float:
        if "0003" in run.output:
            # Another worker does the others meanwhile, and draws without knowing what comes of this one.
            plan = make_plan(load_sweep(file))
            trials.work(plan, study.open_study(plan))
        Path(run.output).mkdir()
        return rate(run)

    before = searched(share)
    (tmp_path / "sweep" / "study.db").unlink()
    assert searched(lambda run: pytest.fail("no trial is trained again")) == before
    assert len(list((tmp_path / "sweep").glob("trials/*/run"))) == 13


def test_an_unfinished_trial_goes_on_when_the_file_of_trials_is_gone(searched: Sweep, tmp_path: Path) -> None:
    def stop(run: RunSettings) -> float:
        Path(run.output).mkdir(exist_ok=True)
        if "0001" in run.output:
            raise KeyboardInterrupt
        return rate(run)

    with pytest.raises(KeyboardInterrupt):
        searched(stop)
    (tmp_path / "sweep" / "study.db").unlink()
    # As if it had been drawn where other trials were done.
    record = tmp_path / "sweep" / "trials" / "0001" / "outcome.json"
    write_record(record, {"values": {"training.learning_rate": 0.05}})
    kept = tmp_path / "sweep" / "trials" / "0001" / "run" / "kept"
    kept.touch()
    assert searched(rate)["trials"][1]["training.learning_rate"] == 0.05
    assert kept.exists()


def test_a_trial_of_another_search_is_not_replaced(searched: Sweep, tmp_path: Path) -> None:
    searched(rate)
    (tmp_path / "sweep" / "study.db").unlink()
    folder = tmp_path / "sweep" / "trials" / "0001"
    held = read_record(folder / "outcome.json")
    write_record(folder / "outcome.json", held | {"values": {"training.learning_rate": 3.0}})
    with pytest.raises(InputError, match=f"{folder}: is of another search .*; move it away, or start over"):
        searched(lambda run: pytest.fail("no trial is trained again"))
    assert read_record(folder / "outcome.json")["outcome"] == held["outcome"]


@pytest.mark.slow
def test_the_validations_of_trials_are_found_again(
    searched: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"prune": True}))

    def train(run: RunSettings, watch: Callable[[dict[str, float], float], None]) -> dict[str, float]:
        watch({"validation_loss": rate(run) + 1}, 0.5)
        return {"validation_loss": rate(run)}

    plan = make_plan(load_sweep(file))
    monkeypatch.setattr(trials, "pretrain", train)
    sweep(load_sweep(file))
    before = [trial.intermediate_values for trial in study.open_study(plan).trials]
    assert all(map(len, before))
    (tmp_path / "sweep" / "study.db").unlink()
    searched(lambda run: pytest.fail("no trial is trained again"))
    assert [trial.intermediate_values for trial in study.open_study(plan).trials] == before


@pytest.mark.slow
def test_the_file_of_trials_is_in_use(searched: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = searched(rate)["best"]
    monkeypatch.setattr(study, "_PATIENCE", 0.1)
    with closing(sqlite3.connect(tmp_path / "sweep" / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Hindered, match="study.db: is in use by another process .*locked"):
            searched(rate)
    assert searched(rate)["best"] == before


@pytest.mark.slow
def test_the_file_of_trials_put_aside(searched: Sweep, tmp_path: Path) -> None:
    searched(rate)
    study = tmp_path / "sweep" / "study.db"
    aside = study.rename(study.with_name("study.db.bak"))
    content = aside.read_bytes()
    searched(lambda run: pytest.fail("no trial is trained again"))
    assert aside.read_bytes() == content


@pytest.mark.slow
def test_a_file_of_a_finished_trial_is_damaged(
    searched: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def leave(run: RunSettings) -> float:
        Path(run.output).mkdir(exist_ok=True)
        Path(run.output, "summary.json").write_text("{}")
        return rate(run)

    before = searched(leave)["best"]
    folder = tmp_path / "sweep" / "trials" / "0001"
    assert "damaged" not in capfd.readouterr().err
    (folder / "run" / "summary.json").write_text("{ }")
    assert searched(lambda run: pytest.fail("no trial is trained again"))["best"] == before
    said = f"summary.json: is damaged or gone, the result of trial 1 is not; to have it again, remove {folder} and"
    assert said in capfd.readouterr().err
    shutil.rmtree(folder)
    (tmp_path / "sweep" / "study.db").unlink()
    assert searched(leave)["best"] == before
    assert (folder / "run" / "summary.json").exists() and "damaged" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_changed_score_in_the_file_of_trials(searched: Sweep, tmp_path: Path) -> None:
    before = searched(rate)["best"]
    study = tmp_path / "sweep" / "study.db"
    with closing(sqlite3.connect(study)) as connection, connection:
        connection.execute("UPDATE trial_values SET value = value / 2 WHERE trial_value_id = 2")
    with pytest.raises(InputError, match=r"study.db: is damaged .trial 1 is not what is in its folder.; remove it"):
        searched(rate)
    study.unlink()
    assert searched(rate)["best"] == before


@pytest.mark.slow
def test_trials_of_another_corpus_are_not_mixed_in(
    searched: Sweep, own_corpus: Path, text_file: Path, tmp_path: Path
) -> None:
    def replace(run: RunSettings) -> float:
        if "0001" in run.output:
            own_corpus.rename(tmp_path / "kept")
            build([str(text_file)], own_corpus, SETTINGS, workers=1)
        return rate(run)

    for train in (replace, rate):
        with pytest.raises(InputError, match="sweep: was begun with another corpus, model or data; bring it back"):
            searched(train)
    shutil.rmtree(own_corpus)
    (tmp_path / "kept").rename(own_corpus)
    assert len(searched(rate)["trials"]) == 3
