"""Rules on what must not be told: places and people of the machine that trained, and the people in the images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from registry import lines, scrub
from registry.checks.png import texts as png_texts
from registry.checks.rules import Draft, line_of, read_object, rule
from registry.errors import MregError
from registry.pickles import Call
from registry.tree import LARGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model_files import ModelFiles
    from registry.findings import Finding
    from registry.tree import Tree

TEXTS = (".json", ".jsonl", ".txt", ".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".log", ".csv", ".tsv")
# People write addresses and paths elsewhere.
MACHINE_MADE = (".json", ".jsonl", ".txt", ".log", ".py", ".csv", ".tsv", ".png")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b")
NOBODYS = re.compile(r"(?i)@users\.noreply\.github\.|^git@|^noreply@")
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\+Users)[/\\]+[\w.-]+")
HOST_KEYS = {"hostname", "host", "nodename", "computername", "machine", "username", "user", "login"}
HOST = re.compile(r"\b(?:hostname|nodename|username)[\"']?\s*[:=]\s*[\"']?([\w.-]+)", re.IGNORECASE)
# Root of every identifier that DICOM devices and programs make, and the attributes that name a person or a place.
UID = re.compile(
    r"(?<![\d.])(?:1\.2\.(?:840|826|276|392|156|410)|1\.3\.(?:6\.1\.4\.1|12\.2|46)|2\.16\.840|2\.25)\.[\d.]{8,60}"
)
PERSONAL = (
    "PatientName|PatientID|PatientBirthDate|PatientAddress|PatientSex|PatientAge|PatientWeight|OtherPatientIDs|"
    "AccessionNumber|StudyInstanceUID|SeriesInstanceUID|SOPInstanceUID|FrameOfReferenceUID|StudyID|StudyDate|"
    "AcquisitionDate|AcquisitionDateTime|InstitutionName|InstitutionAddress|InstitutionalDepartmentName|"
    "ReferringPhysicianName|PerformingPhysicianName|OperatorsName|DeviceSerialNumber|StationName"
)
ATTRIBUTE = re.compile(rf"\b({PERSONAL})[\"']?\s*[:=]\s*[\"']?([^\s\"',}}\]]+)")
TAG = re.compile(r"\(0010,[0-9a-fA-F]{4}\)")
SUBJECT = re.compile(r"\bsub-[A-Za-z0-9]+(?:_[A-Za-z0-9-]+)*")
NOBODY = {"", "<name>", "none", "unknown", "localhost"}
MOST = 3  # of a kind in a file
MOST_PEOPLE = 20
SCRUBS = "mreg package takes it out"


def _texts(tree: Tree, endings: tuple[str, ...] = (*TEXTS, ".png")) -> Iterator[tuple[str, str]]:
    """Yield path and text of every file that is text, and the texts that pictures carry."""
    for path in tree.files():
        if not path.lower().endswith(endings):
            continue
        try:
            if path.lower().endswith(".png"):
                if tree.size(path) <= LARGEST_TEXT:
                    yield path, "\n".join(text for _, text in png_texts(tree.read_bytes(path)))
            else:
                yield path, tree.read_text(path)
        except MregError:
            continue  # JSON001 and the archive's rules say that it cannot be read


def _found(tree: Tree, pattern: re.Pattern[str], endings: tuple[str, ...]) -> Iterator[tuple[str, str, int | None]]:
    """Yield path, text and line of the first places of different texts that a pattern finds."""
    for path, text in _texts(tree, endings):
        seen: dict[str, int] = {}
        for match in pattern.finditer(text):
            if match[0] not in seen:
                seen[match[0]] = match.start()
            if len(seen) == MOST:
                break
        for word, position in seen.items():
            yield path, word, None if path.lower().endswith(".png") else lines.at(text, position)


@rule("PRIVACY001")
def no_home_folders(tree: Tree) -> Iterator[Draft]:
    """No text, and no text in a picture, names a home folder."""
    for path, word, line in _found(tree, HOME, (*TEXTS, ".png")):
        yield path, f"names a home folder: {word}", SCRUBS, line


@rule("PRIVACY002", "warning")
def no_absolute_paths(tree: Tree) -> Iterator[Draft]:
    """No JSON file, log, code or picture names an absolute path."""
    for path, text in _texts(tree, MACHINE_MADE):
        if HOME.search(text) or scrub.paths(text) == text:
            continue
        bad = [number for number, line in enumerate(text.splitlines(), start=1) if scrub.paths(line) != line]
        more = f" in {len(bad)} lines" if len(bad) > 1 else ""
        line = bad[0] if bad and not path.lower().endswith(".png") else None
        yield path, f"holds absolute paths{more}", "mreg package takes them out", line


@rule("PRIVACY003", "warning")
def no_addresses(tree: Tree) -> Iterator[Draft]:
    """No JSON file, log, code or picture holds an e-mail address."""
    for path, word, line in _found(tree, EMAIL, MACHINE_MADE):
        if not NOBODYS.search(word):
            yield path, f"holds an e-mail address: {word}", "take it out", line


@rule("PRIVACY004", "warning")
def no_text_in_pictures(tree: Tree) -> Iterator[Draft]:
    """No PNG carries text."""
    for path in tree.files():
        if path.lower().endswith(".png") and tree.size(path) <= LARGEST_TEXT:
            found = png_texts(tree.read_bytes(path))
            kinds = sorted({kind for kind, _ in found})
            if kinds:
                said = "; ".join(text for _, text in found if text.strip())[:80]
                yield path, f"carries text ({', '.join(kinds)}): {said}", SCRUBS


@rule("PRIVACY005")
def no_case_lists(tree: Tree) -> Iterator[Draft]:
    """No dataset.json lists cases."""
    for path in tree.files():
        if path.rpartition("/")[2] == "dataset.json":
            document = read_object(tree, path) or {}
            for key in [key for key in scrub.CASE_LISTS if document.get(key)]:
                hint = "mreg package leaves the list out"
                yield path, f"lists cases under {key}", hint, line_of(tree, path, key)


@rule("PRIVACY006")
def no_host(tree: Tree) -> Iterator[Draft]:
    """No JSON file or log names the computer or the user that trained."""
    for path, text in _texts(tree, (".json", ".txt", ".log")):
        if path.endswith(".json"):
            for key, value in _hosts(read_object(tree, path)):
                hint = "mreg package leaves it out"
                yield path, f"names the computer or its user: {value}", hint, line_of(tree, path, *key)
        else:
            for found in list(HOST.finditer(text))[:MOST]:
                yield path, f"names the computer or its user: {found[1]}", SCRUBS, lines.at(text, found.start())


def _hosts(document: Any) -> list[tuple[tuple[str | int, ...], str]]:
    """Return where a document names a computer or a user, and which."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    rest: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while rest:
        place, node = rest.pop()
        inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in inside:
            if isinstance(value, dict | list):
                rest.append(((*place, key), value) if len(place) < lines.DEEPEST else (place, value))
            elif str(key).lower() in HOST_KEYS and isinstance(value, str) and value.lower() not in NOBODY:
                found.append(((*place, key), value))
    return found


