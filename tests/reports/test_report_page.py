"""The report that a user gets: what stands in it, whatever the comparison holds."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_comparison import make_comparison

from bertsmith.cli import main
from bertsmith.report.figures import amount

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "</script><script>window.hurt = 1</script>",
    "</title></style></textarea>--><img src=x onerror=window.hurt=1>",
    '" onmouseover="window.hurt=1" x="',
    "{{ 7 * 7 }} {% raw %} ${7*7} &lt;b&gt; javascript:window.hurt=1",
    "한국어 | *bold* `code` [link](javascript:1) \u202e right to left",
]
Write = Callable[..., Path]


class Page(HTMLParser):
    """The elements of a page, its text without scripts and styles, and what would load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._inside = "", [""], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def hostile(comparison: dict[str, Any]) -> dict[str, Any]:
    """Name everything that has a name so as to break out of its place."""
    changed: dict[str, Any] = json.loads(json.dumps(comparison))
    named = zip((each["name"] for each in changed["arms"] + changed["tasks"]), HOSTILE * 2, strict=False)
    new = {name: f"{name} {word}" for name, word in named}
    for each in changed["arms"] + changed["tasks"]:
        each["name"] = new[each["name"]]
    for kind in ("scores", "estimates", "differences", "crossings"):
        for row in changed[kind]:
            row |= {key: new.get(row[key], row[key]) for key in ("arm", "task", "first", "second") if key in row}
    for key in ("title", "sentence", "run_file", "command", "created"):
        changed[key] = f"{key} {HOSTILE[1]} {HOSTILE[2]}"
    changed["words"] = HOSTILE * 2
    changed["environment"] = {word: {word: word} for word in HOSTILE}
    changed["corpus"] = {"name": HOSTILE[0], "hash": HOSTILE[2], "tokens": 1000}
    for arm in changed["arms"]:
        arm["settings"] |= {word: [word, {word: arm["name"]}] for word in HOSTILE}
        for run in arm["runs"]:
            run |= {"error": HOSTILE[1], "status": "failed" if run["seed"] == 1 else "done", "folder": HOSTILE[3]}
            run["losses"] |= {HOSTILE[4]: run["losses"]["mlm"]}
    for difference in changed["differences"]:
        difference["words"] = HOSTILE[3] + HOSTILE[0]
    return changed


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(make_comparison()))
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"report: {tmp_path / 'report.html'}" in printed and "report.md" in printed and "scores.csv" in printed


def test_the_commands_of_its_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert commands == ["bertsmith report out/compare-mini\n"]
    folder = tmp_path / "out" / "compare-mini"
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(make_comparison()))
    monkeypatch.chdir(tmp_path)
    assert main(commands[0].split()[1:]) == 0
    written = {path.name for path in folder.iterdir()} - {"comparison.json"}
    assert written == {"report.html", *re.findall(r"`(\w+\.(?:csv|md))`", page)}


def test_it_says_all_that_was_found(report: Write) -> None:
    made = make_comparison()
    page = read(report(made))
    assert page.count("h1") == 1 and made["sentence"] in page.text
    for estimate in made["estimates"]:
        assert f"{100 * estimate['mean']:.1f}" in page.text
        assert f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f}" in page.text
    for row in made["differences"]:
        assert f"{100 * abs(row['difference']):.1f}" in page.text
    for words in (
        *made["words"],
        "1 run failed",
        "the loss is not finite since step 1,511",
        "objective.generator_size",
    ):
        assert words in page.text
    assert made["run_file"] in page.text and made["command"] in page.text
    assert made["corpus"]["hash"] in page.text and made["environment"]["versions"]["torch"] in page.text
    assert {row["axis"] for row in made["crossings"]} == {"tokens", "flops", "seconds"}
    for row in made["crossings"]:
        assert f"RTE: electra overtakes span after {amount(row['axis'], row['at'])}" in page.text
    # Four charts of curves along three axes, three parts of the loss.
    assert page.count("figure") == 4 * 3 + 3


def test_arms_stand_in_order_and_ties_with_the_best_are_marked(report: Write) -> None:
    made = make_comparison(tasks={"RTE": 0.5})
    for row in made["differences"]:
        row["p_holm"] = 0.2 if {row["first"], row["second"]} == {"electra", "span"} else 0.01
    text = (report(made) / "report.html").read_text()
    body = text[text.index('<table class="scores') : text.index("</table>")]
    order = re.findall(r'<th scope="row">.*</svg> (\S+)</th>', body)
    assert order == ["electra", "span", "mlm", "ssp", "none"]
    assert [re.findall(r'<mark class="(\w+)">', row) for row in body.split("<tr>")[2:]] == [
        ["best"],
        ["tied"],
        [],
        [],
        [],
    ]


