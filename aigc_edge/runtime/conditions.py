"""The conditions of a request, validated and converted to the arrays that the denoiser takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.request import Prompt, SampleRequest
from aigc_edge.runtime.text_encoders import Arrays, TextEncoders

Named = Mapping[str, NDArray[Any]]


class Conditions:
    """The conditions of the denoiser of the bundle at `path`: from prompts by `encoders`, or from the caller by name."""

    def __init__(self, path: Path, manifest: Manifest, encoders: TextEncoders) -> None:
        inputs = manifest.denoiser.spec.inputs if manifest.denoiser else ()
        self.specs: dict[str, TensorSpec] = {tensor.name: tensor for tensor in inputs if tensor.role == "condition"}
        self._embeds = any(tensor.role == "guidance" for tensor in inputs)
        self._path, self._encoders = path, encoders
        self._text = [name for name in encoders.outputs if name in self.specs]

    def arrays(self, request: SampleRequest, guided: bool) -> tuple[Arrays, Arrays]:
        """Conditions and negative ones by name, float32 [n, ...] or, where all samples share one, [1, ...].

        Negative conditions are returned only where rows are `guided` and the network does not take the guidance scale as an
        input. Raises AigcEdgeError for a condition that is missing, specified twice, or of the wrong shape.
        """
        n, prompt, negative_prompt = request.count, request.prompt, request.negative_prompt
        conditions, negative_conditions = request.conditions, request.negative_conditions
        fields = ("prompt", "negative_prompt", "conditions", "negative_conditions")
        present = [name for name in fields if getattr(request, name) is not None]
        if not self.specs:
            if present:
                raise AigcEdgeError(f"{self._path} takes no conditions: leave {' and '.join(present)} out")
            return {}, {}
        negative = [name for name in present if name.startswith("negative_")]
        if self._embeds and negative:
            raise AigcEdgeError(
                f"the network of {self._path} takes the guidance scale as a number, so that nothing negative has an effect: "
                f"leave {' and '.join(negative)} out"
            )
        positive = self._part(n, "", prompt, conditions)
        missing = [name for name in self.specs if name not in positive]
        if missing:
            a_prompt = "give a prompt, or " if set(missing) & set(self._text) else ""
            raise AigcEdgeError(f"{self._path} generates by conditions: {a_prompt}give conditions={{{self._listed(missing, n)}}}")
        other = self._part(n, "negative_", negative_prompt, negative_conditions, encoded=guided and not self._embeds)
        if not guided or self._embeds:
            return positive, {}
        if set(self._text) - set(other):
            other = {name: self._encoders.default_negative()[name] for name in self._text} | other
        missing = [name for name in self.specs if name not in other]
        if missing:
            raise AigcEdgeError(
                f"guidance needs what it leads away from: give negative_conditions={{{self._listed(missing, n)}}}, or a guidance "
                "scale of 1"
            )
        return positive, other

    def _part(self, n: int, kind: str, prompt: Prompt | None, conditions: Named | None, *, encoded: bool = True) -> Arrays:
        """The conditions passed by name, and those of the prompt if it is to be `encoded`."""
        arrays = {name: self._checked(f"{kind}conditions", name, value, n) for name, value in (conditions or {}).items()}
        if prompt is None:
            return arrays
        if not self._text:
            raise AigcEdgeError(
                f"{self._path} has no text encoder, so that it takes no {kind}prompt: give {kind}conditions="
                f"{{{self._listed(list(self.specs), n)}}}"
            )
        twice = [name for name in self._text if name in arrays]
        if twice:
            raise AigcEdgeError(
                f"{kind}conditions has {twice[0]!r} beside a {kind}prompt, which sets it too: leave one of them out"
            )
        prompts = texts(f"{kind}prompt", prompt, n)
        if not encoded:
            return arrays
        embeddings = self._encoders(prompts[:1] if len(set(prompts)) == 1 else prompts)
        return arrays | {name: embeddings[name] for name in self._text}

    def _checked(self, what: str, name: str, value: Any, n: int) -> NDArray[np.float32]:
        if name not in self.specs:
            raise AigcEdgeError(f"{what} has {name!r}, which {self._path} does not take: it takes {', '.join(self.specs)}")
        rest = tuple(int(size) for size in self.specs[name].shape[1:])
        try:
            array = np.ascontiguousarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise AigcEdgeError(f"{what} {name!r} is {type(value).__name__}: give an array, float32 {[n, *rest]}") from None
        if array.shape not in ((n, *rest), (1, *rest)):
            raise AigcEdgeError(
                f"{what} {name!r} has the shape {list(array.shape)}: it must have {[n, *rest]}, or {[1, *rest]} for all samples"
            )
        return array

    def _listed(self, names: Sequence[str], n: int) -> str:
        return ", ".join(f"{name!r}: float32 {[n, *self.specs[name].shape[1:]]}" for name in names)


def texts(name: str, prompt: Prompt, n: int) -> list[str]:
    """One text for all of `n` samples, or one for each; raises AigcEdgeError for anything else."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, Sequence) or not all(isinstance(text, str) for text in prompt):
        raise AigcEdgeError(f"{name} is {prompt!r:.80}: it must be a text, or a list with one for each of the {n} samples")
    if len(prompt) != n or not prompt:
        raise AigcEdgeError(f"{name} holds {len(prompt)} texts: it must hold one for each of the {n} samples, or be one text")
    return list(prompt)