@rule("PRIVACY007")
def no_identifiers(tree: Tree) -> Iterator[Draft]:
    """No text names a patient, a clinic or a DICOM identifier."""
    endings = (*TEXTS, ".png")
    for path, text in _texts(tree, endings):
        for found in list(ATTRIBUTE.finditer(text))[:MOST]:
            if found[2].lower() not in ("null", "none", "anonymous", "anonymized", "n/a", "[", "{"):
                where = None if path.lower().endswith(".png") else lines.at(text, found.start())
                yield path, f"has DICOM's {found[1]}: {found[2][:40]}", "take it out: it leads to a person", where
    for pattern in (UID, TAG):
        for path, word, line in _found(tree, pattern, endings):
            yield path, f"has a DICOM identifier: {word}", "take it out: it leads to a person", line


@rule("PRIVACY008", "warning")
def no_subjects(tree: Tree) -> Iterator[Draft]:
    """No JSON file, log, code or table of a release names subjects."""
    for path, text in _texts(tree, MACHINE_MADE):
        found = list(dict.fromkeys(match[0] for match in SUBJECT.finditer(text)))
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            line = None if path.lower().endswith(".png") else lines.at(text, text.index(found[0]))
            yield path, f"names subjects: {found[0]}{more}", "leave the file out, or the names", line


@rule("PRIVACY009", "warning")
def no_people(tree: Tree) -> Iterator[Draft]:
    """A user or computer that one file names is named by no other, either."""
    every = list(_texts(tree, MACHINE_MADE))
    debug = [read_object(tree, path) or {} for path, _ in every if path.rpartition("/")[2] == "debug.json"]
    people = scrub.scrubber(None, debug, [text for _, text in every]).people
    for name in sorted(name for name in people if len(name) >= scrub.SHORTEST_NAME)[:MOST_PEOPLE]:
        pattern = re.compile(rf"(?<![\w/\\.-]){re.escape(name)}(?![\w.-])")
        for path, text in every:
            found = pattern.search(text)
            hosts = _hosts(read_object(tree, path)) if path.endswith(".json") else []
            if found and not any(name in value for _, value in hosts):  # PRIVACY006 has said it
                line = None if path.lower().endswith(".png") else lines.at(text, found.start())
                yield path, f"says {name}, which other lines show to be a user or a computer", SCRUBS, line


@rule("PRIVACY010")
def checkpoint_tells_of_nobody(model: ModelFiles) -> Iterator[Draft]:
    """The metadata of a released checkpoint name no subject, address, computer or DICOM identifier."""
    for path, contents in model.parsed.items() if model.released else ():
        texts = "\n".join(_strings(contents.document))
        kinds = {"subjects": SUBJECT, "e-mail addresses": EMAIL, "DICOM identifiers": UID, "patients": ATTRIBUTE}
        for kind, pattern in {**kinds, "computers": HOST}.items():
            found = sorted({match[0] for match in pattern.finditer(texts) if not NOBODYS.search(match[0])})
            if found:
                yield path, f"names {kind}: {', '.join(found[:MOST])[:200]}", SCRUBS


def _strings(document: Any) -> Iterator[str]:
    """Yield the texts of a parsed pickle; a text that is the value of a key as "key: value"."""
    rest: list[Any] = [document]
    seen: set[int] = set()
    while rest:
        node = rest.pop()
        if isinstance(node, str):
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, dict):
                yield from (f"{key}: {value}" for key, value in node.items() if isinstance(value, str))
                rest += [*node.keys(), *(value for value in node.values() if not isinstance(value, str))]
            elif isinstance(node, list | tuple | set | frozenset):
                rest += node
            elif isinstance(node, Call):
                rest += [node.arguments, node.elements, node.items, node.state]


CHECKPOINT_RULES = [checkpoint_tells_of_nobody]
RULES = [
    no_home_folders, no_absolute_paths, no_addresses, no_text_in_pictures, no_case_lists, no_host, no_identifiers,
    no_subjects, no_people,
]  # fmt: skip
EVERYWHERE = [no_identifiers]  # of a repo, which has rules of its own for paths and lists of cases


def findings(tree: Tree) -> Iterator[Finding]:
    """Yield what would be told."""
    for entry in RULES:
        yield from entry.run(tree)
