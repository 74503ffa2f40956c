"""python -m tests.core.text.check_site [FOLDER]: opens every page of the built site in Chromium, wide and on a phone.

Not a test module: `make check-site` runs it on what `make docs` has built. It reports errors in the console, pages
without a title, links without a text, broken links and anchors within the site, tables that are wider than the column
of text in the wide window, and tables, formulas, code and pictures that overflow the window without their own scroll
bar. Requests to other sites are blocked, so resources that the pages need from them are reported, too. Before that, and
without a browser, it asks the search the questions of site_search.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from tests.core.text.site_search import wrong_answers

ROOT = Path(__file__).parents[3]
WIDTHS = {"wide": 1280, "phone": 390}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Pages that Sphinx generates for itself
OWN = ("genindex.html", "py-modindex.html", "search.html")

#: Sphinx's name for a page without a title
NO_TITLE = "<no title>"

#: Title, links, anchors, tables that scroll, and elements that overflow the window while no ancestor scrolls or clips
LOOK = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (e) => {
    for (let p = e; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== 'visible') return true;
    return false;
  };
  const kinds = ['table', 'mjx-container', 'pre', 'img', 'p', 'code', 'dl', 'h1', 'h2', 'h3'];
  const wide = [];
  for (const e of document.querySelectorAll(kinds.map((kind) => `article ${kind}`).join(', '))) {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.right <= width + 1 || scrolls(e)) continue;
    const text = (e.alt || e.textContent).trim().slice(0, 60);
    wide.push(`${e.tagName.toLowerCase()} ends at ${Math.round(box.right)}: ${text}`);
  }
  const all = document.documentElement.scrollWidth;
  if (all > width + 1) wide.push(`the page is ${all} pixels wide`);
  const named = [...document.querySelectorAll('[id], a[name]')];
  const links = [...document.querySelectorAll('a[href]')];
  const says = (e) => [e.textContent, e.title, e.ariaLabel, ...[...e.querySelectorAll('img')].map((i) => i.alt)];
  const scrolling = (e) => [e, e.parentElement].some((each) => each.scrollWidth > each.clientWidth + 1);
  const start = (e) => e.textContent.trim().replace(/\\s+/g, ' ').slice(0, 60);
  return {
    wide,
    title: document.title,
    text: [...document.querySelectorAll('h1, nav, a')].map((e) => e.textContent).join('\\n'),
    tables: [...document.querySelectorAll('article table')].filter(scrolling).map(start),
    ids: named.flatMap((e) => [e.id, e.getAttribute('name')]).filter(Boolean),
    links: links.map((e) => e.href),
    unnamed: links.filter((e) => !says(e).some((text) => text && text.trim())).map((e) => e.getAttribute('href')),
  };
}"""


def browser_of(playwright: Any) -> Any:
    """Return playwright's Chromium, or the system's."""
    from playwright.sync_api import Error  # here, as tests import all of tests/ without it

    try:
        return playwright.chromium.launch()
    except Error:
        found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if found is None:
            sys.exit(
                "check_site: there must be a Chromium, got none; `playwright install chromium` or a package of the "
                "system (such as Debian's chromium) installs one"
            )
        return playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


def opened(browser: Any, width: int, errors: list[str]) -> Any:
    """Return a tab of this width that appends errors to a list, and blocks requests to other sites."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("requestfailed", lambda request: errors.append(f"request for {request.url} failed"))
    return tab


def visit(browser: Any, pages: list[Path]) -> Iterator[tuple[Path, str, dict[str, Any], list[str]]]:
    """Yield each page with the window's name, its links, anchors and wide elements, and the errors of the console."""
    for name, width in WIDTHS.items():
        errors: list[str] = []
        tab = opened(browser, width, errors)
        for page in pages:
            errors.clear()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
            yield page, name, tab.evaluate(LOOK), list(dict.fromkeys(errors))
        tab.close()


def faults_of(seen: dict[str, Any], window: str) -> Iterator[str]:
    """Yield what is wrong with what a page shows in a window."""
    if NO_TITLE in f"{seen['title']}\n{seen['text']}" or not seen["title"].strip():
        yield f"a title is missing, on the page or in a link to one: {seen['title']!r}"
    yield from (f"the link to {link} has no text" for link in seen["unnamed"])
    yield from seen["wide"]
    if window == "wide":
        yield from (f"a table is wider than the text: {table}" for table in seen["tables"])


def dead_links(site: Path, found: dict[Path, dict[str, Any]]) -> Iterator[str]:
    """Yield links to files that are not in the site, and to anchors that the page does not have."""
    anchors = {page.as_uri(): {*seen["ids"], "", "top"} for page, seen in found.items()}
    for page, seen in found.items():
        for link in dict.fromkeys(seen["links"]):
            address, anchor = urldefrag(urljoin(page.as_uri(), link))
            if not address.startswith("file:"):
                continue
            target = Path(unquote(address.removeprefix("file://")))
            if not target.exists():
                yield f"{page.relative_to(site)}: there is no {target}"
            elif address in anchors and unquote(anchor) not in anchors[address]:
                yield f"{page.relative_to(site)}: {target.name} has no anchor #{unquote(anchor)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "docs", help="the built site")
    site = parser.parse_args().folder.resolve()
    pages = sorted(page for page in site.rglob("*.html") if "_static" not in page.parts and page.name not in OWN)
    if not pages:
        sys.exit(f"check_site: folder must have the built site, got no pages in {site}; run make docs first")
    faults, found = list(wrong_answers(site)), {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        for page, window, seen, errors in visit(browser, pages):
            found[page] = seen
            faults += [f"{page.relative_to(site)}, {window}: {fault}" for fault in (*errors, *faults_of(seen, window))]
        browser.close()
    faults += dead_links(site, found)
    print("\n".join(faults), end="\n" if faults else "")
    print(f"{len(pages)} pages at {' and '.join(map(str, WIDTHS.values()))} pixels: {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
