"""`mreg package --wheel`: a classifier as a Python package of its own, with the model, the code and pinned versions.

    model_classif_sc_t2-20261121-py3-none-any.whl
      model_classif_sc_t2/__init__.py   predict, ARTIFACT
      model_classif_sc_t2/model/        what the archive holds: plans.json, dataset.json, fold_k/checkpoint_final.pth
      model_classif_sc_t2/trainers/     the modules that a prediction needs, moved under the package's name

Packages of several models live beside one another, and beside mreg, because each has its code under its own name.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import output
from registry.classifier import is_classifier
from registry.code_closure import closure, rename
from registry.errors import MregError
from registry.files import read_object, sha256, workplace, write_json, write_text
from registry.manifest import read as read_manifest
from registry.model_toml import find_repo
from registry.runs import FINAL, latest_run
from registry.wheel_texts import Model, fill, task_config

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.archive import Package

ENTRY = "trainers.classification.predict"
ENCODERS = ("trainers.nets.pooled",)  # imported late, by models with an encoder of pre-training
LATE = ("SimpleITK",)  # imported late, for MetaImage and NRRD
SHIPPED = re.compile(rf"(?:.+/)?(plans\.json|dataset\.json|fold_(?:\d+|all)/{re.escape(FINAL)})")
LICENCE = "licenses/LICENSE"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel on disk, and the folder that a container is built from."""

    path: Path
    sha256: str
    requirements: tuple[str, ...]
    container: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wheel's part of `mreg package --json`."""
        return {
            "wheel": str(self.path),
            "wheel_sha256": self.sha256,
            "requirements": list(self.requirements),
            "container": str(self.container) if self.container else None,
        }


def require_classifier(run: Path | None) -> None:
    """Raise `MregError` unless the run, by default the newest of this repo, can become a wheel here."""
    folder = run if run is not None else latest_run(find_repo(Path.cwd()).runs).path
    if not is_classifier(folder):
        raise MregError(
            f"{folder}: not a classifier, and only classifiers become wheels",
            hint="package it without --wheel and --container",
        )
    _pinned(("hatchling", "torch"))


def make_wheel(package: Package, *, container: bool = False) -> Wheel:
    """Build the wheel of a packed classifier beside its archive, and with `container` the folder of a container.

    The versions that are installed here are pinned. A wheel of that name is replaced: it is no part of a release.
    Raises `MregError` where something that is needed is not installed.
    """
    out = package.manifest.parent
    with workplace(out, "wheel") as work, output.stage("wheel"):
        plan = _unpack(package, work)
        model = Model(manifest=read_manifest(package.manifest), plan=plan)
        requirements = _write_project(work, model)
        built = _build(work)
        wheel = built.replace(out / built.name)
    folder = _write_container(wheel, model, requirements) if container else None
    return Wheel(path=wheel, sha256=sha256(wheel), requirements=requirements, container=folder)


def _unpack(package: Package, work: Path) -> dict[str, Any]:
    """Put what a prediction needs of the archives into the folder `model`; return the plan."""
    for made in package.archives:
        with zipfile.ZipFile(made.path) as archive:
            for member in archive.namelist():
                if shipped := SHIPPED.fullmatch(member):
                    target = work / "model" / shipped[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
    return read_object(work / "model" / "plans.json")


def _write_project(work: Path, model: Model) -> tuple[str, ...]:
    """Write the package's sources and its metadata (PEP 621); return what it requires."""
    is_encoder = model.plan["net"].get("encoder", "i3d") != "i3d"
    sources, foreign = closure([ENTRY, *(ENCODERS if is_encoder else ())])
    requirements = _pinned({*foreign, *LATE} - {*sys.stdlib_module_names})
    home = work / model.package
    home.mkdir()
    (work / "model").rename(home / "model")
    for name, source in sources.items():
        write_text(home / name, rename(source, model.package))
    write_text(home / "__init__.py", fill("init.template", model))
    write_text(work / "README.md", fill("README.template", model))
    listed = json.dumps(list(requirements))
    write_text(work / "pyproject.toml", fill("pyproject.toml.template", model, requirements=listed))
    write_text(work / "LICENSE-mreg", metadata.distribution("mreg").read_text(LICENCE) or "MIT")
    return requirements


def _pinned(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the distributions that hold these packages, each with its installed version."""
    owners = metadata.packages_distributions()
    if missing := sorted(module for module in modules if module not in owners):
        raise MregError(
            f"{', '.join(missing)}: not installed", hint='install what packs wheels: pip install "mreg[train]"'
        )
    found = {owners[module][0] for module in modules}
    # Builds of one version for several devices (2.13.0+cpu) are told apart by whoever installs it.
    pins = {re.sub(r"[-_.]+", "-", name).lower(): metadata.version(name).partition("+")[0] for name in found}
    return tuple(f"{name}=={pins[name]}" for name in sorted(pins))


def _build(work: Path) -> Path:
    """Build the wheel, without a network; return it."""
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--target", "wheel", "--directory", str(work / "dist")]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    built = sorted((work / "dist").glob("*.whl"))
    if done.returncode or len(built) != 1:
        raise MregError(f"hatchling builds no wheel: {(done.stderr or done.stdout).strip()}")
    return built[0]


def _write_container(wheel: Path, model: Model, requirements: Iterable[str]) -> Path:
    """Write the folder that `docker build` takes: the wheel, what it needs, an entry script and its configuration."""
    folder = wheel.with_name(f"{model.package}-{model.version}-container")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    shutil.copyfile(wheel, folder / wheel.name)
    write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements))
    write_text(folder / "Dockerfile", fill("Dockerfile.template", model, wheel=wheel.name))
    write_text(folder / "process.py", fill("process.template", model))
    write_text(folder / "README.md", fill("container.template", model))
    config = folder / "task_config.json"
    if not config.exists():  # else somebody has written the platform's names into it
        write_json(config, task_config(model))
    return folder
