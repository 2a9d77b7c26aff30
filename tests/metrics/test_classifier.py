"""Training of the judge: it recognises what it is shown, on images it has not seen, the same way each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from aigc_edge.errors import AigcEdgeError, DataError
from aigc_edge.metrics.classifier import train_judge
from aigc_edge.metrics.judge import Judge


def _bars(rng: np.random.Generator, n: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Bars at a random place: upright for class 0, lying for class 1; noise on top."""
    labels = np.arange(n) % 2
    images = rng.normal(-0.8, 0.1, (n, 1, size, size))
    for image, label in zip(images, labels, strict=True):
        place = rng.integers(1, size - 2)
        (image[0].T if label == 0 else image[0])[place : place + 2] += 1.5
    return np.clip(images, -1, 1).astype(np.float32), labels


def test_recognises_images_it_has_not_seen(rng: np.random.Generator, tmp_path: Path) -> None:
    images, labels = _bars(rng, 300)
    card = train_judge(images, labels, tmp_path / "judge", steps=50, seed=1)
    assert card["accuracy"] >= 0.97
    assert (card["held_out"], card["train"], card["classes"], card["pretext"]) == (60, 240, 2, "class")
    judge = Judge.load(tmp_path / "judge")
    fresh, wanted = _bars(rng, 400)
    assert judge.card == card
    assert judge.score(fresh, wanted, draws=2)["class_accuracy"] >= 0.97
    np.testing.assert_allclose(judge.look(images)[1], judge.real, rtol=2**-10, atol=2**-20)  # stored in half precision
    # Images of another kind are farther from the real ones than fresh ones of the same kind.
    noise = rng.uniform(-1, 1, fresh.shape).astype(np.float32)
    assert judge.score(noise, draws=2)["frechet"] > 10 * judge.score(fresh, draws=2)["frechet"]


def test_same_seed_same_judge(rng: np.random.Generator, tmp_path: Path) -> None:
    images, labels = _bars(rng, 60)
    for name in "ab":
        train_judge(images, labels, tmp_path / name, steps=4, seed=3)
    for file in ("classifier.onnx", "features.npy", "judge.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    text = str(onnx.load(tmp_path / "a" / "classifier.onnx"))
    assert str(Path(__file__).parents[2]) not in text  # no path of this machine
    assert "site-packages" not in text


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 10)])
def test_without_labels_it_learns_rotations(rng: np.random.Generator, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """A gradient from dark above to bright below tells which way is up."""
    ramp = np.linspace(-0.8, 0.8, shape[1], dtype=np.float32)[None, None, :, None]
    images = ramp + rng.normal(0, 0.1, (60, *shape)).astype(np.float32)
    card = train_judge(images, None, tmp_path / "judge", steps=35)
    turns = 4 if shape[1] == shape[2] else 2
    assert (card["pretext"], card["classes"], card["held_out"]) == ("rotation", turns, 12 * turns)
    assert card["accuracy"] >= 0.95
    score = Judge.load(tmp_path / "judge").score(images, np.zeros(60), draws=2)
    assert score["class_accuracy"] is None
    assert score["frechet"] < 0.1


def test_bad_data_leaves_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    images, labels = _bars(rng, 20)
    with pytest.raises(DataError, match="at least 10"):
        train_judge(images[:9], labels[:9], tmp_path / "judge")
    with pytest.raises(DataError, match="19 labels for 20 images"):
        train_judge(images, labels[:-1], tmp_path / "judge")

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judge(images, labels, tmp_path / "judge", steps=3, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "judge").mkdir()
    with pytest.raises(AigcEdgeError, match="already exists"):
        train_judge(images, labels, tmp_path / "judge", steps=1)
