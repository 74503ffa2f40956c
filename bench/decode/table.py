"""The family decode's numbers as Markdown, with the goals."""

from __future__ import annotations

from bench.decode import models, never_slower, products
from bench.harness import tables
from bench.harness.contest import Record


def markdown(results: Record) -> str:
    sections = {"products": products.markdown, "models": models.markdown, "never-slower": never_slower.markdown}
    return tables.document(results, sections)
