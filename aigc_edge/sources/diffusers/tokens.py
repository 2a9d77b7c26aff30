"""Tokenizers of a diffusers folder as a tokenizer.json, made without running anything that the folder brings."""

from __future__ import annotations

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import Tokens
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.loading import quiet, require

CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
LONGEST = 100_000  # a tokenizer that does not say its length says 1e30


def tokens_of(folder: Folder, component: str, length: int | None, vocabulary: int) -> Tokens:
    """The tokenizer of a component, for `length` tokens (unless given: its own model_max_length) below `vocabulary`.

    Raises AigcEdgeError where it cannot be read, or gives ids that the text encoder does not know.
    """
    _, kind = folder.class_of(component, CLASSES)
    transformers = require("transformers")
    try:
        with quiet():
            tokenizer = getattr(transformers, kind).from_pretrained(folder.path / component, local_files_only=True)
            made = str(tokenizer.backend_tokenizer.to_str())
            size, pad, own = len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length
    except Exception as error:  # whatever the library raises for files that it does not like
        reason = " ".join(str(error).split())[:300]
        raise AigcEdgeError(f"{folder.name}/{component} cannot be read as a {kind}: {reason}") from error
    if length is None and own > LONGEST:
        raise AigcEdgeError(f"{folder.name}/{component} does not say how many tokens it gives: set model_max_length there")
    if size > vocabulary:
        raise AigcEdgeError(
            f"{folder.name}/{component} has {size} tokens, its text encoder knows {vocabulary}: take both from one model"
        )
    if pad is None:
        raise AigcEdgeError(f"{folder.name}/{component} names no pad_token: set it in tokenizer_config.json")
    return Tokens(made.encode(), int(own) if length is None else length, int(pad))
