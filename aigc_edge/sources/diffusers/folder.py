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
# diffusers writes model.fp16-00001-of-00002.safetensors, older versions model-00001-of-00002.fp16.safetensors.
_NAME, _VARIANT = r"(?:diffusion_pytorch_model|model)", r"[a-zA-Z][\w-]*"
_WEIGHTS = re.compile(rf"{_NAME}(?:\.(?P<new>{_VARIANT}?))?(?P<shard>-\d+-of-\d+)?(?:\.(?P<old>{_VARIANT}))?\.safetensors")
_INDEX = re.compile(rf"{_NAME}\.safetensors(?:\.(?P<old>{_VARIANT}))?\.index(?:\.(?P<new>{_VARIANT}))?\.json")


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
        if isinstance(kind, list) and kind:  # [library or file, class], as older versions and custom pipelines write it
            kind = kind[-1]
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

    def weights(self, component: str) -> tuple[list[str], dict[str, str] | None]:
        """The safetensors of a component, checked to be complete, and the weight map of their index (None: one file).

        Of several variants it is the one without a name, else the first. An index decides which files belong to it; others beside
        it are left over. Raises AigcEdgeError for pickled weights, which may run code when loaded, and for truncated files.
        """
        folder, shown = self.path / component, f"{self.name}/{component}"
        names = sorted(file.name for file in folder.iterdir())
        whole, shards, indices = dict[str, str](), dict[str, list[str]](), dict[str, str]()
        for name in names:
            if match := _WEIGHTS.fullmatch(name):
                variant = match["new"] or match["old"] or ""
                if match["shard"]:
                    shards.setdefault(variant, []).append(name)
                else:
                    whole[variant] = name
            elif match := _INDEX.fullmatch(name):
                indices[match["new"] or match["old"] or ""] = name
        if not (whole or shards or indices):
            pickles = [name for name in names if name.endswith(_PICKLES)]
            if pickles:
                raise AigcEdgeError(
                    f"{shown} contains pickled weights ({pickles[0]}), which can run code when loaded: if you trust them, "
                    "DiffusionPipeline.from_pretrained(folder).save_pretrained(other) writes safetensors"
                )
            raise AigcEdgeError(f"{shown} contains no safetensors: copy the whole folder, with its weights")
        variant, weight_map = min({*whole, *shards, *indices}), None
        if variant in indices:
            weight_map = self._json(folder / indices[variant]).get("weight_map")
            files = set(weight_map.values()) if isinstance(weight_map, dict) else set()
            if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
                raise AigcEdgeError(f"{shown}/{indices[variant]} does not list files beside it: copy the folder again")
        elif variant in whole:
            files = {whole[variant]}
        else:
            total = max(int(count) for name in shards[variant] for count in re.findall(r"-of-(\d+)", name))
            raise AigcEdgeError(f"{shown} lacks some of its {total} weight files or their index: copy the folder again")
        missing = sorted(files - set(names))
        if missing:
            raise AigcEdgeError(f"{shown} lacks some of its {len(files)} weight files ({missing[0]}): copy the folder again")
        for name in sorted(files):
            self._check_file(folder / name)
        return sorted(files), weight_map

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
