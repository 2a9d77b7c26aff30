"""What torch's exporter says when it fails, in one sentence, and its graphs off the screen."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator

from aigc_edge.errors import first_line

_OPERATION = re.compile(r"target=(?:torch\.ops\.)?([\w.]+?)(?:\.default)?\]")
_BY_VALUE = ("data-dependent", "Could not guard", "GuardOnDataDependent", "aten._local_scalar_dense")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discard what is printed and logged: the exporter shows the graph of a failed network."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def failure_of(error: BaseException) -> str:
    """Why the export failed, as part of a sentence: the operation without a counterpart, or what the network's code does."""
    text = str(error.__cause__ or error)
    line = first_line(error.__cause__ or error)
    if operation := _OPERATION.search(line):
        return f"ONNX has no counterpart of its operation {operation[1]}"
    if any(sign in text for sign in _BY_VALUE):
        return "its code branches on values of tensors, or makes Python numbers of them: use torch.where or torch.cond"
    return line.partition(". ")[0].rstrip(".")
