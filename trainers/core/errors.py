"""The error that a recipe raises on purpose; the command line prints it with its hint."""


class TrainingError(Exception):
    """Something that the user can understand and mend: the message names file and value, the hint the way out."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
