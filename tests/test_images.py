"""Grids and PNG files, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.images import grid, to_uint8, write_png

Image = pytest.importorskip("PIL.Image")


def test_floats_become_bytes_like_the_contract_says():
    values = np.array([-3.0, -1.0, -1 + 1 / 255, 0.0, 1.0, 2.0], np.float32)
    found = to_uint8(values.reshape(1, 1, 2, 3))
    assert found.shape == (1, 2, 3, 1)
    assert found.ravel().tolist() == [0, 0, 0, 128, 255, 255]  # half a level rounds to even: 0.5 → 0, 127.5 → 128


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_in_its_place(rng, channels):
    images = rng.integers(0, 256, (7, 5, 4, channels), dtype=np.uint8)
    picture = grid(images, columns=3, border=2, smallest=8)
    assert picture.shape == (3 * 12 + 2, 3 * 10 + 2, channels)  # enlarged twice
    for index, image in enumerate(images):
        top, left = index // 3 * 12 + 2, index % 3 * 10 + 2
        block = picture[top : top + 10, left : left + 8]
        np.testing.assert_array_equal(block, np.kron(image, np.ones((2, 2, 1), np.uint8)))
        picture[top : top + 10, left : left + 8] = 96
    assert (picture == 96).all()  # lines and empty places


def test_the_default_is_near_square():
    images = np.zeros((10, 64, 64, 1), np.uint8)
    assert grid(images).shape == (3 * 65 + 1, 4 * 65 + 1, 1)


@pytest.mark.parametrize(
    ("images", "columns"),
    [
        (np.zeros((0, 4, 4, 1), np.uint8), None),
        (np.zeros((1, 4, 4, 2), np.uint8), None),
        (np.zeros((1, 4, 4, 1), np.float32), None),
        (np.zeros((4, 4, 1), np.uint8), None),
        (np.zeros((1, 4, 4, 1), np.uint8), 0),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images, columns):
    with pytest.raises(AigcEdgeError, match="a grid"):
        grid(images, columns=columns)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_same_pixels(tmp_path, rng, channels):
    picture = rng.integers(0, 256, (9, 7, channels), dtype=np.uint8)
    write_png(tmp_path / "deep" / "x.png", picture)
    with Image.open(tmp_path / "deep" / "x.png") as found:
        assert found.format == "PNG"
        np.testing.assert_array_equal(np.asarray(found).reshape(picture.shape), picture)
    (tmp_path / "file").write_text("")
    with pytest.raises(AigcEdgeError, match="cannot write"):
        write_png(tmp_path / "file" / "x.png", picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "file"]
