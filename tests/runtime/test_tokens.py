"""Token ids against transformers' tokenizers of the same vocabulary: as Stable Diffusion and FLUX prepare a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime.tokenizer import tokenizer

pytest.importorskip("tokenizers")
PROMPTS = [
    "",
    " ",
    "a photograph of an astronaut riding a horse",
    "A  RED   Cat,\n on the moon!!",
    "naïve café — 12345 \u732b \U0001f408",
    "word " * 200,
]


def clip(transformers: Any, pad: str) -> Any:
    """A byte-level vocabulary as CLIP's, with a few merges."""
    letters = [chr(i) for i in range(33, 127)] + [chr(i) for i in range(161, 173)] + [chr(i) for i in range(174, 324)]
    merges = [
        ("a", "t</w>"),
        ("c", "a"),
        ("ca", "t</w>"),
        ("o", "n</w>"),
        ("r", "e"),
        ("re", "d</w>"),
        ("t", "h"),
        ("th", "e</w>"),
    ]
    words = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    if pad not in vocabulary:
        vocabulary[pad] = len(vocabulary)
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad)


def t5(transformers: Any) -> Any:
    """A unigram vocabulary as T5's."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("▁red", -5.0), ("▁cat", -5.0)]
    pieces += [(chr(i), -6.0 - i / 100) for i in range(97, 123)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


@pytest.mark.parametrize("kind", ["clip", "clip that pads with !", "t5"])
def test_ids_are_those_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    made = t5(transformers) if kind == "t5" else clip(transformers, "!" if kind.endswith("!") else "<|endoftext|>")
    for length in (8, 77):
        ours = tokenizer(made.backend_tokenizer.to_str().encode(), length, made.pad_token_id, "tokenizer.json")
        for prompt in PROMPTS:
            wanted = made(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="np").input_ids[0]
            found = ours(prompt)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, wanted, err_msg=repr(prompt))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "Magic"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^tokenizers .* cannot read vocabulary.json: "):
        tokenizer(data, 8, 0, "vocabulary.json")


def test_more_marks_than_tokens_are_said() -> None:
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1}, unk_token="<unk>"))
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> <s> <s> $A", special_tokens=[("<s>", 1)])
    with pytest.raises(AigcEdgeError):
        tokenizer(made.to_str().encode(), 2, 0, "vocabulary.json")("a cat")
