"""Rules on the trainer class that a model needs, read as text: a custom one is executed on its users' machines."""

from __future__ import annotations

import ast
import sys
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from registry.checks.contract import packages
from registry.checks.rules import Draft, rule
from registry.errors import MregError
from registry.files import read_json
from registry.trainer_code import FILE_NAME, FUNCTION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.findings import Finding
    from registry.tree import Tree

STOCK_FILE = Path(__file__).parents[1] / "stock_trainers.json"
# What nnU-Net itself needs is wherever a model runs.
INSTALLED = sys.stdlib_module_names | {
    "torch", "numpy", "scipy", "nibabel", "SimpleITK", "skimage", "sklearn", "pandas", "matplotlib", "seaborn",
    "tqdm", "einops", "requests", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils",
    "dynamic_network_architectures",
}  # fmt: skip
OLDEST_PYTHON = (3, 10)  # SCT's
# Modules and functions that reach out of the program: for training perhaps, never for a prediction.
REACHING = {"subprocess", "socket", "requests", "urllib", "http", "ftplib", "smtplib", "paramiko", "ctypes"}
REACHING_CALLS = {"eval", "exec", "os.system", "os.popen", "os.remove", "os.unlink", "shutil.rmtree", "__import__"}


@dataclass(frozen=True)
class TrainerFile:
    """Where a model's trainer_class.py is, or would be, and the trainers that its checkpoints name."""

    tree: Tree
    path: str
    trainers: frozenset[str]
    released: bool

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.tree.exists(self.path)

    @cached_property
    def body(self) -> list[ast.stmt] | SyntaxError | MregError:
        """Return the statements, none where there is no file, or why it cannot be read; nothing is executed."""
        if not self.exists:
            return []
        try:
            return _parsed(self.tree.read_bytes(self.path)).body
        except SyntaxError as error:
            return error
        except (ValueError, RecursionError, MemoryError) as error:
            return MregError(str(error) or "nested too deeply")
        except MregError as error:
            return error

    @property
    def statements(self) -> list[ast.stmt]:
        """Return the statements that could be read."""
        return self.body if isinstance(self.body, list) else []

    @property
    def classes(self) -> dict[str, ast.ClassDef]:
        """Return the classes at the file's top level."""
        return {node.name: node for node in self.statements if isinstance(node, ast.ClassDef)}

    @property
    def function(self) -> ast.FunctionDef | None:
        """Return get_trainer_class."""
        found = [node for node in self.statements if isinstance(node, ast.FunctionDef) and node.name == FUNCTION]
        return found[-1] if found else None

    def walk(self) -> Iterator[ast.AST]:
        """Yield every node."""
        yield from ast.walk(ast.Module(self.statements, []))


@cache
def stock() -> tuple[frozenset[str], frozenset[str], str]:
    """Return the trainers that SCT's nnU-Net has, those that only a newer nnU-Net has, and the name of SCT's."""
    known = read_json(STOCK_FILE)
    return frozenset(known["sct"]["trainers"]), frozenset(known["newer"]["trainers"]), str(known["sct"]["package"])


@rule("TRAINER001")
def trainer_is_found(file: TrainerFile) -> Iterator[Draft]:
    """The trainer is one that SCT's nnU-Net has, or trainer_class.py defines it."""
    ours, newer, package = stock()
    for name in sorted(file.trainers - ours) if not file.exists else ():
        why = f"is not in {package}, which SCT installs" if name in newer else "is none of nnU-Net's"
        yield file.path, f"trainer {name} {why}, and there is no {FILE_NAME}", "add the file that defines it"


@rule("TRAINER002")
def trainer_class_is_the_models(file: TrainerFile) -> Iterator[Draft]:
    """trainer_class.py is Python and defines the checkpoint's trainer, a subclass of one of nnU-Net's."""
    if isinstance(file.body, SyntaxError):
        yield file.path, f"not Python: {file.body.msg}", "mend it", file.body.lineno
    elif isinstance(file.body, MregError):
        yield file.path, f"not Python: {file.body.message}", "mend it"
    elif file.exists:
        for name in sorted(file.trainers - set(file.classes)):
            yield file.path, f"no class {name}, which the checkpoint names", "rename the class, or add it", 1
        for name in sorted(file.trainers & set(file.classes)):
            if not _derived(name, file.classes):
                message = f"class {name} does not derive from a trainer of nnU-Net"
                yield file.path, message, "derive it from nnUNetTrainer", file.classes[name].lineno


