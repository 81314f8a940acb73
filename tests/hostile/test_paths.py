"""Names in data and in files of others are no paths; links are not followed without a word; the umask is the user's."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertsmith.cli import main
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.readers import ReadOptions
from bertsmith.corpus.sources import list_sources
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.errors import InputError
from bertsmith.export import write_folder
from bertsmith.files import locked, new_folder, read_record, remove, sha256, use_umask, write_record, write_text
from bertsmith.run_folder import prepare
from bertsmith.training.budget import QUANTITIES
from bertsmith.training.checkpoints import publish, read_seal, remove_old, seal

CLIMB = "../../outside"
TINY = BuildSettings(tokenizer=TokenizerSettings(type="bpe", vocab_size=261))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else's, which must not change."""
    folder = tmp_path / "victim"
    (folder / "shards").mkdir(parents=True)
    (folder / "precious.txt").write_text("precious")
    before = tree(folder)
    yield folder
    assert tree(folder) == before


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All below a folder: modes and contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


# Links in sources


def test_a_link_out_of_a_folder_of_sources_is_refused(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("A text.\n")
    assert len(list_sources([str(folder)])) == 1
    (folder / "inside.txt").symlink_to(folder / "a.txt")
    (folder / "loop").symlink_to(folder)
    with pytest.raises(InputError, match="named twice"):
        list_sources([str(folder)])
    (folder / "inside.txt").unlink()
    assert len(list_sources([str(folder)])) == 1, "a link to the folder itself adds nothing"
    for link, target in (("b.txt", victim / "precious.txt"), ("more", victim)):
        (folder / link).symlink_to(target)
        with pytest.raises(InputError, match=f"{link}: a link out of the folder, to {target}; name that as a source"):
            list_sources([str(folder)])
        (folder / link).unlink()
    # Named by the user, a link is the user's word.
    (folder / "named.txt").symlink_to(victim / "precious.txt")
    (tmp_path / "linked").symlink_to(victim)
    assert len(list_sources([str(folder / "named.txt")])) == 1
    assert [source.name for source in list_sources([str(tmp_path / "linked")])] == ["victim/precious.txt"]


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for source in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            list_sources([str(source)])
    with pytest.raises(OSError, match="not a regular file"):
        sha256(tmp_path / "a.txt")


# Links in output folders


def test_removing_a_link_leaves_what_it_is_to(tmp_path: Path, victim: Path) -> None:
    for name, target in (("folder", victim), ("file", victim / "precious.txt"), ("broken", tmp_path / "none")):
        link = tmp_path / name
        link.symlink_to(target)
        remove(link)
        assert not link.is_symlink()
    remove(tmp_path / "absent")


def test_starting_over_deletes_no_target_of_a_link(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run: dict[str, Any] = {"objective": {"name": "mlm"}, "output": str(folder)}
    prepare(folder, run, overwrite=False)
    for name in ("checkpoints", "model", "model.staging", "tensorboard"):
        (folder / name).symlink_to(victim)
    (folder / "metrics.jsonl").symlink_to(victim / "precious.txt")
    (folder / "run.yaml.part").symlink_to(victim / "precious.txt")
    prepare(folder, run, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["run.yaml"]


def test_a_lock_that_is_a_link_empties_nothing(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim / "precious.txt")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "run", "`output`"):
        pass


def test_a_file_is_written_beside_a_link_and_not_through_it(tmp_path: Path, victim: Path) -> None:
    for name in ("a.json.part", "a.json"):
        (tmp_path / name).symlink_to(victim / "precious.txt")
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new" and not (tmp_path / "a.json").is_symlink()


def test_a_model_is_written_beside_links(tmp_path: Path, victim: Path) -> None:
    class Saved:
        def save_pretrained(self, folder: Path, **options: Any) -> None:
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "precious.txt").write_text("new")

    for name in ("model", "model.staging"):
        (tmp_path / name).symlink_to(victim)
    write_folder(Saved(), Saved(), tmp_path / "model", "card")  # type: ignore[arg-type]
    assert (tmp_path / "model" / "precious.txt").read_text() == "new" and not (tmp_path / "model").is_symlink()


def test_of_two_that_make_one_folder_at_once_the_first_to_end_wins(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    said = r"out: cannot be written \(.*\); give another --out"
    with pytest.raises(InputError, match=said), new_folder(out, "--out") as slow:
        slow.mkdir()
        with new_folder(out, "--out") as quick:
            quick.mkdir()
            (quick / "precious.txt").write_text("quick")
    assert (out / "precious.txt").read_text() == "quick"
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "out", "precious.txt"]


def test_a_corpus_is_built_beside_links(tmp_path: Path, victim: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("A text. Another text.\n")
    out = tmp_path / "corpus"
    out.mkdir()
    (out / ".building").symlink_to(victim)
    build([str(source)], out, TINY, workers=1)
    source.write_text("A longer text. Another text.\n")
    for name in ("shards", "tokenizer"):
        shutil.rmtree(out / name)
        (out / name).symlink_to(victim)
    build([str(source)], out, TINY, workers=1, overwrite=True)
    assert not (out / "shards").is_symlink() and (out / "tokenizer" / "tokenizer.json").exists()


def test_checkpoints_are_kept_and_removed_beside_links(tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (2, 3):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / "checkpoint-1").symlink_to(victim)
    (folder / "staging").symlink_to(victim)
    remove_old(folder, keep=2)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    (folder / "new").mkdir()
    (folder / "checkpoint-4").symlink_to(victim)
    publish(folder / "new", folder / "checkpoint-4")
    assert not (folder / "checkpoint-4").is_symlink()


# Names that are no paths


def test_a_seal_speaks_of_its_own_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    used = dict.fromkeys(QUANTITIES, 1.0)
    seal(folder, {"used": used})
    assert read_seal(folder) is not None
    for name in ("../outside", str(tmp_path / "outside")):
        write_record(folder / "seal.json", {"files": {name: sha256(tmp_path / "outside")}, "used": used})
        assert read_seal(folder) is None


def test_a_manifest_speaks_of_its_own_folder_alone(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus_folder, folder)
    manifest = read_record(folder / "manifest.json")
    manifest["tokenizer"]["files"]["../../outside"] = "0"
    write_record(folder / "manifest.json", manifest)
    (tmp_path / "outside").write_text("x")
    assert main(["corpus", "check", str(folder)]) == 2
    assert "is no name of a file in" in capsys.readouterr().err


def test_names_of_arms_make_no_paths(tmp_path: Path) -> None:
    from bertsmith.finetuning.arms import arms_of
    from bertsmith.finetuning.settings import FinetuningSettings
    from bertsmith.settings import validate

    values = {
        "model": "m", "task": {"train": "a.csv", "validation": "a.csv"}, "output": str(tmp_path / "run"),
        "vary": {f"training.trainer./{CLIMB}": [CLIMB, "/etc/passwd"]},
    }  # fmt: skip
    for arm in arms_of(validate(FinetuningSettings, values, "test")):
        assert Path(arm.run.output).parent == tmp_path / "run"


def test_ids_and_labels_of_documents_make_no_files(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = [{"id": name, "text": "A text."} for name in (CLIMB, "/etc/passwd", "a\0b", "..", "\x1b]0;x\x07")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(TINY, read=ReadOptions(id_column="id"))
    before = set(tmp_path.rglob("*"))
    build([str(source)], tmp_path / "deep" / "corpus", settings, workers=1)
    made = {path for path in set(tmp_path.rglob("*")) - before if path.name not in (".lock",)}
    assert all(path.is_relative_to(tmp_path / "deep") for path in made)
    assert {path.name for path in (tmp_path / "deep" / "corpus").iterdir()} == {
        *("manifest.json", "shards", "tokenizer", "skipped.jsonl", ".lock")
    }


# Permissions


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no file that says the umask")
def test_the_umask_is_read_without_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    with umask(0o027), monkeypatch.context() as patch:
        patch.setattr(os, "umask", lambda mask: pytest.fail("other threads would create files with this umask"))
        use_umask(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_umask_where_no_file_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.files._STATUS", tmp_path / "status")
    file = tmp_path / "file"
    file.touch()
    with umask(0o027):
        use_umask(file)
        assert os.umask(0o027) == 0o027
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "mask", [0o077, *(pytest.param(mask, marks=pytest.mark.slow) for mask in (0o022, 0o002))], ids=oct
)
def test_files_have_the_permissions_of_the_umask(mask: int, text_file: Path, tmp_path: Path) -> None:
    with umask(mask):
        build([str(text_file)], tmp_path / "corpus", TINY, workers=1)
        run = tmp_path / "run.yaml"
        run.write_text(
            f"data: {{corpus: {tmp_path / 'corpus'}, row_length: 32}}\nobjective: {{name: mlm}}\n"
            "encoder: {preset: tiny, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1}\n"
            "training: {budget: {steps: 1}, tokens_per_step: 64, precision: fp32, compile: off}\n"
            f"output: {tmp_path / 'run'}\n"
        )
        assert main(["pretrain", str(run)]) == 0
        assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".npy", ".json", ".safetensors", ".pt", ".pth", ".md", ".jsonl", ".yaml"}
    wrong = {path: stat.filemode(path.stat().st_mode) for path in files if path.stat().st_mode & 0o777 != 0o666 & ~mask}
    assert wrong == {}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path: oct(path.stat().st_mode) for path in folders if path.stat().st_mode & 0o777 != 0o777 & ~mask} == {}
