"""What goes wrong because of what a user gave: one sentence, exit code 2, no stack trace."""


class AigcEdgeError(Exception):
    """A failure that the user can cause and mend.

    The message is one sentence (or two) that says what was given, what is allowed and what to do. The CLI prints it and exits
    with code 2; a library user catches this one class.
    """


class BundleError(AigcEdgeError):
    """A bundle is missing, truncated, tampered with, of a newer version or otherwise not to be trusted."""


class ProgramError(AigcEdgeError):
    """A sampling program is malformed, or asks for something that no executor can do."""


class DataError(AigcEdgeError):
    """Training data is missing, empty or unreadable."""


class EngineUnavailable(AigcEdgeError):
    """An engine is not installed, or this machine cannot run it."""


class BudgetError(AigcEdgeError):
    """A compressed network misses its quality budget, or a format cannot hold it: the other formats are not affected."""


class CalibrationWarning(UserWarning):
    """Inputs lie far outside the range that a format was calibrated on, or little of a network is in its format."""


class DeviationWarning(UserWarning):
    """A network is computed otherwise here than where the quality of its format was measured."""


class ExtensionWarning(UserWarning):
    """Something that another distribution adds by an entry point cannot be used and is left out."""


def first_line(error: BaseException, skip: tuple[str, ...] = ()) -> str:
    """The first line of a foreign error's message that does not begin with one of `skip`; without one the error's type."""
    lines = [line for line in str(error).strip().splitlines() if line and not line.startswith(skip)]
    return (lines or [type(error).__name__])[0][:300]