@rule("TRAINER003")
def trainer_class_is_found_by_sct(file: TrainerFile) -> Iterator[Draft]:
    """A released trainer_class.py has get_trainer_class(), which SCT calls."""
    if file.released and file.statements and file.function is None:
        yield file.path, f"no {FUNCTION}(): SCT cannot use the file", "mreg package adds it", 1


@rule("TRAINER004", "warning")
def trainer_class_imports_what_is_there(file: TrainerFile) -> Iterator[Draft]:
    """trainer_class.py imports only what SCT's nnU-Net brings along."""
    newer = packages()["newer"]
    for line, module in _imports(file):
        why = ""
        if module.partition(".")[0] not in INSTALLED:
            why = "which users of the model may not have"
        elif module in newer["modules"]:
            why = f"which {newer['package']} has and {stock()[2]} has not"
        if why:
            yield file.path, f"imports {module}, {why}", "do without it: a failing import stops every prediction", line


@rule("TRAINER005")
def trainer_class_is_old_python(file: TrainerFile) -> Iterator[Draft]:
    """trainer_class.py is Python that SCT's interpreter, 3.10, can read."""
    if not file.statements:
        return
    try:
        _parsed(file.tree.read_bytes(file.path), OLDEST_PYTHON)
    except SyntaxError as error:
        yield file.path, f"SCT runs Python 3.10: {error.msg}", "write it for Python 3.10", error.lineno


@rule("TRAINER006")
def function_returns_the_class(file: TrainerFile) -> Iterator[Draft]:
    """get_trainer_class() can be called without arguments and returns the checkpoint's trainer."""
    function = file.function
    if function is None:
        return
    needed = len(function.args.posonlyargs + function.args.args) - len(function.args.defaults)
    needed += sum(default is None for default in function.args.kw_defaults)
    if needed:
        yield file.path, f"{FUNCTION}() wants arguments, SCT gives none", "take them out", function.lineno
    returned = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    if not returned:
        yield file.path, f"{FUNCTION}() returns nothing", "return the class", function.lineno
    for node in returned:
        text = _text(node.value) if node.value else "None"
        if file.trainers and text in {*file.classes, "None"} and text not in file.trainers:
            message = f"{FUNCTION}() returns {text}, the checkpoint names {', '.join(sorted(file.trainers))}"
            yield file.path, message, "return that class", node.lineno


@rule("TRAINER007", "warning")
def loading_does_nothing(file: TrainerFile) -> Iterator[Draft]:
    """trainer_class.py does nothing when it is loaded: it imports and defines."""
    for node in file.statements:
        calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if calls or isinstance(node, ast.For | ast.While | ast.With | ast.Delete):
            said = _text(node).splitlines()[0][:80]
            yield file.path, f"does something as soon as it is loaded: {said}", "move it into the class", node.lineno


@rule("TRAINER008", "warning")
def trainer_class_stays_inside(file: TrainerFile) -> Iterator[Draft]:
    """trainer_class.py starts no program, opens no connection and runs no text."""
    hint = "SCT executes the file on its users' machines: take it out"
    for line, module in _imports(file):
        if module.partition(".")[0] in REACHING:
            yield file.path, f"imports {module}, which reaches out of the program", hint, line
    for node in file.walk():
        if isinstance(node, ast.Call) and (name := _text(node.func)) in REACHING_CALLS:
            yield file.path, f"calls {name}()", hint, node.lineno


RULES = [
    trainer_is_found, trainer_class_is_the_models, trainer_class_is_found_by_sct, trainer_class_imports_what_is_there,
    trainer_class_is_old_python, function_returns_the_class, loading_does_nothing, trainer_class_stays_inside,
]  # fmt: skip


def findings(file: TrainerFile) -> Iterator[Finding]:
    """Yield all findings on a trainer and its file."""
    for entry in RULES:
        yield from entry.run(file)


def _parsed(data: bytes, version: tuple[int, int] | None = None) -> ast.Module:
    """Parse a file; what Python warns of is its author's business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(data, feature_version=version)


def _text(node: ast.AST) -> str:
    """Return a node as source."""
    try:
        return ast.unparse(node)
    except RecursionError:
        return "…"


def _imports(file: TrainerFile) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import; "." for one from the file's own folder."""
    for node in file.walk():
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "") if not node.level else "."


def _derived(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a class derives from something called like nnU-Net's trainers, by way of classes of the file."""
    rest, seen = [name], set()
    while rest:
        current = rest.pop()
        seen.add(current)
        for base in classes[current].bases:
            last = _text(base).rpartition(".")[2]
            # a class may have the name of the one that it derives from
            if last.startswith("nnUNet") and (last not in classes or last == current):
                return True
            if last in classes and last not in seen:
                rest.append(last)
    return False
