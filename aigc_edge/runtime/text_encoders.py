"""The text encoders of a bundle: prompts in, conditions of its denoiser out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines.base import Engine, shape_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.tokenizer import Tokenize, tokenizer

KEPT = 32  # prompts whose conditions are kept: a few megabytes each with the largest encoders
Arrays = dict[str, NDArray[np.float32]]


class TextEncoders:
    """The encoders of a bundle with this manifest; each is loaded (`load(name)`) when it is first needed.

    `read(file)` gives the bytes of a file of the bundle. Every prompt is encoded by itself, so that its conditions do not depend
    on what else is asked for; those of the last prompts are kept, also when the encoders were closed.
    """

    def __init__(self, manifest: Manifest, load: Callable[[str], Engine], read: Callable[[str], bytes]) -> None:
        self._specs = {name: component.onnx for name, component in manifest.text_encoders.items()}
        self._text = manifest.text
        self._load, self._read = load, read
        self._engines: dict[str, Engine] = {}
        self._tokenizers: dict[str, Tokenize] = {}
        self._kept: OrderedDict[str, Arrays] = OrderedDict()

    @property
    def gives(self) -> list[str]:
        """The conditions that they give."""
        return [tensor.name for spec in self._specs.values() for tensor in spec.outputs]

    @property
    def loaded(self) -> list[str]:
        """The encoders that are in memory."""
        return list(self._engines)

    def __call__(self, prompts: Sequence[str]) -> Arrays:
        """The conditions of the prompts by name, float32 [N, ...]; raises AigcEdgeError for text that cannot be encoded."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]
        made: dict[str, Arrays] = {prompt: {} for prompt in new}
        for name in self._specs if new else ():
            for prompt in new:
                made[prompt] |= self._encode(name, prompt)
        found = {prompt: made[prompt] if prompt in made else self._kept[prompt] for prompt in dict.fromkeys(prompts)}
        for prompt, arrays in found.items():
            self._kept[prompt] = arrays
            self._kept.move_to_end(prompt)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {name: np.concatenate([found[prompt][name] for prompt in prompts]) for name in self.gives}

    def nothing(self) -> Arrays:
        """The conditions of a negative prompt that was not given: those of "", or zeros, as the bundle says; float32 [1, ...]."""
        if self._text is None or self._text.negative != "zeros":
            return self([""])
        outputs = [tensor for spec in self._specs.values() for tensor in spec.outputs]
        return {tensor.name: np.zeros(shape_of(tensor, 1), np.float32) for tensor in outputs}

    def close(self) -> None:
        """Give back the encoders; a new prompt loads them again."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _encode(self, name: str, prompt: str) -> Arrays:
        if name not in self._tokenizers:
            assert self._text is not None  # the manifest has a tokenizer for every encoder
            entry = self._text.encoders[name]
            self._tokenizers[name] = tokenizer(self._read(entry.tokenizer), entry.length, entry.pad, entry.tokenizer)
        tokens = self._tokenizers[name](prompt)  # first: what is wrong with a prompt is known before a large network is loaded
        if name not in self._engines:
            self._engines[name] = self._load(name)
        made = self._engines[name].evaluate({self._specs[name].inputs[0].name: tokens[None]})
        for output, array in made.items():
            if not np.isfinite(array).all():
                raise AigcEdgeError(
                    f"the {name} gave a value that is not finite in {output!r} for the prompt {prompt!r:.80}: try another format "
                    "or engine"
                )
        return made
