"""Every figure on the pages is what a result file gives, or has a reason; ``evidence`` has the table of both."""

from __future__ import annotations

import pytest

from tests.docs.evidence import READ, ROWS, TABLES, TEXT, AtMost, Evidence
from tests.docs.pages import DOCS, PAGES, Figure, numbers, read, sections, tables, without_tables

QUOTED = sorted({page for page, _ in TABLES})


def figures(text: str) -> list[Figure]:
    return [figure for figure in numbers(text) if figure.counts]


def tables_below(page: str, heading: str) -> list[list[list[str]]]:
    found = [tables(text) for title, text in sections(read(page)) if title == heading]
    assert len(found) == 1, f"{page} has {len(found)} headings {heading!r}; evidence/ names its tables by heading"
    return found[0]


def row_of(page: str, cells: list[str]) -> str | None:
    """The word by which ``ROWS`` knows a row, if it does: all words but the first may be in more than one row."""
    return next((word for word in ROWS.get(page, {}) if word in " ".join(cells) and figures(" ".join(cells))), None)


def free_text(page: str) -> str:
    """A page without the tables and rows that are compared cell by cell."""
    text = []
    for heading, below in sections(read(page)):
        text += [heading, without_tables(below)]
        described = TABLES.get((page, heading), [])
        for i, table in enumerate(tables(below)):
            if i >= len(described) or described[i] is None:
                text += [" | ".join(cells) for cells in table if row_of(page, cells) is None]
    return "\n".join(text)


@pytest.mark.parametrize(("page", "heading"), TABLES)
def test_a_table_is_what_its_files_give(page, heading):
    shown, expected = tables_below(page, heading), TABLES[page, heading]
    assert len(shown) == len(expected)
    for table, build in zip(shown, expected, strict=True):
        assert build is None or table == build()


@pytest.mark.parametrize("page", ROWS)
def test_a_row_has_the_figures_of_its_files_in_order(page):
    rows = [cells for _, text in sections(read(page)) for table in tables(text) for cells in table]
    named = {word: cells for cells in rows if (word := row_of(page, cells)) is not None}
    assert set(named) == set(ROWS[page])
    for word, evidence in ROWS[page].items():
        assert [str(f) for f in figures(" ".join(named[word]))] == [shown for shown, _ in evidence]


@pytest.mark.parametrize("page", PAGES)
def test_every_other_figure_has_a_source_or_a_reason(page):
    listed = [Figure.of(shown) for shown, _ in TEXT.get(page, [])]
    unknown = [str(f) for f in figures(free_text(page)) if not any(f.is_the_same_as(other) for other in listed)]
    assert not unknown, f"{page} shows figures that evidence/ does not list: {unknown}"


@pytest.mark.parametrize("page", TEXT)
def test_every_listed_figure_is_on_its_page(page):
    shown = numbers(free_text(page))
    missing = [text for text, _ in TEXT[page] if not any(Figure.of(text).is_the_same_as(f) for f in shown)]
    assert not missing, f"{page} no longer shows figures that evidence/ lists: {missing}"


LISTED = [(page, *evidence) for page, listed in TEXT.items() for evidence in listed]
LISTED += [(page, *evidence) for page, rows in ROWS.items() for listed in rows.values() for evidence in listed]


@pytest.mark.parametrize("page", PAGES)
def test_every_listed_figure_is_its_source_rounded_to_the_digits_shown(page):
    wrong = [f"{shown}: {source}" for of, shown, source in LISTED if of == page and not agrees(shown, source)]
    assert not wrong, f"{page} shows figures that their files do not give: {wrong}"


def agrees(shown: str, source: Evidence | float | str) -> bool:
    if isinstance(source, AtMost):
        return 0 <= Figure.of(shown).value - source <= 2 * Figure.of(shown).half
    return isinstance(source, str) or Figure.of(shown).rounds(source)


def test_every_result_file_is_quoted_and_named_on_a_page():
    patterns = ("study_*.json", "benchmark_*.jsonl", "verify_*.json", "gpu_*.json")
    files = {file.name for pattern in patterns for file in DOCS.glob(pattern)}
    for builds in TABLES.values():
        for build in builds:
            if build is not None:
                build()
    assert files == READ
    text = "".join(read(page) for page in PAGES)
    assert not {file for file in files if f"({file})" not in text}


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("26.83 dB", "26.83", "dB"),
        ("343.9M parameters", "343.9", "M"),
        ("a 95 % interval", "95", "%"),
        ("[-0.0005", "-0.0005", None),
        ("8.1e-6 in", "8.1e-6", None),
        ("1.3 times", "1.3", None),
        ("4.2\nGB", "4.2", "GB"),
    ],
)
def test_a_figure_is_read_with_its_unit(text, number, unit):
    assert figures(text) == [Figure(number, unit)]


@pytest.mark.parametrize(
    "text", ["torch 2.13.0", "64^3", "2^-12", "arXiv:2504.10883", "`1.5`", "[a](b-1.5.md)", "8-bit"]
)
def test_a_name_is_no_figure(text):
    assert not figures(text)


def test_a_figure_rounds_to_the_digits_shown():
    assert Figure.of("26.83").rounds(26.8251)
    assert not Figure.of("26.83").rounds(26.8249)
    assert Figure.of("8.1e-6").rounds(8.106e-6)
    assert not Figure.of("8.1e-6").rounds(8.2e-6)
