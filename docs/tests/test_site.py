"""The built site in a real browser: every page at two widths, its links and images, the search and the copy buttons."""

import functools
import http.server
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from playwright.sync_api import sync_playwright

SITE = Path(__file__).parents[1] / "_build" / "html"
NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
WIDTHS = 1280, 400
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
GENERATED = {"genindex.html", "py-modindex.html", "search.html"}


@pytest.fixture(scope="session")
def address():
    """The site behind a local server, where the clipboard is allowed and search.html can read its index."""
    assert PAGES, f"no page in {SITE}: run `make docs` first"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            del args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(f"no Chromium: none of {', '.join(NAMES)} is on the PATH; on Debian, `apt-get install chromium`")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def context(browser, address):
    opened = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    # The site has to work without a network: what is not its own is refused, and reported.
    opened.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda route: route.abort())
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def anchors():
    """The ids on each page, from its file."""
    return {page: set(re.findall(r'\bid="([^"]+)"', (SITE / page).read_text(encoding="utf-8"))) for page in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_page(name, context, address, anchors):
    page = context.new_page()
    trouble = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda request: trouble.append(f"not loaded: {request.url}"))
    page.on("response", lambda reply: trouble.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{address}/{name}", wait_until="load")
        if page.locator(".math").count():
            page.evaluate("() => MathJax.startup.promise")
            assert page.locator("mjx-container").count() > 0, "mathematics was not typeset"
            assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, "MathJax reports an error in a formula"
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways <= 0, f"at {width} pixels the page scrolls sideways by {sideways}"
        left = page.evaluate("document.querySelector('main').getBoundingClientRect().left")
        assert left >= 0, f"at {width} pixels the page begins {-left} pixels off the screen"
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken, f"images that do not load: {broken}"
    assert not trouble
    if name not in GENERATED:
        assert page.locator("article h1").count() == 1
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
    page.close()
    for link in set(links):
        if not link.startswith(address):
            assert urlparse(link).scheme in ("https", "mailto", "javascript"), f"a strange link: {link}"
            continue
        url, fragment = urldefrag(link)
        path = unquote(urlparse(url).path).lstrip("/") or "index.html"
        path += "index.html" if path.endswith("/") else ""
        assert (SITE / path).is_file(), f"a broken link: {path}"
        if fragment and path in anchors:
            assert unquote(fragment) in anchors[path], f"a broken link: {path}#{fragment}"


def test_search_finds_the_main_decorator(context, address):
    page = context.new_page()
    page.goto(f"{address}/search.html?q=custom_root")
    first = page.locator("#search-results li a").first
    first.wait_for(timeout=20_000)
    assert "custom_root" in first.inner_text()
    first.click()
    page.wait_for_load_state()
    assert page.locator("dt[id='implicitdiff.custom_root']").count() == 1
    page.close()


def test_code_is_copied_without_prompts(context, address):
    page = context.new_page()
    page.goto(f"{address}/api/implicitdiff.html")
    block = page.locator("div.highlight", has_text="def sqrt(a)").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_timeout(300)
    copied = page.evaluate("navigator.clipboard.readText()")
    page.close()
    assert "def sqrt(a):\n    return idf.implicit_root" in copied
    assert ">>>" not in copied


def test_dark_and_light(context, address):
    page = context.new_page()
    page.goto(f"{address}/index.html")
    colours = set()
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page.wait_for_timeout(300)
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.close()
    assert len(colours) == 2