def test_less_is_better_where_scores_are_errors(report: Write) -> None:
    made = make_comparison(tasks={"STS-B": 0.5})
    made["tasks"][0]["metric"] = "mean_squared_error"
    text = (report(made) / "report.html").read_text()
    body = text[text.index('<table class="scores') : text.index("</table>")]
    assert re.findall(r'<th scope="row">.*</svg> (\S+)</th>', body)[0] == "none"
    none = next(row for row in made["estimates"] if row["arm"] == "none")
    assert f'<mark class="best">{none["mean"]:.3f}</mark>' in body and "less is better" in text


def test_nothing_of_the_data_becomes_markup(report: Write) -> None:
    made = make_comparison()
    plain, page = read(report(made)), read(report(hostile(made)))
    assert page.count("script") == plain.count("script") == 1 and page.scripts == plain.scripts
    assert page.count("style") == 1 and page.count("img") == 0 and page.count("i") == plain.count("i")
    assert {name for name, _ in page.elements} <= {name for name, _ in plain.elements}
    given = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in given if name.startswith("on")]
    for word in HOSTILE:
        assert word in page.text
    assert "49" not in re.findall(r"environment.*", page.text)


def test_it_needs_nothing_else(report: Write) -> None:
    folder = report(hostile(make_comparison()))
    for tag, attributes in read(folder).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img", "video", "audio", "source")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", (folder / "report.html").read_text(), re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_a_browser_may_run_our_script_only(report: Write) -> None:
    import base64
    import hashlib

    page = read(report(hostile(make_comparison())))
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_markdown_holds_the_same_and_no_markup(report: Write) -> None:
    made = make_comparison()
    text = (report(made) / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {made['sentence']}".replace("-", "-"))
    for estimate in made["estimates"]:
        assert f"{100 * estimate['mean']:.1f}" in text
    tables = [re.findall(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert tables and "span, seed 2: the loss is not finite" in text

    text = (report(hostile(made)) / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?<!\\)[<`]|(?<!\\)\]\(", outside)


def test_csv_files_hold_the_figures_as_they_are(report: Write) -> None:
    made = hostile(make_comparison())
    folder = report(made)
    for name in ("scores", "estimates", "differences", "crossings"):
        with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(made[name])
        for row, given in zip(rows, made[name], strict=True):
            assert set(given) <= set(row)
            for key, value in row.items():
                if key not in given:
                    assert value == ""
                elif isinstance(given[key], int | float):
                    assert float(value) == given[key]
                else:
                    assert value == ("" if given[key] is None else given[key])
    with (folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        num_values = sum(len(v) for arm in made["arms"] for run in arm["runs"] for v in run["losses"].values())
        assert len(list(csv.DictReader(file))) == num_values


def test_one_seed_has_no_intervals_and_that_is_said(report: Write) -> None:
    page = read(report(make_comparison(num_pretrain=1, num_finetune=1)))
    assert "no intervals" in page.text and "cannot be told apart from the best" not in page.text
    assert not [a for t, a in page.elements if t == "line" and a.get("class") == "span"]


def test_what_has_no_p_is_not_told_apart(report: Write) -> None:
    made = make_comparison()
    best = max((row for row in made["estimates"] if row["task"] == "RTE"), key=lambda row: row["mean"])["arm"]
    for row in made["differences"]:
        if row["task"] == "RTE" and best in (row["first"], row["second"]):
            row |= {"p": None, "p_holm": None}
    table = (report(made) / "report.md").read_text(encoding="utf-8").split("## Scores")[1].split("##")[0]
    head, *rows = [line.split("|") for line in table.splitlines() if line.count("|") > 3 and "---" not in line]
    (column,) = (number for number, cell in enumerate(head) if cell.strip().startswith("RTE"))
    assert {row[1].strip(): row[column].count("~") for row in rows} == {
        row[1].strip(): int(row[1].strip() != best) for row in rows
    }


def test_a_checkpoint_has_no_seed_and_no_training(report: Write) -> None:
    made = make_comparison()
    run = {**made["arms"][0]["runs"][0], "seed": None, "status": "failed", "error": "no such folder"}
    run |= {"tokens": 0.0, "losses": {}}
    made["arms"].append({"name": "ours", "kind": "checkpoint", "settings": {}, "runs": [run]})
    folder = report(made)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "- ours: no such folder" in text and "None" not in read(folder).text
    assert "ours" not in text.split("## Throughput")[1].split("##")[0]


def test_no_curves_no_losses_no_differences(report: Write) -> None:
    made = make_comparison(shares=(1.0,), fail=False)
    made |= {"differences": [], "crossings": [], "words": [], "environment": {}, "command": "", "run_file": ""}
    for arm in made["arms"]:
        arm["runs"] = []
    page = read(report(made))
    assert page.count("figure") == 0 and "failed" not in page.text and "Learning curves" not in page.text
    assert "Differences" not in page.text and "Throughput" not in page.text
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    assert {a["href"][1:] for t, a in page.elements if t == "a" and a["href"]} <= ids


def test_an_arm_of_which_every_run_failed(report: Write) -> None:
    made = make_comparison()
    for run in made["arms"][1]["runs"]:
        run |= {"status": "failed", "error": None, "tokens": None, "seconds": None, "flops": None, "losses": {}}
    for name in ("scores", "estimates"):
        made[name] = [row for row in made[name] if row["arm"] != "span"]
    made["differences"] = [row for row in made["differences"] if "span" not in (row["first"], row["second"])]
    page = read(report(made))
    assert (
        "3 runs failed" in page.text
        and "span, seed 0" in page.text
        and "span has no score on RTE" in str(page.elements)
    )


def test_what_diverged_is_missing_not_drawn(report: Write) -> None:
    made = make_comparison()
    losses = made["arms"][0]["runs"][0]["losses"]
    losses["mlm"] = [[at, float("nan") if at > 5e6 else value] for at, value in losses["mlm"]]
    losses["disc"] = [[1.0, float("inf")]]
    made["estimates"][0]["mean"] = float("nan")
    page = read(report(made))
    shown = page.text + str(page.elements)
    assert "electra" in shown and not re.search(r"\b(nan|inf)\b", shown, re.IGNORECASE)


@pytest.mark.slow
def test_many_arms_tasks_and_long_runs_stay_under_two_megabytes(report: Write) -> None:
    arms = {f"arm {number}": 0.02 * number for number in range(9)}
    tasks = {f"task {number}": 0.3 + 0.04 * number for number in range(12)}
    made = make_comparison(
        arms, tasks, num_pretrain=5, num_finetune=2, shares=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
    )
    made["environment"]["packages"] = {f"package-{number}": "1.2.3" for number in range(400)}
    made["words"] = [row["words"] for row in made["differences"]]
    for arm in made["arms"]:
        for run in arm["runs"]:
            run["losses"] = dict.fromkeys(("mlm", "sbo", "pair", "disc", "loss"), run["losses"]["mlm"])
    folder = report(made)
    assert (folder / "report.html").stat().st_size < 2_000_000 and read(folder).count("figure") == 13 * 3 + 5


def test_unknown_fields_are_left_alone(report: Write) -> None:
    made = make_comparison()
    made |= {"news": 1}
    made["scores"][0]["news"] = made["arms"][0]["news"] = made["tasks"][0]["news"] = {"a": 1}
    assert report(made)


def broken(**changes: Any) -> str:
    return json.dumps(make_comparison(num_pretrain=1, num_finetune=1) | changes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no finished comparison here"),
        ("", "not a comparison"),
        ('{"sentence": "cut o', "not a comparison"),
        ("[1, 2]", "not a comparison"),
        ('{"steps": 7}', "sentence"),
        (b"\xff\xfe\x00", "cannot be read"),
        (broken(arms=[]), "there is no arm"),
        (broken(estimates=[{"arm": "electra", "task": "RTE", "mean": "high"}]), "estimates.0.mean"),
        (broken(estimates=[{"arm": "bert", "task": "RTE", "mean": 0.5}]), "'bert', which is none of the arms"),
        (broken(scores=[{"arm": "none", "task": "CoLA", "score": 0.5}]), "'CoLA', which is none of the tasks"),
        (broken(tasks=[{"name": "RTE"}, {"name": "RTE"}]), "two of the tasks are called 'RTE'"),
        (broken(crossings=[{"first": "mlm", "second": "ssp", "task": "RTE", "axis": "euros", "at": 1}]), "axis"),
    ],
)
def test_what_is_no_comparison(
    content: str | bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "comparison.json").write_bytes(data)
    assert main(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"bertsmith: {tmp_path}") and words in lines[0]
    assert [path.name for path in tmp_path.iterdir() if path.name != "comparison.json"] == []


def test_the_average_counts_the_tasks_it_is_of(report: Callable[..., Path]) -> None:
    comparison = make_comparison()
    comparison["tasks"][0]["metric"] = "mean_squared_error"
    assert "average, mean of 2 tasks" in (report(comparison) / "report.md").read_text()


def test_a_comparison_without_estimates_has_a_report(report: Callable[..., Path]) -> None:
    comparison = make_comparison() | {"estimates": [], "differences": [], "crossings": []}
    assert "has no score on" in (report(comparison) / "report.html").read_text()
