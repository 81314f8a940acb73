"""The report in a real browser: nothing goes wrong, nothing is fetched, and all can be seen and used."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_comparison import make_comparison
from test_report_page import hostile

from bertsmith.report import write_report

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
COMPARISONS: dict[str, Callable[[], dict[str, Any]]] = {
    "usual": make_comparison,
    "hostile": lambda: hostile(make_comparison()),
    "one seed": lambda: make_comparison(num_pretrain=1, num_finetune=1, shares=(1.0,)),
    "many": lambda: make_comparison(
        {f"arm {number}": 0.02 * number for number in range(10)}, {f"task {number}": 0.5 for number in range(9)}
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    # Here, as the fast tests would wait for it too.
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of the reports, by what they are of."""
    addresses = {}
    for name, make in COMPARISONS.items():
        folder: Path = tmp_path_factory.mktemp("report")
        (folder / "comparison.json").write_text(json.dumps(make()))
        write_report(folder)
        addresses[name] = (folder / "report.html").as_uri()
    return addresses


@pytest.fixture
def opened(browser: Any, pages: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Open a report; at the end, nothing may have been fetched beside it, and nothing have gone wrong."""
    contexts, wrong = [], []

    def open_page(name: str = "usual", width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: wrong.append(request.url) if request.url != pages[name] else None)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(pages[name])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("name", COMPARISONS)
def test_it_fits_every_screen(opened: Callable[..., Any], name: str) -> None:
    page = opened(name)
    for width in (1280, 820, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 820), ("light", 390), ("dark", 390)])
def test_it_looks_right_in_a_screenshot(opened: Callable[..., Any], scheme: str, width: int) -> None:
    """Ink on paper, light or dark: text and charts all down the page, and no part of it all dark or all empty."""
    from PIL import Image

    picture = Image.open(io.BytesIO(opened(width=width, color_scheme=scheme).screenshot(full_page=True))).convert("L")
    assert picture.width == width
    for top in range(0, picture.height - 600, 600):
        histogram = picture.crop((0, top, width, top + 600)).histogram()
        paper = max(range(256), key=histogram.__getitem__)
        assert paper > 240 if scheme == "light" else paper < 40
        inked = 1 - sum(histogram[max(paper - 3, 0) : paper + 4]) / sum(histogram)
        assert 0.005 < inked < 0.6, top


def test_hostile_names_run_nothing(opened: Callable[..., Any]) -> None:
    page = opened("hostile")
    assert page.evaluate("window.hurt") is None
    assert "<script>window.hurt = 1</script>" in page.inner_text("main")


def test_charts_are_drawn_where_they_can_be_seen(opened: Callable[..., Any]) -> None:
    page = opened()
    charts = page.locator(".chart:visible .plot > svg")
    assert charts.count() == 4 + 3
    for chart in charts.all():
        box = chart.bounding_box()
        assert box["width"] > 250 and box["height"] == 240 and len(chart.get_attribute("aria-label")) > 40
        for mark in chart.locator(".mark use").all():
            at = mark.bounding_box()
            assert box["x"] - 9 <= at["x"] <= box["x"] + box["width"] + 9
            assert box["y"] - 9 <= at["y"] <= box["y"] + box["height"] + 9
    assert page.locator(".forest:visible td.axis circle").count() == 10
    assert page.locator("#curves .panel:visible .crossing").count() == 1


def column(page: Any, place: int) -> list[str]:
    return [text.split("\n")[0] for text in page.locator(f".scores tbody tr > :nth-child({place})").all_inner_texts()]


def test_tables_sort_by_mouse_and_keyboard(opened: Callable[..., Any]) -> None:
    page = opened()
    given = column(page, 1)
    head = page.locator(".scores th", has_text="NSMC")
    head.locator("button").click()
    values = [float(text) for text in column(page, 5)]
    assert head.get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    page.keyboard.press("Enter")
    values = [float(text) for text in column(page, 5)]
    assert head.get_attribute("aria-sort") == "ascending" and values == sorted(values)
    page.locator(".scores th button", has_text="Arm").click()
    assert column(page, 1) == sorted(given) and head.get_attribute("aria-sort") is None


def test_the_axis_of_curves_is_switched_by_keyboard(opened: Callable[..., Any]) -> None:
    page = opened()
    shown = page.locator("#curves .panel:visible .x-label").first
    assert "training tokens (million" in shown.inner_text()
    page.locator("#curves input").first.focus()
    page.keyboard.press("ArrowRight")
    assert "training compute (PFLOP)" in shown.inner_text()
    page.keyboard.press("ArrowRight")
    assert "training time (min)" in shown.inner_text()


def test_marks_say_what_they_are(opened: Callable[..., Any]) -> None:
    page = opened()
    page.locator("#curves .panel:visible .mark").last.hover()
    assert "after 20 million tokens" in page.locator("#tip").inner_text()
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_without_javascript_all_is_there(opened: Callable[..., Any]) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator(".chart:visible .plot > svg").count() == 7 and len(column(page, 1)) == 5
    page.locator("#curves label", has_text="Time").click()
    assert "training time" in page.locator("#curves .panel:visible .x-label").first.inner_text()
    page.locator("#differences label", has_text="RTE").click()
    assert page.locator(".forest:visible caption").inner_text() == "RTE points"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_accessible(opened: Callable[..., Any], scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(opened(width=width, color_scheme=scheme, bypass_csp=True)).response["violations"]
    assert [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in found] == []


def test_it_prints(opened: Callable[..., Any]) -> None:
    page = opened(color_scheme="dark")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.locator(".forest:visible").count() == 4 and page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
