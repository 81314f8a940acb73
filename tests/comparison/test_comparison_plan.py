"""What a comparison finds again when its file has changed, and what it does anew; how it is measured beforehand."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_helpers import make_pairs, make_task, make_values, write
from rich.console import Console
from transformers import ElectraConfig, ElectraForMaskedLM

from bertsmith.comparison.plan import Plan, make_plan
from bertsmith.comparison.probe import announce, measure
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.errors import InputError
from bertsmith.training import running

CONSOLE = Console(stderr=True)


def planned(values: dict[str, Any], tmp_path: Path) -> Plan:
    return make_plan(write(values, tmp_path / "run.yaml"), CONSOLE)


def folders(values: dict[str, Any], tmp_path: Path) -> set[Path]:
    return {unit.folder for unit in planned(values, tmp_path).units}


def keys(values: dict[str, Any], tmp_path: Path) -> list[str]:
    return [task.key for task in planned(values, tmp_path).tasks]


def save_encoder(corpus: Corpus, folder: Path, positions: int = 64) -> None:
    settings = EncoderSettings(
        preset="tiny", config={"num_hidden_layers": 1, "hidden_size": 32, "max_position_embeddings": positions}
    )
    build_encoder(settings, corpus.tokenizer, 32).save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def test_other_weights_in_the_same_folder_are_another_unit(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "start" / "model.safetensors").write_bytes(b"old")
    values = make_values(corpus, tmp_path, encoder={"from_pretrained": str(tmp_path / "start")})
    before = folders(values, tmp_path)
    assert before == folders(values, tmp_path)
    (tmp_path / "start" / "model.safetensors").write_bytes(b"new")
    assert not before & folders(values, tmp_path)


def test_arms_may_begin_with_short_rows(corpus: Corpus, tmp_path: Path) -> None:
    values = make_values(corpus, tmp_path)
    before = {(unit.arm, unit.kind, unit.seed): unit for unit in planned(values, tmp_path).units}
    values["training"]["short_rows"] = {"row_length": 12, "tokens": 600}
    values["objectives"][1]["training"] = {"short_rows": None}
    after = {(unit.arm, unit.kind, unit.seed): unit for unit in planned(values, tmp_path).units}
    assert before.keys() == after.keys() and {arm for arm, _, _ in after} >= {"mlm", "ssp"}
    for key, unit in after.items():
        # What has none is the model that it was.
        assert (unit.folder == before[key].folder) == (unit.arm != "mlm")
        if unit.arm != "none":
            assert unit.run is not None and (unit.run.training.short_rows is None) == (unit.arm == "ssp")
    del values["objectives"][1]["training"]
    with pytest.raises(InputError, match="objectives, ssp: training.short_rows is for objectives that train on"):
        measure(planned(values, tmp_path))


def test_where_a_start_lies_does_not_matter(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(corpus, tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    absolute, relative = (
        {path.name for path in folders(make_values(corpus, tmp_path, encoder={"from_pretrained": start}), tmp_path)}
        for start in (str(tmp_path / "start"), "start")
    )
    assert absolute == relative


def test_another_generator_is_another_unit(corpus: Corpus, tmp_path: Path) -> None:
    config = ElectraConfig(
        vocab_size=len(corpus.tokenizer), embedding_size=32, hidden_size=8, num_attention_heads=1, num_hidden_layers=1
    )
    ElectraForMaskedLM(config).save_pretrained(tmp_path / "generator")
    objective = {"name": "electra", "generator": str(tmp_path / "generator"), "generator_size": 0.25}
    encoder = {"preset": "tiny", "architecture": "electra", "num_hidden_layers": 1, "hidden_size": 32}
    values = make_values(corpus, tmp_path, objectives=[{"objective": objective}], encoder=encoder)
    before = folders(values, tmp_path)
    (tmp_path / "generator" / "model.safetensors").write_bytes(b"new")
    after = folders(values, tmp_path)
    # That of no pre-training, for each seed, has none.
    assert {path.name.partition("-")[0] for path in before & after} == {"none"} and len(before - after) == 2


def test_what_a_checkpoint_says_of_its_embeddings_is_part_of_it(corpus: Corpus, tmp_path: Path) -> None:
    save_encoder(corpus, tmp_path / "ours")
    values = make_values(corpus, tmp_path, checkpoints={"ours": str(tmp_path / "ours")})
    before = folders(values, tmp_path)
    parts = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in parts.items()]
    (tmp_path / "ours" / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "ours" / "1_Pooling").mkdir()
    pooling = tmp_path / "ours" / "1_Pooling" / "config.json"
    seen = [before]
    for mode in ("cls", "mean"):
        pooling.write_text(json.dumps({"pooling_mode": mode}))
        seen.append(folders(values, tmp_path))
    assert [len(one - seen[0]) for one in seen] == [0, 1, 1] and seen[1] != seen[2]


def test_an_encoder_that_is_there_already_is_judged_once_without_further_training(
    corpus: Corpus, tmp_path: Path
) -> None:
    values = make_values(corpus, tmp_path)
    assert len({path for path in folders(values, tmp_path) if path.name.startswith("none")}) == 2
    save_encoder(corpus, tmp_path / "start")
    values |= {"encoder": {"from_pretrained": str(tmp_path / "start")}}
    assert len({path for path in folders(values, tmp_path) if path.name.startswith("none")}) == 1


def test_results_stay_where_nothing_changes_them(corpus: Corpus, tmp_path: Path) -> None:
    task, pairs = {"task": make_task(tmp_path), "training": {"epochs": 1}}, make_pairs(tmp_path)
    before = keys(make_values(corpus, tmp_path, tasks=[task, pairs]), tmp_path)
    save_encoder(corpus, tmp_path / "short")
    renamed = [{**task, "label": "other"}, {**pairs, "label": "more"}]
    seldom = {**task, "training": {"epochs": 1, "log_every": 5, "checkpoint_minutes": 1}}
    short = {"tasks": [task, pairs], "checkpoints": {"short": str(tmp_path / "short")}}
    for changes in ({"tasks": renamed}, {"tasks": [seldom, pairs]}, short):
        assert keys(make_values(corpus, tmp_path, **changes), tmp_path) == before
    longer = {**task, "training": {"epochs": 2}}
    changed = keys(make_values(corpus, tmp_path, tasks=[longer, {**pairs, "pooling": "cls"}]), tmp_path)
    assert not set(changed) & set(before)


def test_questions_are_read_anew_for_answers_of_another_length(corpus: Corpus, tmp_path: Path) -> None:
    context = "dade dadede bo ki da dade"
    rows = [
        {"id": str(n), "question": "ki", "context": context, "answers": {"text": ["bo"], "answer_start": [12]}}
        for n in range(8)
    ]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = str(tmp_path / "qa.jsonl")
    task = {"task": {"train": file, "validation": file, "type": "question_answering"}}
    tasks = [{**task, "label": str(length), "max_answer_length": length} for length in (1, 9)]
    plan = planned(make_values(corpus, tmp_path, tasks=tasks), tmp_path)
    assert [one.material.reading.max_answer_length for one in plan.tasks] == [1, 9]  # type: ignore[attr-defined]


def test_all_pairs_are_read_as_every_model_reads_them_before_anything_is_trained(
    corpus: Corpus, tmp_path: Path
) -> None:
    save_encoder(corpus, tmp_path / "ours")
    listed = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    (tmp_path / "ours" / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "ours" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 4}))
    pairs = {**make_pairs(tmp_path), "pooling": "mean"}
    # The first two are short enough.
    rows = ["text,text_pair,label", "da,da,1", "bo,bo,2", "dadededede dadede,bo ki da,3"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    values = make_values(corpus, tmp_path, tasks=[pairs], checkpoints={"ours": str(tmp_path / "ours")})
    with pytest.raises(InputError, match="longer than the 4 tokens"):
        measure(planned(values, tmp_path))


def test_an_arm_without_memory_for_its_steps_does_not_hold_up_the_others(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bertsmith.objectives.ssp import SSP

    def too_little(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SSP, "forward", too_little)
    plan = planned(make_values(corpus, tmp_path), tmp_path)
    probes = measure(plan)
    assert probes["mlm"].seconds > 0 and probes["ssp"].flops > 0
    announce(plan, probes, CONSOLE)
    said = capsys.readouterr()
    assert "note: ssp: too little memory for its steps" in said.out + said.err
    assert "4 pre-trainings" in said.err and "nan" not in said.err


@pytest.mark.parametrize(("given", "expected"), [(None, ["0", "1", "0"]), ("2,GPU-7f", ["2", "GPU-7f", "2"])])
def test_processes_share_the_gpus_that_were_given(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(running.ranks, "end_with_parent", lambda: None)
    threads, seen = torch.get_num_threads(), []
    for number in range(3):
        if given is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        running._begin_process(lambda: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]), number, threads)
    assert seen == expected
