"""`mreg new`: a model's repository on disk and in the registry, whole after any number of tries."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry import output, words
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import alone, write_text
from registry.first_repo import add_origin, commit_files, has_commit
from registry.model_toml import FILE_NAME, Repo, read
from registry.names import parse
from registry.scaffold_files import Plan, plan, render

if TYPE_CHECKING:
    from pathlib import Path

    from registry.stores import Store

DEFAULTS = {"recipe": "nnunet", "licence": "MIT"}
RECIPES_OF_TASKS = {"pretrain": "pretrain"}  # what a name may say of its recipe
MOST_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class Created:
    """A model's repository: `made` now, or there already; `url` is its address in the registry ("" for --local)."""

    repo: Repo
    made: bool
    url: str = ""


def create(
    name: str,
    parent: Path,
    *,
    store: Store | None,
    recipe: str = "",
    licence: str = "",
    authors: tuple[str, ...] = (),
) -> Created:
    """Create the repository `parent`/`name` and, with a store, the registry's; complete what is half made.

    Raises `MregError` for a name that is not strict, and `ConflictError` where the folder or the registry's repository
    has other content; nothing is touched then.
    """
    wish = {"recipe": recipe, "licence": licence}
    task = ((parse(name).fields or {}).get("task") or [""])[0]
    defaults = {**DEFAULTS, "recipe": RECIPES_OF_TASKS.get(task, DEFAULTS["recipe"])}
    asked = plan(name, authors=authors, **{key: value or defaults[key] for key, value in wish.items()})
    root = parent.absolute() / name
    with alone(root.parent):
        there = _read_existing(root, {**wish, "authors": authors})
        if not there:
            _refuse_other_files(root, asked)
        url = _register(asked, store, there) if store else ""
        if not there:
            _write(root, replace(asked, url=url, registry=_shareable(store)))
    if store:
        store.push_first_commit(name, root)
        add_origin(root, url)
    return Created(repo=Repo(root, read(root / FILE_NAME)), made=not there, url=url)


def _read_existing(root: Path, wish: dict[str, object]) -> bool:
    """Whether `root` is this model's repository already; raise where it is another one or says otherwise."""
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise ConflictError(f"{root}: is there already and is no folder", hint="choose another folder: --dir DIR")
    if not root.exists() or not has_commit(root):
        return False
    if not (root / FILE_NAME).is_file():
        raise ConflictError(f"{root}: a Git repository without {FILE_NAME}", hint="choose another folder: --dir DIR")
    toml = read(root / FILE_NAME)
    if toml.model.name != root.name:
        raise ConflictError(f"{root}: holds {toml.model.name}", hint="choose another folder: --dir DIR")
    have = {"recipe": toml.train.recipe, "licence": toml.model.licence, "authors": toml.model.authors}
    for key, value in wish.items():
        if value and value != have[key]:
            raise ConflictError(
                f"{root}: is there already, with {key} {have[key]!r} and not {value!r}",
                hint=f"change it in {FILE_NAME}",
            )
    return True


def _refuse_other_files(root: Path, asked: Plan) -> None:
    """Raise where the folder holds anything but files that `mreg new` was interrupted in writing."""
    expected = set(render(asked))
    present = [p for p in root.rglob("*") if not p.is_dir() or p.is_symlink()] if root.is_dir() else []
    names = sorted(p.relative_to(root).as_posix() for p in present)
    strange = [n for n in names if not n.startswith(".git/") and (n not in expected or _differs(root, n, asked))]
    if strange:
        listed = ", ".join(strange[:MOST_NAMES]) + (", …" if len(strange) > MOST_NAMES else "")
        raise ConflictError(
            f"{root}: is there already with other content ({listed}); nothing was changed",
            hint="choose another folder: --dir DIR",
        )


def _differs(root: Path, name: str, asked: Plan) -> bool:
    # The card and the citation name the registry, which an interrupted try may have known and this one not yet.
    if name in ("README.md", "CITATION.cff"):
        return not (root / name).read_bytes().startswith(render(asked)[name].partition("\n")[0].encode())
    return (root / name).read_bytes() != render(asked)[name].encode()


def _register(asked: Plan, store: Store, there: bool) -> str:
    """Create or complete the registry's repository; return its address."""
    name = asked.name.name
    if not there:
        with contextlib.suppress(NotFoundError):
            info = store.repo(name)
            if info.commit:
                raise ConflictError(
                    f"{name}: {store.location} has that model already", hint=f"work on with: git clone {info.url}"
                )
    with output.stage(f"{name} in {store.location}"):
        info = store.create_repo(name, description=words.description(asked.name), topics=words.topics(asked.name))
    return info.url


def _shareable(store: Store | None) -> str:
    """Return the registry for the card's commands; a folder's path says something about somebody's machine."""
    from registry.stores import DEFAULT_REGISTRY

    location = store.location if store else ""
    return location if location.startswith("github:") and location != DEFAULT_REGISTRY else ""


def _write(root: Path, what: Plan) -> None:
    """Write the files and commit them: in a folder beside, which then takes the name; or complete what is there."""
    if root.is_dir() and any(root.iterdir()):
        _fill(root, what)
        return
    temporary = root.with_name(f".{root.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a try that was killed
    try:
        temporary.mkdir()
        _fill(temporary, what)
        temporary.rename(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(folder: Path, what: Plan) -> None:
    files = render(what)
    for name, text in files.items():
        path = folder / name
        if path.is_symlink():
            raise MregError(f"{path}: is a link", hint="remove it")
        if not path.is_file():
            write_text(path, text)
    author = what.authors[0] if what.authors else "mreg"
    commit_files(folder, list(files), message=f"{what.name.name}: {words.description(what.name)}", author=author)
