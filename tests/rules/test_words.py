"""Identifiers use the terms of the field: no word here needs a glossary of this project."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tests.rules import known
from tests.rules.source import native_names, native_sources, python_names, python_sources, words

# Word of this project alone → the term of the field. As a whole word, or words in a row, of any identifier.
TERMS = {
    "laid out": "prepacked",
    "put back": "fall back to float",
    "vetted": "parse, validate",
    "blame": "sensitivity",
    "blamed": "sensitivity",
    "lessons": "distillation set",
    "mixture": "mixed precision",
    "effort": "compute budget",
    "afford": "compute budget",
    "begun": "workspace",
    "suited": "adapt for engine",
    "sixteen": "half formats",
    "ways": "runners, peers",
    "roll": "from program",
    "rolled": "from program",
    "prove": "evaluate",
    "proof": "held-out reference",
    "proving": "evaluate",
}
# A variable is named for what it holds. Python alone: in C++ `found = map.find(key)` is what everybody writes.
VARIABLES = {"told", "found", "made", "given", "way"}


def private_words(names: Iterable[str], terms: Iterable[str], variables: Iterable[str] = ()) -> set[str]:
    """Which of `terms` occur in identifiers, and which of `variables` are one."""
    spoken = words(names)
    return {term for term in terms if any(re.search(rf"\b{term}\b", name) for name in spoken)} | spoken & set(variables)


def occurrences() -> dict[str, list[str]]:
    """Word → files that have it in an identifier."""
    found: dict[str, list[str]] = {}
    for path, source in python_sources().items():
        for word in private_words(python_names(path, source), TERMS, VARIABLES):
            found.setdefault(word, []).append(f"aigc_edge/{path}")
    for path, source in native_sources().items():
        for word in private_words(native_names(path, source), TERMS):
            found.setdefault(word, []).append(f"csrc/{path}")
    return found


def test_identifiers_use_the_terms_of_the_field() -> None:
    found = occurrences()
    more = [
        f"{word} → {TERMS.get(word, 'what it holds')}: {', '.join(paths)}"
        for word, paths in found.items()
        if word not in known.PRIVATE_WORDS
    ]
    assert not more, "\n".join(more)
    assert known.PRIVATE_WORDS - set(found) == set(), "nothing has these any more: remove them from tests/rules/known.py"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def laid_out(): ...", {"laid out"}),
        ("class LaidOutNetwork: ...", {"laid out"}),
        ("def f(lessons): ...", {"lessons"}),
        ("a.blame = 1", {"blame"}),
        ("found = 1\nis_found = 2", {"found"}),
        ("blameless = outlaid = 1\nprint(found, x.made)  # laid_out, put_back", set()),
    ],
)
def test_private_words_are_found_in_python(source: str, expected: set[str]) -> None:
    assert private_words(python_names("a/b.py", source), TERMS, VARIABLES) == expected


def test_the_name_of_a_file_counts() -> None:
    assert private_words(python_names("engines/laid_out.py", ""), TERMS) == {"laid out"}
    assert private_words(native_names("runtime/laid_out.cpp", ""), TERMS) == {"laid out"}


def test_private_words_are_found_in_native_code() -> None:
    source = 'int put_back; // vetted\n/* blame\n */ auto s = "lessons \\" mixture"; char c = \'"\'; bool laidOut;'
    assert private_words(native_names("x.cpp", source), TERMS) == {"put back", "laid out"}
