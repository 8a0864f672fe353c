"""The Markdown pages of this project: their headings, links, code, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "bundle" / "docs"
CONFIGS = ROOT / "bundle" / "configs"
PAGES = [
    str(page.relative_to(ROOT))
    for page in (
        *sorted(ROOT.glob("*.md")),
        ROOT / "monai_idm" / "reversible" / "NOTES.md",
        *sorted(DOCS.glob("*.md")),
    )
]

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
# numbers that are no figures: of a reference, a version, a licence
_NAMES = re.compile(r"arXiv:\d+\.\d+|Python \d\.\d+|version \d\.\d+|Apache-2\.0|CC BY-SA 3\.0")
_NUMBER = r"[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_FIGURE = re.compile(rf"(?<![\w.,^/-])({_NUMBER})(?! ?\^)(?!\.\d)(?:\s?(dB|GB|GiB|MB|MiB|%|M))?(?!\w)")


@dataclass(frozen=True)
class Figure:
    """A number as a page shows it, ``"26.83"``, with its unit, or None."""

    number: str
    unit: str | None

    @classmethod
    def of(cls, shown: str) -> Figure:
        """From text such as ``"26.83"``, ``"4.2 GB"`` or ``"344M"``."""
        (figure,) = numbers(shown)
        return figure

    @property
    def counts(self) -> bool:
        """Whether it needs a source: it has decimals, an exponent or a unit; 64, 2000 and 16^3 do not."""
        return self.unit is not None or "." in self.number or "e" in self.number

    @property
    def value(self) -> float:
        return float(self.number.replace("−", "-"))

    @property
    def half(self) -> float:
        """Half a unit of the last digit."""
        mantissa, _, exponent = self.number.partition("e")
        return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))

    def rounds(self, value: float) -> bool:
        """Whether the value, rounded to the digits shown, is this number."""
        return abs(value - self.value) <= self.half * (1 + 1e-9)

    def is_the_same_as(self, other: Figure) -> bool:
        """Whether both show the same digits, in the same unit where both have one."""
        return self.number == other.number and (self.unit == other.unit or None in (self.unit, other.unit))

    def __str__(self) -> str:
        return self.number + {None: "", "M": "M"}.get(self.unit, f" {self.unit}")


def read(page: str) -> str:
    """The text of a page, named as in ``PAGES``."""
    return (ROOT / page).read_text()


def links(text: str) -> Iterator[str]:
    """Targets of links and images."""
    for link in _LINK.finditer(_FENCE.sub("", text)):
        yield link[1] or link[2]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code(text: str) -> Iterator[str]:
    """Lines of fenced code, and code within lines, which may be wrapped."""
    for block in _FENCE.findall(text):
        yield from (line.strip() for line in block.splitlines()[1:-1])
    for span in _SPAN.findall(_FENCE.sub("", text)):
        yield " ".join(span.split())


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The heading and the text below each heading of any level, up to the next; the text above the first has none."""
    parts = re.split(r"^#+ (.+)$\n", _FENCE.sub("", text), flags=re.MULTILINE)
    yield from zip(["", *parts[1::2]], parts[::2], strict=True)


def tables(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells, the header first."""
    found: list[list[list[str]]] = [[]]
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def without_tables(text: str) -> str:
    """The text without the lines of its tables."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("|"))


def numbers(text: str) -> list[Figure]:
    """Every number in a text, code and targets of links excepted, in order."""
    text = re.sub(r"\]\([^)]*\)", "]", _SPAN.sub(" ", _FENCE.sub("", text)))
    return [Figure(match[1], match[2]) for match in _FIGURE.finditer(_NAMES.sub("", text))]
