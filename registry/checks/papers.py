"""Rules on what a reader looks for in a repo: its licence, how to cite it, and a card without gaps."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from registry import lines, names
from registry.checks.rules import Draft, rule
from registry.errors import MregError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.repo import RepoFiles

CARD, CITATION = "README.md", "CITATION.cff"
LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "COPYING")
# Words that only one licence has → its SPDX identifier, versions aside.
TELLTALES = {
    "Apache": r"Apache License",
    "MIT": r"Permission is hereby granted, free of charge",
    "AGPL": r"GNU AFFERO GENERAL PUBLIC LICENSE",
    "LGPL": r"GNU LESSER GENERAL PUBLIC LICENSE",
    "GPL": r"GNU GENERAL PUBLIC LICENSE",
    "CC-BY": r"Creative Commons",
    "BSD": r"Redistribution and use in source and binary forms",
}
GAP = re.compile(r"\b(?:TODO|FIXME|TBD|XXX)\b|\blorem ipsum\b", re.IGNORECASE)
MOST = 20  # places in a file
CITED = ("cff-version", "message", "title", "authors")
DOWNLOAD = re.compile(r"/releases/(?:download|tag|expanded_assets)/([^\s/)\"'>#]+)(?:/([^\s)\"'>#]+))?")
DATE = re.compile(r"r?(20\d{6})")


@rule("REPO002", "warning")
def licence_is_there(repo: RepoFiles) -> Iterator[Draft]:
    """A LICENSE file says what others may do."""
    if not any(repo.text(name).strip() for name in LICENCES):
        yield "LICENSE", "no licence file", "add one; mreg new writes it"


@rule("REPO003", "warning")
def citation_is_there(repo: RepoFiles) -> Iterator[Draft]:
    """CITATION.cff says how to cite the model."""
    if not repo.text(CITATION).strip():
        yield CITATION, f"no {CITATION}", "add one; mreg new writes it"


@rule("REPO011", "warning")
def licence_is_the_one_named(repo: RepoFiles) -> Iterator[Draft]:
    """The licence file is the licence that model.toml names."""
    path = next((name for name in LICENCES if repo.text(name).strip()), "")
    if not path or isinstance(repo.toml, MregError):
        return
    text, named = repo.text(path), repo.toml.model.licence
    found = next((licence for licence, words in TELLTALES.items() if re.search(words, text, re.IGNORECASE)), "")
    known = next((licence for licence in TELLTALES if named.upper().startswith(licence.upper())), "")
    if found and known and found != known:
        yield path, f"is a text of {found}, model.toml says {named}", "mend one of them", 1


@rule("REPO012", "warning")
def citation_is_complete(repo: RepoFiles) -> Iterator[Draft]:
    """CITATION.cff has version, message, title and authors, which GitHub needs to show it."""
    text = repo.text(CITATION)
    there = re.findall(r"^([\w-]+)\s*:", text, re.MULTILINE)
    missing = [key for key in CITED if key not in there]
    if text.strip() and missing:
        yield CITATION, f"lacks {', '.join(missing)}", "see citation-file-format.github.io", 1


@rule("REPO013", "warning")
def papers_have_no_gaps(repo: RepoFiles) -> Iterator[Draft]:
    """README.md and CITATION.cff have nothing left to do in them."""
    for path in (CARD, CITATION):
        text = repo.text(path)
        for found in islice(GAP.finditer(text), MOST):
            row = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
            line = lines.at(text, found.start())
            yield path, f"unfinished: {row.strip()[:80]}", "write it, or take it out", line


@rule("REPO014", "warning")
def links_name_real_releases(repo: RepoFiles) -> Iterator[Draft]:
    """Links to releases in README.md have tags of the repo's policy, and files of the tag's date."""
    if isinstance(repo.toml, MregError):
        return
    text = repo.text(CARD)
    for found in islice(DOWNLOAD.finditer(text), MOST):
        tag, file = found[1], found[2] or ""
        code = names.check_tag(tag) if repo.toml.release.tags == "date" else None
        line = lines.at(text, found.start())
        if code:
            yield CARD, f"links to the release {tag}: {names.EXPLANATIONS[code]}", "link to a release that is", line
        dates = set(DATE.findall(file))
        if dates and not dates & set(DATE.findall(tag)) and DATE.fullmatch(tag):
            message = f"{file} is linked as a file of the release {tag}, and its name has another date"
            yield CARD, message, "a file's name ends in its release's tag", line


RULES = [
    licence_is_there, citation_is_there, licence_is_the_one_named, citation_is_complete, papers_have_no_gaps,
    links_name_real_releases,
]  # fmt: skip
