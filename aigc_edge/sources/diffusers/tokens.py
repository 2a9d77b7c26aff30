"""Tokenizers of a diffusers folder as a tokenizer.json, created without running code from the folder."""

from __future__ import annotations

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import Tokens
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.loading import calling, require

CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
LONGEST = 100_000  # tokenizers without a maximum length report 1e30


def tokens_of(folder: Folder, component: str, length: int | None, vocabulary: int) -> Tokens:
    """The tokenizer of a component, for `length` tokens (default: its model_max_length) below `vocabulary`.

    Raises AigcEdgeError where it cannot be read or produces ids outside the text encoder's vocabulary.
    """
    _, kind = folder.class_of(component, CLASSES)
    transformers = require("transformers")
    with calling(f"{folder.name}/{component} cannot be read as a {kind}"):
        tokenizer = getattr(transformers, kind).from_pretrained(folder.path / component, local_files_only=True)
        serialised = str(tokenizer.backend_tokenizer.to_str())
        size, pad, default_length = len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length
    if length is None and default_length > LONGEST:
        raise AigcEdgeError(f"{folder.name}/{component} does not specify its maximum length: set model_max_length there")
    if size > vocabulary:
        raise AigcEdgeError(
            f"{folder.name}/{component} has {size} tokens, but its text encoder only {vocabulary}: use both from one model"
        )
    if pad is None:
        raise AigcEdgeError(f"{folder.name}/{component} has no pad_token: set it in tokenizer_config.json")
    return Tokens(serialised.encode(), int(default_length) if length is None else length, int(pad))
