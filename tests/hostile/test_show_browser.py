"""The page of `bertsmith show --out` in a real browser: names and words that look like HTML do nothing."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hostile_words import MARKUP
from test_printing import pieces

from bertsmith.finetuning.importance import write_html

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api")


def test_nothing_of_it_runs_and_nothing_is_fetched(tmp_path: Path) -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here")
    write_html(tmp_path / "page.html", " ".join(MARKUP), pieces(MARKUP))
    address = (tmp_path / "page.html").as_uri()
    wrong: list[Any] = []
    with playwright.sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=sandbox)
        page = browser.new_page()
        page.on("request", lambda request: wrong.append(request.url) if request.url != address else None)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        for span in page.query_selector_all("p span"):
            span.hover()
        assert page.evaluate("window.hurt") is None
        assert page.evaluate("document.querySelectorAll('script, img, a, iframe').length") == 0
        for word in MARKUP:
            assert " ".join(word.split()) in " ".join(page.inner_text("body").split())
        browser.close()
    assert wrong == []
