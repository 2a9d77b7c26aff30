"""How tensors cross from Python: whose memory is used, and what is refused with which sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops
from aigc_edge.errors import AigcEdgeError

core = pytest.importorskip("aigc_edge._core")
SEEDS = np.arange(3, dtype=np.uint64)
EXPECTED = np.empty((3, 8), np.float32)
ops.randn(SEEDS, 1, EXPECTED)


def read_only() -> np.ndarray:
    array = np.zeros((3, 8), np.float32)
    array.flags.writeable = False
    return array


REFUSED: list[tuple[Any, str]] = [
    (np.zeros((3, 8)), "is float64: float32[N, E] is needed"),
    (np.zeros((3, 8), np.float16), "is float16: float32[N, E] is needed"),
    (np.zeros((3, 8), ">f4"), "cannot be used: "),
    (np.zeros((2, 8), np.float32), "has the shape [2, 8]: [N, E] with N = 3, as in seeds, is needed"),
    (np.zeros(8, np.float32), "has the shape [8]: [N, E] is needed"),
    (np.zeros((8, 3), np.float32).T, "is not contiguous"),
    (np.zeros((3, 16), np.float32)[:, ::2], "is not contiguous"),
    (np.zeros((3, 8), np.float32)[:, ::-1], "is not contiguous"),
    (read_only(), "is read-only and would be written"),
    (None, "must be a tensor, float32[N, E]"),
    (1.5, "must be a tensor, float32[N, E]"),
    ([[0.0] * 8] * 3, "is a list: a tensor (with DLPack), a number or None is needed"),
    ("out", "is a str: a tensor"),
]


@pytest.mark.parametrize(("out", "sentence"), REFUSED)
def test_a_wrong_output_is_refused(out: Any, sentence: str) -> None:
    with pytest.raises(AigcEdgeError) as raised:
        core.op("randn")(SEEDS, 1, out)
    assert str(raised.value).startswith("randn: out ")
    assert sentence in str(raised.value)


WRONG_DRAWS = [(-1, "0 to 4294967295 is allowed"), (2**32, "0 to"), (2**70, "cannot"), (0.5, "integer")]


@pytest.mark.parametrize(("draw", "sentence"), WRONG_DRAWS)
def test_a_wrong_number_is_refused(draw: Any, sentence: str) -> None:
    with pytest.raises(AigcEdgeError, match=f"randn: draw .*{sentence}"):
        core.op("randn")(SEEDS, draw, np.zeros((3, 8), np.float32))


@pytest.mark.parametrize("arguments", [(), (SEEDS,), (SEEDS, 1, EXPECTED, 2)])
def test_a_wrong_count_of_arguments_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(AigcEdgeError, match=r"randn: .*arguments were given|randn: .*is missing"):
        core.op("randn")(*arguments)
    with pytest.raises(AigcEdgeError, match=r"randn: .*argument"):
        ops.randn(*arguments)


WRONG_KEYWORDS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((SEEDS, 1), {}, "out is missing"),
    ((SEEDS,), {"out": EXPECTED}, "draw is missing"),
    (
        (SEEDS, 1),
        {"out": EXPECTED, "seed": 3},
        "4 .* only 3 can be used: the parameters are seeds, draw, out",
    ),
    ((SEEDS, 1, EXPECTED), {"draw": 1}, "4 arguments were given and only 3"),
]


@pytest.mark.parametrize(("arguments", "keywords", "sentence"), WRONG_KEYWORDS)
def test_a_missing_unknown_or_repeated_argument_is_refused(
    arguments: tuple[Any, ...], keywords: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AigcEdgeError, match=f"randn: {sentence}"):
        ops.randn(*arguments, **keywords)


def test_an_unknown_op_is_refused() -> None:
    known = "blend_tile, cut_tile, latent_to_rgb8, randn, solver_step"
    with pytest.raises(AigcEdgeError, match=f'there is no native op "nothing": there are {known}'):
        core.op("nothing")


def test_numpy_numbers_keywords_and_defaults_are_taken() -> None:
    out = np.zeros((3, 8), np.float32)
    core.op("randn")(SEEDS, np.int64(1), out)
    np.testing.assert_array_equal(out, EXPECTED)
    out[:] = 0
    ops.randn(out=out, draw=1, seeds=SEEDS)
    np.testing.assert_array_equal(out, EXPECTED)
    images, pixels = np.zeros((1, 1, 1, 4), np.float32), np.zeros((1, 1, 4, 1), np.uint8)
    core.op("latent_to_rgb8")(images, pixels, np.float32(0), 3)
    assert pixels.ravel().tolist() == [3, 3, 3, 3]
    ops.latent_to_rgb8(images, pixels)
    assert pixels.ravel().tolist() == [128, 128, 128, 128]


def test_read_only_inputs_are_taken() -> None:
    seeds = SEEDS.copy()
    seeds.flags.writeable = False
    out = np.zeros((3, 8), np.float32)
    core.op("randn")(seeds, 1, out)
    np.testing.assert_array_equal(out, EXPECTED)


def test_views_and_sizes_of_one_are_written_in_place() -> None:
    room = np.zeros((5, 8), np.float32)
    core.op("randn")(SEEDS, 1, room[1:4])
    np.testing.assert_array_equal(room[1:4], EXPECTED)
    assert not room[[0, 4]].any()
    column = np.zeros((3, 1, 7), np.float32)[:, :, 0].T[:, :1]  # one element, with odd strides
    core.op("randn")(SEEDS[:1], 1, column)
    assert column[0, 0] == EXPECTED[0, 0]


class OldProducer:
    """Speaks DLPack as it was before version 1."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__()


