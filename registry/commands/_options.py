"""Flags that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def registry_option(function: F) -> F:
    """Add `--registry`."""
    return click.option(
        "--registry",
        metavar="REGISTRY",
        help="github:ORG or dir:PATH [default: MREG_REGISTRY, else the config file, else github:ivadomed].",
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def dataset_id_option(function: F) -> F:
    """Add `--dataset-id`, passed as `number`."""
    return click.option(
        "--dataset-id", "number", type=click.IntRange(1, 999), metavar="NNN", required=True, help="Of DatasetNNN_Name."
    )(function)


def out_option(metavar: str, explanation: str, *, required: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds `-o` and `--out`: a folder (`DIR`) or a file (`FILE`)."""
    kind = click.Path(path_type=Path, file_okay=metavar != "DIR", dir_okay=metavar == "DIR")
    return click.option("-o", "--out", type=kind, metavar=metavar, required=required, help=explanation)


def device_option(default: str | None, explanation: str) -> Callable[[F], F]:
    """Return a decorator that adds `--device`."""
    kinds = click.Choice(["auto", "cpu", "cuda", "mps"])
    return click.option("--device", type=kinds, default=default, show_default=default is not None, help=explanation)
