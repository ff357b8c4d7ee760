"""`mreg name`: what a model's name or a release's tag says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

from registry import names, output
from registry.commands._options import json_option
from registry.vocabulary import Vocabulary, load_vocabulary

COLOURS = {"valid": "green", "warn": "yellow", "invalid": "red"}


@click.command("name")
@click.argument("texts", metavar="NAME...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Let warnings fail, as mreg new does.")
@click.option("--tag", "are_tags", is_flag=True, help="Explain release tags instead of names.")
@click.option(
    "--vocabulary",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A project's own words, merged into the registry's vocabulary.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, texts: tuple[str, ...], strict: bool, are_tags: bool, vocabulary: Path | None, as_json: bool
) -> None:
    """Explain model names and release tags.

    The exit status is 1 when one of them is invalid, and with --strict also when one has a warning.

    \b
    Examples:
      mreg name model_seg_sc_t2
      mreg name --strict model_seg_gm-wm_mouse_t1 model-canal-seg
      mreg name --tag r20240915
    """
    if are_tags:
        failed = _show_tags(texts, as_json)
    else:
        failed = _show_names(texts, load_vocabulary(vocabulary), strict, as_json)
    if failed:
        ctx.exit(1)


def _show_names(texts: tuple[str, ...], vocabulary: Vocabulary, strict: bool, as_json: bool) -> bool:
    results = [names.parse(text, vocabulary) for text in texts]
    if as_json:
        output.document([result._asdict() | {"name": _encodable(result.name)} for result in results])
    else:
        output.answer("\n\n".join(_explain(result, vocabulary) for result in results))
    return any(result.errors or (strict and result.warnings) for result in results)


def _show_tags(tags: tuple[str, ...], as_json: bool) -> bool:
    verdicts = [(tag, names.check_tag(tag)) for tag in tags]
    messages = [names.EXPLANATIONS[code] if code else "" for _, code in verdicts]
    if as_json:
        rows = zip(verdicts, messages, strict=True)
        output.document([{"tag": _encodable(tag), "code": code, "message": said} for (tag, code), said in rows])
    else:
        for (tag, code), said in zip(verdicts, messages, strict=True):
            output.answer(f"{_printable(tag)}: {_status('invalid' if code else 'valid')}")
            if code:
                output.answer(f"  {click.style(code, fg=COLOURS['invalid'])}  {said}")
    return any(code for _, code in verdicts)


def _explain(result: names.NameResult, vocabulary: Vocabulary) -> str:
    """Write one name as a heading, its problems, and either its fields or the name that was meant."""
    lines = [f"{_printable(result.name)}: {_status(result.status)}"]
    for problem in names.explain(result.name, vocabulary):
        lines += [f"  {click.style(problem.code, fg=COLOURS[result.status])}  {_printable(names.sentence(problem))}"]
    if result.fields is None:
        lines += [f"  did you mean {result.suggestion}?" if result.suggestion else "  no similar name found"]
        lines += [f"  words that found no place: {', '.join(result.dropped)}"] if result.dropped else []
        return "\n".join(lines)
    for field in vocabulary.fields.values():
        written = "-".join(result.fields.get(field.name, ()))
        lines += [f"  {field.name:<13} {written or _unwritten(field.default)}"]
    lines += [f"  {form:<13} {getattr(result, form)}" for form in ("canonical", "short", "full")]
    return "\n".join(lines)


def _encodable(text: str) -> str:
    """Escape what is no text: an argument may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _printable(text: str) -> str:
    """Escape what would disturb a terminal, too; quote nothing at all."""
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in _encodable(text))
    return shown or "''"


def _unwritten(default: str | None) -> str:
    return click.style(f"{default} (by default)" if default else "-", dim=True)


def _status(status: str) -> str:
    return click.style(status, fg=COLOURS[status])
