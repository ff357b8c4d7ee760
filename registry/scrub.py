"""What must not leave the machine that trained: paths, hosts, users and the names of cases.

Paths go from every file. Names go from logs and nnU-Net's debug.json only: in dataset.json and plans.json a word that
happens to be somebody's name may be a label.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tokenize
import zlib
from dataclasses import dataclass, field
from typing import Any

from registry.errors import IntegrityError, MregError

# A URL is left as it is (less a password), a path goes up to the quote that closes it, or to the end of its line:
# what follows an unquoted path with blanks cannot be told from it.
_PLACE = re.compile(
    r"""(?P<url>\b(?:https?|git|ssh|s3)://[^\s'"<>]+)
      | (?P<quote>['"]?)(?:
            (?<![\w.~/\\)\]-])(?:file:/{0,2})?(?:~[\w.-]*)?/[^\s/'"]+/[^\s'"]    # /home/jdoe, ~/data/x
          | (?<![A-Za-z0-9])[A-Za-z]:[\\/]+[^\s\\/'"]                            # C:\Users
          | (?<![\w\\])\\\\+[\w.-]+\\+[\w$]                                      # \\server\share
        )""",
    re.VERBOSE,
)
_PASSWORD = re.compile(r"//[^/@\s]+@")
_OWNER = re.compile(r"(?:/home|/Users|[A-Za-z]:[\\/]+Users)[\\/]+([\w.-]+)")
_TOKEN = re.compile(r"[^\W_][\w.+-]*")
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
NOBODY = {"root", "user", "users", "shared", "public", "admin", "ubuntu", "runner"}
SHORTEST_NAME = 3  # shorter ones are in every text

CASE_LISTS = ("training", "test", "validation", "dataset")
# Of debug.json, which holds every attribute of the trainer as text.
HARMLESS = (
    "batch_size", "configuration_name", "cudnn_version", "current_epoch", "device", "enable_deep_supervision", "fold",
    "gpu_name", "inference_allowed_mirroring_axes", "initial_lr", "is_cascaded", "is_ddp", "loss", "network",
    "num_epochs", "num_input_channels", "num_iterations_per_epoch", "num_val_iterations_per_epoch",
    "oversample_foreground_percent", "probabilistic_oversampling", "save_every", "torch_version", "weight_decay",
)  # fmt: skip
TEXTS_OF_CODE = ("COMMENT", "STRING", "FSTRING_MIDDLE")
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass(frozen=True)
class Scrubber:
    """Knows the names that one run must not tell."""

    cases: frozenset[str] = frozenset()
    people: frozenset[str] = field(default=frozenset())  # users and hosts

    def text(self, text: str) -> str:
        """Return a log, or a value of debug.json, without paths, hosts, users and names of cases."""
        return _TOKEN.sub(self._token, paths(text))

    def _token(self, found: re.Match[str]) -> str:
        token = found[0]
        if token in self.people:
            return "<name>"
        # CASE may stand with an ending: CASE.nii.gz, CASE_0000
        ends = [len(token), *(place.start() for place in re.finditer(r"[_.+-]", token))]
        if any(token[:end] in self.cases for end in ends) or _SUBJECT.match(token):
            return "<case>"
        parts = re.split(r"([._-])", token)
        return "".join("<name>" if part in self.people else part for part in parts)

    def names_a_case(self, value: Any) -> bool:
        """Whether a JSON value mentions a case."""
        text = json.dumps(value, ensure_ascii=False)
        return any("<case>" in self._token(found) for found in _TOKEN.finditer(text))

    def log(self, data: bytes) -> bytes:
        """Return a training log that may be published."""
        return self.text(data.decode("utf-8", "replace").replace("\r\n", "\n")).encode()

    def debug(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return what is of use in nnU-Net's debug.json."""
        return {key: self.text(str(document[key])) for key in HARMLESS if key in document}

    def dataset(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return dataset.json without its lists of cases, its keys in their order."""
        kept = {key: value for key, value in document.items() if key not in CASE_LISTS}
        contract = ("labels", "channel_names")
        return {
            key: value if key in contract else json_paths(value)
            for key, value in kept.items()
            if key in contract or not (isinstance(value, list | dict) and self.names_a_case(value))
        }

    def code(self, text: str, where: str) -> None:
        """Raise `MregError` for Python code with a path or a case in a text or a comment: code is not rewritten."""
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError) as error:
            raise MregError(f"{where}: not Python: {error}") from error
        for token in tokens:
            if tokenize.tok_name[token.type] in TEXTS_OF_CODE and self.text(token.string) != token.string:
                raise MregError(
                    f"{where}: line {token.start[0]}: {token.string.strip()[:80]} names a path, a case or a user",
                    hint="it would be published: take it from the environment or from a file, and train again",
                )


def scrubber(splits: Any, debug: list[dict[str, Any]], texts: list[str]) -> Scrubber:
    """Learn the names: cases from the splits, hosts from debug.json, users from the home folders that are mentioned."""
    cases: set[str] = set()
    for split in splits if isinstance(splits, list) else []:
        for part in split.values() if isinstance(split, dict) else []:
            cases.update(str(case) for case in part)
    hosts = {str(document.get("hostname", "")) for document in debug}
    hosts |= {host.partition(".")[0] for host in hosts}
    users = {user for text in texts for user in _OWNER.findall(text)}
    people = {name for name in users if len(name) >= SHORTEST_NAME and name.lower() not in NOBODY}
    return Scrubber(frozenset(case for case in cases if len(case) >= SHORTEST_NAME), frozenset(people | hosts) - {""})


def paths(text: str) -> str:
    """Return a text with `<path>` in the place of each absolute path."""
    parts, position = [], 0
    while found := _PLACE.search(text, position):
        parts.append(text[position : found.start()])
        if found["url"]:
            parts.append(_PASSWORD.sub("//", found["url"]))
            position = found.end()
            continue
        quote = found["quote"]
        closing = re.compile(f"{quote}|\n" if quote else "\n").search(text, found.end())
        position = closing.start() if closing else len(text)
        parts.append(f"{quote}<path>")
    return "".join([*parts, text[position:]])


def json_paths(value: Any) -> Any:
    """Return a JSON value without absolute paths."""
    if isinstance(value, str):
        return paths(value)
    if isinstance(value, list):
        return [json_paths(item) for item in value]
    if isinstance(value, dict):
        return {key: json_paths(item) for key, item in value.items()}
    return value


def picture(data: bytes, where: str) -> bytes:
    """Return a PNG with its picture only: texts, times and whatever follows its end are left out."""
    if not data.startswith(PNG_START):
        raise IntegrityError(f"{where}: not a PNG", hint="remove it: the figure is not needed")
    parts, position, kind = [PNG_START], len(PNG_START), b""
    while kind != b"IEND":
        if len(data) < position + 12:
            raise IntegrityError(f"{where}: truncated", hint="remove it: the figure is not needed")
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length or zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise IntegrityError(f"{where}: damaged", hint="remove it: the figure is not needed")
        if kind in PNG_PICTURE:
            parts.append(chunk)
        position += len(chunk)
    return b"".join(parts)
