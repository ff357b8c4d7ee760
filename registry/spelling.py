"""What a misspelt name was probably meant to say, word by word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.vocabulary import CHARACTERS

if TYPE_CHECKING:
    from registry.vocabulary import Entry, Vocabulary

LONGEST_RUN = 3  # hyphenated items that are tried as one word
SHORT_ITEM, LONG_ITEM = 3, 6  # shorter than SHORT_ITEM is never corrected; from LONG_ITEM on by two letters


def guess_words(name: str, vocabulary: Vocabulary) -> list[tuple[str, Entry | None]]:
    """Cut an invalid name into words, each with its entry in the vocabulary where it has one."""
    cleaned = "".join(character if character in CHARACTERS else "_" for character in name)
    parts = [part for part in (part.strip("-") for part in cleaned.split("_")) if part]
    if parts and parts[0].lower() == "model":
        parts = parts[1:]
    elif parts and parts[0].lower().startswith("model-"):
        parts[0] = parts[0][len("model-") :]
    words: list[tuple[str, Entry | None]] = []
    for part in parts:
        whole = vocabulary.find(part)
        items = [part] if whole else [item for item in part.split("-") if item]
        while items:
            runs = ("-".join(items[:count]) for count in range(min(LONGEST_RUN, len(items)), 0, -1))
            text = next((run for run in runs if vocabulary.find(run)), items[0])
            words.append((text, vocabulary.find(text) or nearest(text, vocabulary)))
            items = items[1 if whole else 1 + text.count("-") :]
    return words


def nearest(item: str, vocabulary: Vocabulary) -> Entry | None:
    """Return the one term that is a typing error away, or nothing where none or several are."""
    if len(item) < SHORT_ITEM:
        return None
    allowed = 1 if len(item) < LONG_ITEM else 2
    close = [term for term in vocabulary.terms() if abs(len(term.term) - len(item)) <= allowed]
    distances = [(distance(item.lower(), term.term.lower()), term) for term in close]
    best = min((found for found, _ in distances), default=allowed + 1)
    candidates = [term for found, term in distances if found == best]
    return candidates[0] if best <= allowed and len(candidates) == 1 else None


def distance(left: str, right: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.

    The two rows before the current one of the classic table of Damerau (1964) and Levenshtein (1966) are enough,
    since a swapped pair may not be edited again.
    """
    older: list[int] = []
    above = list(range(len(right) + 1))
    for i, a in enumerate(left):
        row = [i + 1]
        for j, b in enumerate(right):
            cost = min(above[j] + (a != b), above[j + 1] + 1, row[j] + 1)
            if i and j and a == right[j - 1] and left[i - 1] == b:
                cost = min(cost, older[j - 1] + 1)
            row.append(cost)
        older, above = above, row
    return above[-1]
