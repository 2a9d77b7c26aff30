"""Learning: a tiny set is learnt by heart, divergence stops with a sentence, schedules and averages are exact."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aigc_edge.data import ImageSet, load
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import FAMILIES, load_run
from aigc_edge.models.diffusion import Diffusion
from aigc_edge.train import checkpoint, train
from aigc_edge.train.preview import preview
from aigc_edge.train.trainer import Trainer, generator

TINY: dict[str, Any] = {"widths": (16, 32), "blocks": (1, 1), "patch": 1, "embedding": 32}


def trainer(images: ImageSet, family: str = "diffusion", **settings: Any) -> Trainer:
    cls = FAMILIES[family]
    shape = TINY if family == "diffusion" else {"width": 4, "latent": 8}
    torch.manual_seed(settings.get("seed", 0))
    network = cls.from_config(cls.for_data(images.images, images.num_classes) | shape)
    return Trainer(network, cls.Training(**settings), images, images.take(np.arange(2)))


def two_images() -> ImageSet:
    """Two classes, one image each, of 8 × 8."""
    images = np.zeros((2, 1, 8, 8), np.uint8)
    images[0, 0, 2:6, 1:3] = 255
    images[1, 0, :, 4:] = 128
    return ImageSet(images, np.array([0, 1]), ("left", "right"), "test", "none")


def test_a_tiny_set_is_learnt_by_heart() -> None:
    data = two_images()
    run = trainer(data, steps=150, batch=32, lr=1e-2, warmup=10, ema=500.0)
    start = run.validation_loss()
    for _ in range(150):
        run.advance()
    assert run.validation_loss() < 0.1 * start
    images = preview(run.ema.family, seed=3).reshape(2, 8, 8, 8).astype(int)
    for label in range(2):
        assert np.abs(images[label] - data.images[label, 0]).mean() < 12  # of 255; the other image is 96 away


def test_a_step_is_adam_on_the_clipped_gradient() -> None:
    """One step against torch's own loss gradient and Adam's formula, written out in float64."""
    data = two_images()
    run = trainer(data, steps=10, batch=4, lr=0.01, warmup=0, clip=0.05, beta1=0.8, beta2=0.9)
    images, labels = run.batch(0)
    before = {n: p.detach().double().clone() for n, p in run.family.named_parameters()}
    _, loss = next(run.objective.losses(images, labels, 0, generator(run.seed, 0, 0)))
    grads = dict(zip(before, torch.autograd.grad(loss, list(run.family.parameters())), strict=True))
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))
    assert norm > 0.05
    assert run.advance() == {"denoiser": pytest.approx(float(loss.detach()), rel=1e-6)}
    for name, parameter in run.family.named_parameters():
        g = grads[name].double() * 0.05 / norm
        wanted = before[name] - 0.01 * g / (g.abs() + 1e-8)  # Adam's first step, bias corrected
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=1e-4, atol=1e-5)


def test_learning_rate() -> None:
    run = trainer(two_images(), steps=100, lr=2.0, warmup=10, lr_floor=0.1)
    rates = [run.learning_rate(step) for step in range(101)]
    for step in (0, 3, 9, 10, 50, 99, 100):
        wanted = 2.0 * min(1, (step + 1) / 10) * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 100)) / 2)
        assert rates[step] == pytest.approx(wanted)
    assert rates[100] == pytest.approx(0.2)
    constant = trainer(two_images(), steps=100, lr=2.0, warmup=0, lr_floor=1.0)
    assert {constant.learning_rate(step) for step in range(100)} == {2.0}


def test_average_has_the_half_life_it_was_given(rng: np.random.Generator) -> None:
    run = trainer(two_images(), batch=4, ema=40.0, ema_rampup=0.5)
    decays = []
    values: list[torch.Tensor] = []
    first = next(run.ema.family.parameters()).clone()
    for _ in range(30):
        run.advance()
        values.append(next(run.family.parameters()).detach().clone())
        decays.append(0.5 ** (4 / min(40, 0.5 * 4 * run.step)))
    wanted = first.double()
    for value, decay in zip(values, decays, strict=True):
        wanted = decay * wanted + (1 - decay) * value.double()
    torch.testing.assert_close(next(run.ema.family.parameters()).double(), wanted, rtol=1e-5, atol=1e-6)
    assert decays[-1] ** 10 == pytest.approx(0.5)  # 10 steps of 4 images halve it


def test_every_image_is_seen_once_an_epoch_with_its_label() -> None:
    data = load("digits", 8).take(np.arange(50))
    run = trainer(data, batch=20)
    seen = [run.batch(step) for step in range(5)]  # two epochs
    known = {bytes(image): int(label) for image, label in zip(data.images, data.labels, strict=True)}
    found: list[bytes] = []
    for images, labels in seen:
        assert float(images.min()) >= -1
        assert float(images.max()) <= 1
        for image, label in zip(((images + 1) * 127.5).round().to(torch.uint8).numpy(), labels, strict=True):
            assert known[bytes(image)] == int(label)
            found.append(bytes(image))
    for epoch in (found[:50], found[50:]):
        assert sorted(epoch) == sorted(map(bytes, data.images))
    assert found[:50] != found[50:]
    again = trainer(data, batch=20).batch(3)
    assert torch.equal(again[0], seen[3][0])  # by step alone, in whatever order
    assert not torch.equal(trainer(data, batch=20, seed=1).batch(0)[0], seen[0][0])


@pytest.mark.parametrize("family", ["diffusion", "gan"])
def test_divergence_is_a_sentence_and_keeps_the_weights(family: str) -> None:
    run = trainer(two_images(), family, batch=4)
    run.advance()
    name, network = next(iter(run.objective.networks.items()))
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    after = {n: p.detach().clone() for n, p in list(network.named_parameters())[1:]}
    with pytest.raises(
        AigcEdgeError, match=rf"diverged at step 2: the loss of the {name} is nan.*restart with a learning rate below"
    ):
        run.advance()
    assert all(torch.equal(p, after[n]) for n, p in list(network.named_parameters())[1:])
    assert run.step == 1


def test_the_run_folder_holds_what_was_agreed(tmp_path: Path) -> None:
    out = train(
        "diffusion", "digits", str(tmp_path / "run"), steps=4, batch=8, size=8, seed=3, progress=False, check_every=2, **TINY
    )
    assert out == tmp_path / "run"
    config = json.loads((out / "config.json").read_text())
    digits = load("digits", 8)
    assert (config["version"], config["family"]) == (1, "diffusion")
    assert config["data"] == json.loads(json.dumps(digits.describe()))
    assert config["model"]["widths"] == [16, 32]
    assert config["model"]["sigma_data"] == pytest.approx(digits.scaled().std(), abs=1e-3)
    assert {k: config["train"][k] for k in ("steps", "batch", "seed")} == {"steps": 4, "batch": 8, "seed": 3}
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    weights = load_file(out / "model.safetensors")
    averaged = {k.removeprefix("ema."): v for k, v in load_file(out / checkpoint.TENSORS).items() if k.startswith("ema.")}
    assert weights.keys() == averaged.keys() == load_run(out).family.state_dict().keys()
    assert all(torch.equal(weights[k], averaged[k]) for k in weights)


def test_tensorboard_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train("gan", "digits", tmp_path, steps=4, batch=8, size=8, progress=False, log_every=2, width=4, latent=8)
    events = EventAccumulator(str(out))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss/discriminator", "loss/decoder", "loss/validation", "learning_rate"}
    assert events.Tags()["images"] == ["samples"]
    assert [event.step for event in events.Scalars("loss/decoder")] == [2, 4]


def test_progress_shows_loss_speed_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"steps": 3, "batch": 8, "size": 8, "log_every": 1, **TINY}
    train("diffusion", "digits", tmp_path / "a", progress=False, **settings)
    assert capsys.readouterr().err == ""
    train("diffusion", "digits", tmp_path / "b", **settings)
    shown = capsys.readouterr().err
    assert "img/s" in shown
    assert "denoiser=" in shown
    assert "24.0/24.0" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, r"unknown diffusion settings depth: choose from .*widths"),
        ({"size_": 3}, "unknown diffusion settings size_"),
        ({"lr": 0.0}, "lr is 0.0: give a value above 0"),
        ({"lr": math.nan}, "lr is nan: give a value above 0"),
        ({"steps": 0}, "steps is 0: give a value of at least 1"),
        ({"batch": -4}, "batch is -4: give a value of at least 1"),
        ({"batch": 2.5}, "batch is 2.5: give a value of type int"),
        ({"seed": -1}, "seed is -1"),
        ({"precision": "float8"}, "precision is 'float8': choose one of auto, float32, bfloat16"),
        ({"widths": (0,)}, "widths is 0: give a value of at least 4"),
        ({"widths": ()}, "blocks has 2 entries and widths 0"),
        ({"validation": 0.9}, "validation is 0.9: give a value of at most 0.5"),
        ({"num_classes": 4}, "unknown diffusion settings num_classes"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=message):
        train("diffusion", "digits", tmp_path / "run", progress=False, **({"steps": 2, "size": 8} | settings))
    assert not (tmp_path / "run").exists()


def test_a_family_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=r"unknown family 'vae': choose one of diffusion, .*gan"):
        train("vae", "digits", tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match="torch finds no CUDA device"):
        train("diffusion", "digits", tmp_path / "run", size=8, device="cuda", progress=False)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"size": 8, "batch": 8, "progress": False, **TINY}
    out = train("diffusion", "digits", tmp_path / "run", steps=2, **settings)
    before = (out / checkpoint.TENSORS).read_bytes()
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AigcEdgeError, match="no space left to write"):
        train("diffusion", "digits", out, steps=4, **settings)
    assert (out / checkpoint.TENSORS).read_bytes() == before
    assert not list(out.glob(".*"))


def test_colour_images_without_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    from PIL import Image

    for index in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    for name, settings in (("diffusion", TINY), ("gan", {"width": 4, "latent": 8})):
        out = train(
            name, str(tmp_path), tmp_path / "runs" / name, size=8, steps=2, batch=8, progress=False, flip=True, **settings
        )
        run = load_run(out)
        assert (run.family.num_classes, run.family.output_shape) == (0, (3, 8, 8))
        assert run.config["data"]["count"] == 5
        if (tmp_path / "runs").exists():
            for path in (tmp_path / "runs").rglob("*.png"):
                path.unlink()  # the next family reads the same folder


def test_the_process_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(123)
    wanted = torch.rand(3)
    torch.manual_seed(123)
    train("diffusion", "digits", tmp_path, size=8, steps=2, batch=8, progress=False, **TINY)
    assert torch.equal(torch.rand(3), wanted)


def test_objective_networks_are_the_familys_own() -> None:
    run = trainer(two_images())
    assert isinstance(run.family, Diffusion)
    assert run.objective.networks["denoiser"] is run.family.denoiser
    assert all(isinstance(module, nn.Module) for module in run.objective.networks.values())