def test_a_producer_of_old_dlpack_is_taken() -> None:
    out = np.zeros((3, 8), np.float32)
    core.op("randn")(SEEDS, 1, OldProducer(out))
    np.testing.assert_array_equal(out, EXPECTED)


def test_arrays_are_released(fresh_seed: int) -> None:
    out = np.zeros((3, 8), np.float32)
    before = sys.getrefcount(out), sys.getrefcount(SEEDS)
    for bad in (False, True):
        for _ in range(10):
            if bad:
                with pytest.raises(AigcEdgeError):
                    core.op("randn")(SEEDS, -1, out)
            else:
                core.op("randn")(SEEDS, 1, out)
    assert (sys.getrefcount(out), sys.getrefcount(SEEDS)) == before


def test_torch_tensors_are_written_in_place() -> None:
    torch = pytest.importorskip("torch")
    out = torch.zeros(3, 8)
    core.op("randn")(torch.from_numpy(SEEDS), 1, out)
    np.testing.assert_array_equal(out.numpy(), EXPECTED)
    part = torch.zeros(5, 8)
    core.op("randn")(SEEDS, 1, part[1:4])
    np.testing.assert_array_equal(part[1:4].numpy(), EXPECTED)


def test_torch_tensors_that_cannot_serve_are_refused() -> None:
    torch = pytest.importorskip("torch")
    refused = [
        (torch.zeros(3, 8, requires_grad=True), "requires a gradient.*detach"),
        (torch.nn.Parameter(torch.zeros(3, 8)), "requires a gradient.*detach"),
        (torch.zeros(3, 8, device="meta"), "cannot be used"),
        (torch.zeros(8, 3).t(), "is not contiguous"),
        (torch.zeros(3, 8, dtype=torch.bfloat16), "is bfloat16: float32.* is needed"),
    ]
    for out, sentence in refused:
        with pytest.raises(AigcEdgeError, match=f"randn: out {sentence}"):
            core.op("randn")(SEEDS, 1, out)
    with torch._subclasses.FakeTensorMode():
        fake = torch.zeros(3, 8)
    with pytest.raises(AigcEdgeError, match=r"randn: out (has no memory|cannot be used)"):
        core.op("randn")(SEEDS, 1, fake)


def test_without_a_gpu_cuda_says_why() -> None:
    reason = core.cuda_unavailable()
    if not reason:
        pytest.skip("there is a GPU here")
    assert any(word in reason for word in ("driver", "build", "device"))


def test_the_instruction_set_can_be_chosen_by_the_environment() -> None:
    code = "import aigc_edge._core as core; print(core.isa())"
    for name in core.isas():
        environment = os.environ | {"AIGC_EDGE_ISA": name}
        printed = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True).stdout
        assert printed.strip() == name
    with pytest.raises(AigcEdgeError, match='"v9" is not available here: choose one of baseline'):
        core.set_isa("v9")


def test_ops_do_not_import_torch() -> None:
    code = "import sys; from aigc_edge import ops; ops.randn._run; assert 'torch' not in sys.modules; print(len(ops.OPS))"
    printed = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
    assert int(printed) == len(ops.OPS)


def test_without_the_native_core_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_edge.ops._op.native_core", lambda: None)
    op = ops.Op(ops.randn.reference)
    out = np.zeros((3, 8), np.float32)
    op(SEEDS, 1, out)
    np.testing.assert_allclose(out, EXPECTED, rtol=0, atol=1e-5)
