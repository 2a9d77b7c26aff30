"""The contents of a diffusers folder: classes, configurations and weight files, inspected without loading anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError

INDEX = "model_index.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[a-zA-Z]\w*))?(?:-\d+-of-\d+)?\.safetensors")


def _name(path: Path) -> str:
    """The name of the folder; for snapshots in a hub cache, which are named by hash, the name of the repository."""
    absolute = Path(os.path.abspath(path))
    if absolute.parent.name == "snapshots" and absolute.parents[1].name.startswith("models--"):
        return absolute.parents[1].name.rsplit("--", 1)[-1]
    return absolute.name


class Folder:
    """A folder that diffusers' `save_pretrained` wrote; raises AigcEdgeError where its index cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = _name(path)
        self.index = self._json(path / INDEX)
        kind = self.index.get("_class_name")
        if not isinstance(kind, str):
            raise AigcEdgeError(
                f"{self.name}/{INDEX} does not name a pipeline (_class_name): save the pipeline again with save_pretrained"
            )
        self.kind = kind

    def _json(self, file: Path) -> dict[str, Any]:
        shown = f"{self.name}/{file.relative_to(self.path).as_posix()}"
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise AigcEdgeError(f"{shown} is missing: give the whole folder that save_pretrained wrote") from None
        except (OSError, ValueError) as error:
            raise AigcEdgeError(f"{shown} cannot be read as JSON ({error}): copy the folder again") from None
        if not isinstance(value, dict):
            raise AigcEdgeError(f"{shown} is not a JSON object: copy the folder again")
        return value

    def has(self, component: str) -> bool:
        """Whether the index lists the component; diffusers writes [null, null] for one that was left out."""
        entry = self.index.get(component)
        return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None

    def class_of(self, component: str, allowed: Sequence[str] = ()) -> tuple[str, str]:
        """(library, class) of a component; raises AigcEdgeError where the folder lacks it or its class is not `allowed`."""
        if not self.has(component):
            raise AigcEdgeError(f"{self.name} has no {component}, which a {self.kind} needs: save the whole pipeline again")
        library, kind = (str(part) for part in self.index[component])
        if allowed and kind not in allowed:
            raise AigcEdgeError(f"the {component} of {self.name} is a {kind}: it must be one of {', '.join(allowed)}")
        if not (self.path / component).is_dir():
            raise AigcEdgeError(f"{self.name}/{component} is missing, which {INDEX} lists: copy the whole folder")
        return library, kind

    def config(self, component: str, allowed: Sequence[str] = (), file: str = "config.json") -> Mapping[str, Any]:
        """The configuration of a component, of a class that is `allowed`."""
        self.class_of(component, allowed)
        return self._json(self.path / component / file)

    def number(self, component: str, config: Mapping[str, Any], key: str, default: int) -> int:
        """A positive whole number of a component's configuration, `default` if it is absent."""
        value = config.get(key, default)
        if not isinstance(value, int) or value <= 0:
            raise AigcEdgeError(f"{key} of {self.name}/{component} is {value!r}: it must be a positive whole number")
        return value

    def check_weights(self, component: str) -> str | None:
        """The variant of the component's safetensors ("fp16", or None) after checking that its files are complete.

        Raises AigcEdgeError for pickled weights, which may run code when loaded, and for truncated files.
        """
        folder = self.path / component
        files = sorted(file.name for file in folder.iterdir())
        variants = {match["variant"]: match for match in map(_WEIGHTS.fullmatch, files) if match}
        if not variants:
            pickles = [name for name in files if name.endswith(_PICKLES)]
            if pickles:
                raise AigcEdgeError(
                    f"{self.name}/{component} contains pickled weights ({pickles[0]}), which can run code when loaded: if you "
                    "trust them, DiffusionPipeline.from_pretrained(folder).save_pretrained(other) writes safetensors"
                )
            raise AigcEdgeError(f"{self.name}/{component} contains no safetensors: copy the whole folder, with its weights")
        variant = None if None in variants else sorted(str(name) for name in variants)[0]
        chosen = [name for name in files if (match := _WEIGHTS.fullmatch(name)) and match["variant"] == variant]
        parts = {int(total) for name in chosen for total in re.findall(r"-of-(\d+)", name)}
        if parts and max(parts) != sum("-of-" in name for name in chosen):
            raise AigcEdgeError(f"{self.name}/{component} lacks some of its {max(parts)} weight files: copy the folder again")
        for name in chosen:
            self._check_file(folder / name)
        return variant

    def _check_file(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            shown = f"{self.name}/{file.relative_to(self.path).as_posix()}"
            raise AigcEdgeError(f"{shown} is truncated or damaged ({error}): copy it again") from None

    def licence(self) -> str | None:
        """The licence that the model card (README.md) names, the name of its licence file, or None."""
        card = self.path / "README.md"
        if card.is_file():
            text = card.read_text(encoding="utf-8", errors="replace")
            head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
            fields = dict(re.findall(r"^(license|license_name):[ \t]*['\"]?([^'\"\n]+?)['\"]?[ \t]*$", head, re.MULTILINE))
            licence_name = fields.get("license")
            if licence_name:
                return str(fields.get("license_name", licence_name) if licence_name == "other" else licence_name)
        files = sorted(file.name for file in self.path.glob("LICENSE*") if file.is_file())
        return files[0] if files else None
