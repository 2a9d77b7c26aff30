"""The judge: a classifier trained on the same real images that scores generated ones (NumPy and onnxruntime only)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.references import check_references
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable
from aigc_edge.files import sha256_of
from aigc_edge.hardware import import_onnxruntime
from aigc_edge.metrics.frechet import FeatureStatistics, bootstrap_interval, frechet_distance
from aigc_edge.metrics.paired import compare

CLASSIFIER, FEATURES, CARD = "classifier.onnx", "features.npy", "judge.json"
VERSION = 1
BATCH = 256


def to_unit(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Images as inputs of the judge: float32 [N, C, H, W] in [-1, 1]; accepts that or uint8 [N, H, W, C].

    Floats are clamped and rounded to the 256 levels of the output image, so that both forms have the same score.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise AigcEdgeError(
            f"images of shape {list(images.shape)} given: they must be uint8 [N, H, W, C] or float32 [N, C, H, W]"
        )
    if images.dtype == np.uint8:
        levels = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    else:
        if not np.isfinite(images).all():
            raise AigcEdgeError("the images contain NaN or infinity: check the network that generated them")
        levels = np.rint(np.clip((images.astype(np.float32) + 1) / 2 * 255, 0, 255))
    return (levels / 127.5 - 1).astype(np.float32)


def open_classifier(path: Path, threads: int = 1) -> Any:
    """The onnxruntime session of a classifier file; raises EngineUnavailable without onnxruntime."""
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise EngineUnavailable("scoring needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    data = path.read_bytes()
    check_references(data, None, str(path))  # what it referred to would be read from the current directory
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Judge:
    """A trained classifier, the features [n, D] of the real images, and its card (accuracy, pretext, counts)."""

    session: Any
    real: npt.NDArray[np.float32]
    card: dict[str, Any]

    @staticmethod
    def load(folder: str | os.PathLike[str], *, threads: int = 1) -> Judge:
        """Read a judge folder; raises BundleError when it is missing, damaged or newer, EngineUnavailable without onnxruntime."""
        path = Path(folder)
        try:
            card = json.loads((path / CARD).read_text(encoding="utf-8"))
            if card["version"] > VERSION:
                raise BundleError(
                    f"the judge in {path} has version {card['version']}, this release reads up to {VERSION}: update it"
                )
            damaged = [name for name, digest in card.get("sha256", {}).items() if sha256_of(path / name) != digest]
            if damaged:
                raise BundleError(f"{damaged[0]} of the judge in {path} does not match its hash: train it again")
            real = np.load(path / FEATURES, allow_pickle=False)
            session = open_classifier(path / CLASSIFIER, threads)
        except (BundleError, EngineUnavailable):
            raise
        except Exception as error:  # onnxruntime has no narrower class for a damaged file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"no usable judge in {path} ({reason}): train it again") from error
        return Judge(session, real, card)

    def look(self, images: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits [N, K] and features [N, D] of images (uint8 [N, H, W, C] or float32 [N, C, H, W] in [-1, 1])."""
        unit = to_unit(images)
        allowed = self.card["image_shape"]
        if list(unit.shape[1:]) != allowed:
            raise AigcEdgeError(f"images of shape {list(unit.shape[1:])} given: this judge was trained on {allowed} (C, H, W)")
        parts = [self.session.run(["logits", "features"], {"images": unit[i : i + BATCH]}) for i in range(0, len(unit), BATCH)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def score(
        self,
        images: npt.NDArray[Any],
        classes: npt.ArrayLike | None = None,
        reference: npt.NDArray[Any] | None = None,
        *,
        draws: int = 200,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Quality of generated images: Fréchet distance to the real ones with its 95 % interval and n, and the class accuracy.

        `classes` [N] are the requested classes (None: no class accuracy); `reference` are the images that the fp32
        network generated from the same noise (adds the figures of `paired.compare`). Distances are
        comparable only between equal n.
        """
        logits, features = self.look(images)
        low, high = bootstrap_interval(features, self.real, draws, seed)
        scores: dict[str, Any] = {
            "frechet": frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(self.real)),
            "frechet_low": low,
            "frechet_high": high,
            "n": len(features),
            "n_real": len(self.real),
            "class_accuracy": None,
            "judge_accuracy": self.card["accuracy"],
        }
        if classes is not None and self.card["pretext"] == "class":
            requested = np.asarray(classes)
            if requested.shape != (len(features),):
                raise AigcEdgeError(f"{requested.size} classes for {len(features)} images: give one class per image")
            scores["class_accuracy"] = float(np.mean(logits.argmax(axis=1) == requested))
        if reference is not None:
            generated, expected = (to_unit(x) if x.dtype == np.uint8 else x for x in (images, reference))
            scores |= compare(generated, expected)
        return scores
