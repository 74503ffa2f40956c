"""The pages that the site's search should find first, and the search itself on the index of a built site.

Not a test module: check_site.py asks the index of what `make docs` has built, and test_site_search.py the pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Questions that visitors may type, one for each family and more, and the page that has to come first
QUESTIONS = {
    "value iteration": "mdp/index",
    "LSTM": "rnn/index",
    "Mamba": "ssm/index",
    "linear attention": "ssm/attention",
    "delta rule": "delta/index",
    "linear recurrence": "scan/index",
    "Newton's method": "newton/index",
    "Gauss-Seidel": "relax/index",
    "lasso": "bcd/index",
    "Anderson acceleration": "fixedpoint/index",
    "deep equilibrium model": "fixedpoint/implicit",
    "quantization": "quant/index",
    "transformers": "accelerate/index",
    "text generation": "decode/index",
    "sequence parallelism": "distributed/index",
    "launch shape": "tune/index",
}

Found = list[tuple[int, str, str]]  # scores, titles and names of pages


def titles_and_entries(index: dict[str, Any], query: str) -> Iterator[tuple[int, int, bool]]:
    """Yield page, score and whether a result is sorted with the others, for titles and entries that have the query."""
    for title, places in index["alltitles"].items():
        if query in title.lower() and 2 * len(query) >= len(title):
            for page, _ in places:
                yield page, int(15 * len(query) / len(title) + 0.5) + (index["titles"][page] == title), True
    for entry, places in index["indexentries"].items():
        if query in entry and 2 * len(query) >= len(entry):
            for page, _, is_main in places:
                yield page, int(100 * len(query) / len(entry) + 0.5), bool(is_main)


def objects(index: dict[str, Any], words: set[str]) -> Iterator[tuple[int, int]]:
    """Yield page and score of the functions and classes whose names have one of the words and whose line has all."""
    for prefix, members in index["objects"].items():
        for page, kind, priority, _, name in members:
            full = f"{prefix}.{name}".lstrip(".").lower()
            line = f"{prefix} {name} {index['objnames'][str(kind)][2]} {index['titles'][page]}".lower()
            for word in words:
                if word in full and all(other in line for other in words - {word}):
                    last = full.rpartition(".")[2]
                    of_name = 11 if word in (full, last) else 6 if word in last else 0
                    yield page, of_name + {0: 15, 1: 5, 2: -5}.get(priority, 0)


def texts(index: dict[str, Any], stems: set[str]) -> Iterator[tuple[int, int]]:
    """Yield page and score of the pages that have all stems of three letters and more in their text or titles."""
    scores: dict[int, dict[str, int]] = {}
    for stem in stems:
        parts = index["terms"], index["titleterms"]
        records = [(part[stem], score) for part, score in zip(parts, (5, 15), strict=True) if stem in part]
        for part, score in zip(parts, (2, 7), strict=True):
            if stem not in part and len(stem) > 2:
                records += [(pages, score) for term, pages in part.items() if stem in term]
        for pages, score in records:  # the last one of a page counts, as in searchtools.js
            for page in pages if isinstance(pages, list) else [pages]:
                scores.setdefault(page, {})[stem] = score
    enough = {len(stems), sum(len(stem) > 2 for stem in stems)}
    yield from ((page, max(of_page.values())) for page, of_page in scores.items() if len(of_page) in enough)


def search(index: dict[str, Any], query: str, stem: Callable[[str], str]) -> Found:
    """Return what Sphinx's searchtools.js finds, best first, with its scores for titles, entries, objects and text.

    ``stem`` returns an empty text for a word that the search skips.
    """
    query = query.strip().lower()
    words = [word for word in re.split(r"\W+", query) if word]
    first, last = [], []  # entries that are not main ones come after everything else
    for page, score, is_sorted in titles_and_entries(index, query):
        (first if is_sorted else last).append((page, score))
    first += objects(index, set(words))
    first += texts(index, {stem(word) for word in words} - {""})
    found: Found = []
    for group in (first, last):
        named = [(score, index["titles"][page], index["docnames"][page]) for page, score in group]
        found += sorted(named, key=lambda result: (-result[0], result[1].lower()))
    return found


def wrong_answers(site: Path) -> Iterator[str]:
    """Yield the questions for which the search of a built site finds another page first."""
    from sphinx.search.en import SearchEnglish  # here, as tests import all of tests/ without it

    text = (site / "searchindex.js").read_text().removeprefix("Search.setIndex(").rstrip().rstrip(";")
    index = json.loads(text.removesuffix(")"))
    english = SearchEnglish({})

    def stem(word: str) -> str:
        return "" if word in english.stopwords or word.isdigit() else str(english.stem(word))

    for question, page in QUESTIONS.items():
        found = search(index, question, stem)
        if not found or found[0][2] != page:
            yield f"search: {question!r} must find {page} first, got {[(name, score) for score, _, name in found[:3]]}"
