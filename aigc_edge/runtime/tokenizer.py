"""Token ids of a prompt, by the tokenizer file of a bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.errors import AigcEdgeError, BundleError, first_line

Tokenize = Callable[[str], NDArray[np.int64]]


def unavailable() -> str | None:
    """None when prompts can be tokenized here, else why not and what to do."""
    if importlib.util.find_spec("tokenizers") is None:
        return "a prompt needs the package tokenizers, which is not installed: pip install 'aigc-edge[text]', or give conditions"
    return None


def tokenizer(data: bytes, length: int, pad: int, what: str) -> Tokenize:
    """A function from a prompt to its token ids, int64 [length]: cut off, or filled up with `pad`.

    `data` is a file of the tokenizers library, `what` names it in messages. Raises AigcEdgeError where that library is not
    installed, and BundleError for a file that it cannot read.
    """
    reason = unavailable()
    if reason is not None:
        raise AigcEdgeError(reason)
    import tokenizers

    try:
        library: Any = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        library.enable_truncation(max_length=length)
        library.enable_padding(length=length, pad_id=pad, pad_token=library.id_to_token(pad) or "[PAD]")
    except Exception as error:  # the library raises Exception itself
        raise BundleError(f"tokenizers {tokenizers.__version__} cannot read {what}: {first_line(error)}") from error

    def tokenize(prompt: str) -> NDArray[np.int64]:
        try:
            ids = library.encode(prompt).ids
        except Exception as error:  # also a lone surrogate, which is not Unicode text
            raise AigcEdgeError(
                f"the prompt {prompt!r:.80} cannot be tokenized ({first_line(error)}): give other text"
            ) from error
        if len(ids) != length:
            raise BundleError(f"{what} makes {len(ids)} tokens, not {length}: compile the bundle again")
        return np.array(ids, np.int64)

    return tokenize
