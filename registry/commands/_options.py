"""Flags that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
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
