"""`trainer_class.py` in the form that every nnU-Net accepts.

Stock nnU-Net finds a custom trainer by the name of its class, the fork that SCT installs by calling
`get_trainer_class()` of this file: a released file has both.
"""

from __future__ import annotations

import ast

from registry.errors import MregError

FILE_NAME = "trainer_class.py"
FUNCTION = "get_trainer_class"


def portable(text: str, trainer: str, where: str) -> str:
    """Return the file's text with `get_trainer_class()`, which is added where it is missing.

    Raises `MregError` where the text is no Python or does not define the trainer at its top level. Nothing is executed.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise MregError(f"{where}: not Python: {error}") from error
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    if trainer not in classes:
        found = f"it defines {', '.join(classes)}" if classes else "it defines no class"
        raise MregError(
            f"{where}: no class {trainer}: {found}",
            hint="the class needs the name that the run was trained under, at the top level of the file",
        )
    if any(isinstance(node, ast.FunctionDef) and node.name == FUNCTION for node in body):
        return text
    return (
        f"{text.rstrip()}\n\n\ndef {FUNCTION}():\n"
        f'    """Return the trainer, for programs that find it by this function."""\n    return {trainer}\n'
    )
