"""The text encoders of a bundle: prompts in, conditions of its denoiser out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines.base import Engine, shape_of
from aigc_edge.errors import AigcEdgeError

if TYPE_CHECKING:
    from aigc_edge.runtime.tokenizer import Tokenize

CACHED_PROMPTS = 32  # whose conditions are cached: a few megabytes each with the largest encoders
Arrays = dict[str, NDArray[np.float32]]


class TextEncoders:
    """The encoders of a bundle with this manifest; each is loaded (`load(name)`) when it is first needed.

    `read(file)` returns the bytes of a file of the bundle. Every prompt is encoded on its own, so that its conditions do not
    depend on the other prompts; those of the latest prompts are cached, also after the encoders were closed.
    """

    def __init__(self, manifest: Manifest, load: Callable[[str], Engine], read: Callable[[str], bytes]) -> None:
        self._specs = {name: component.onnx for name, component in manifest.text_encoders.items()}
        self._text = manifest.text
        self._load, self._read = load, read
        self.seconds: dict[str, float] = {}  # inside each encoder, since it was cleared
        self._engines: dict[str, Engine] = {}
        self._tokenizers: dict[str, Tokenize] = {}
        self._cache: OrderedDict[str, Arrays] = OrderedDict()

    @property
    def outputs(self) -> list[str]:
        """The names of the conditions that they compute."""
        return [tensor.name for spec in self._specs.values() for tensor in spec.outputs]

    @property
    def loaded(self) -> list[str]:
        """The encoders that are in memory."""
        return list(self._engines)

    def __call__(self, prompts: Sequence[str]) -> Arrays:
        """The conditions of the prompts by name, float32 [N, ...]; raises AigcEdgeError for text that cannot be encoded."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        encoded: dict[str, Arrays] = {prompt: {} for prompt in new}
        for name in self._specs if new else ():
            for prompt in new:
                encoded[prompt] |= self._encode(name, prompt)
        all_prompts = {p: encoded[p] if p in encoded else self._cache[p] for p in dict.fromkeys(prompts)}
        for prompt, arrays in all_prompts.items():
            self._cache[prompt] = arrays
            self._cache.move_to_end(prompt)
        while len(self._cache) > CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return {name: np.concatenate([all_prompts[prompt][name] for prompt in prompts]) for name in self.outputs}

    def default_negative(self) -> Arrays:
        """The conditions without a negative prompt: those of "", or zeros, as the bundle says; float32 [1, ...]."""
        if self._text is None or self._text.negative != "zeros":
            return self([""])
        outputs = [tensor for spec in self._specs.values() for tensor in spec.outputs]
        return {tensor.name: np.zeros(shape_of(tensor, 1), np.float32) for tensor in outputs}

    def close(self) -> None:
        """Release the encoders; a new prompt loads them again."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def _encode(self, name: str, prompt: str) -> Arrays:
        if name not in self._tokenizers:
            from aigc_edge.runtime.tokenizer import tokenizer

            assert self._text is not None  # the manifest has a tokenizer for every encoder
            entry = self._text.encoders[name]
            self._tokenizers[name] = tokenizer(self._read(entry.tokenizer), entry.length, entry.pad, entry.tokenizer)
        tokens = self._tokenizers[name](prompt)  # first: what is wrong with a prompt is known before a large network is loaded
        if name not in self._engines:
            self._engines[name] = self._load(name)
        start = time.perf_counter()
        arrays = self._engines[name].evaluate({self._specs[name].inputs[0].name: tokens[None]})
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        for output, array in arrays.items():
            if not np.isfinite(array).all():
                raise AigcEdgeError(
                    f"the {name} returned a value that is not finite in {output!r} for the prompt {prompt!r:.80}: try another "
                    "format or engine"
                )
        return arrays
