"""Damaged, foreign and mismatched diffusers folders: one sentence each, before or at loading, and nothing is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folders") / "pixels"
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    sizes = {"sample_size": 4, "block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    unet = diffusers.UNet2DModel(**kinds, **sizes, add_attention=False)
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained(path)
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "pixels"))


def change(file: Path, **members: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | members))


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def sharded_in_part(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")


def in_shards(folder: Path) -> Path:
    """The weights in several files, with their index."""
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    diffusers.UNet2DModel.from_pretrained(folder / "unet").save_pretrained(folder / "unet", max_shard_size="5KB")
    (folder / WEIGHTS).unlink(missing_ok=True)
    return index


def without_a_shard(folder: Path) -> None:
    in_shards(folder)
    next((folder / "unet").glob("*-00002-of-*.safetensors")).unlink()


def outside(folder: Path) -> None:
    index = in_shards(folder)
    content = json.loads(index.read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../diffusion_pytorch_model.safetensors")
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "model_index.json").write_text("{"), r"pixels/model_index.json cannot be read as JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), r"model_index.json is not a JSON object"),
        (lambda f: (f / "model_index.json").write_text("{}"), r"does not name a pipeline"),
        (lambda f: change(f / "model_index.json", _class_name="WanPipeline"), r"is a WanPipeline.*one of .*DDIMPipeline.*Flux"),
        (lambda f: change(f / "model_index.json", unet=[None, None]), r"has no unet, which a DDIMPipeline needs"),
        (lambda f: change(f / "model_index.json", unet=["diffusers", "VQModel"]), r"a VQModel: it must be one of UNet2DModel"),
        (lambda f: shutil.rmtree(f / "unet"), r"pixels/unet is missing, which model_index.json lists"),
        (lambda f: (f / "unet" / "config.json").unlink(), r"pixels/unet/config.json is missing"),
        (lambda f: cut(f / "unet" / "config.json", 0.5), r"unet/config.json cannot be read as JSON"),
        (lambda f: change(f / "unet" / "config.json", in_channels=4), r"takes 4 channels and returns 3"),
        (lambda f: change(f / "unet" / "config.json", out_channels=-1), r"out_channels of pixels/unet is -1"),
        (lambda f: change(f / "unet" / "config.json", class_embed_type="timestep"), r"embeds 'timestep' instead of classes"),
        (lambda f: change(f / "unet" / "config.json", sample_size=None), r"does not specify its size"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), r"scheduler_config.json is missing"),
        (lambda f: change(f / "scheduler" / "scheduler_config.json", beta_schedule="x"), r"is not valid for a DDIMScheduler"),
        (pickled, r"contains pickled weights \(diffusion_pytorch_model.bin\).*save_pretrained"),
        (lambda f: (f / WEIGHTS).unlink(), r"unet contains no safetensors"),
        (sharded_in_part, r"lacks some of its 2 weight files"),
        (without_a_shard, r"lacks some of its \d+ weight files \(diffusion_pytorch_model-00002-of-\d+.safetensors\)"),
        (outside, r"unet/diffusion_pytorch_model.safetensors.index.json does not list files beside it"),
        (lambda f: change(f / "model_index.json", _class_name=["mine.py", "MyPipeline"]), r"is a MyPipeline, which cannot"),
        (lambda f: change(f / "model_index.json", _class_name=[]), r"does not name a pipeline"),
        (lambda f: cut(f / WEIGHTS, 0.9), r"safetensors is truncated or damaged"),
        (lambda f: cut(f / WEIGHTS, 0.0), r"safetensors is truncated or damaged"),
    ],
)
def test_opening_says_what_is_wrong(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(folder)
    with pytest.raises(AigcEdgeError, match=sentence) as caught:
        open_source(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder.parent) not in str(caught.value)


def one_value(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"].view(-1)[5] = value
    save_file(weights, folder / WEIGHTS)


def without_one(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_out.bias"]
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: one_value(f, float("nan")), r"values that are not finite, in conv_in.weight"),
        (lambda f: one_value(f, float("inf")), r"values that are not finite, in conv_in.weight"),
        (without_one, r"lacks 1 weights of its UNet2DModel, the first is conv_out.bias"),
        (lambda f: change(f / "unet" / "config.json", block_out_channels=[16]), r"pixels/unet cannot be loaded as a UNet2DModel"),
        (lambda f: change(f / "unet" / "config.json", down_block_types=["X"]), r"pixels/unet cannot be loaded as a UNet2DModel"),
        (
            lambda f: change(f / "model_index.json", unet=["code", "UNet2DModel"]),
            r"a UNet2DModel of code.*not code from the folder",
        ),
    ],
)
def test_loading_says_what_is_wrong(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(folder)
    part = open_source(str(folder)).components()[0]
    with pytest.raises(AigcEdgeError, match=sentence):
        part.module  # noqa: B018


def test_sizes_that_do_not_suit(folder: Path) -> None:
    assert open_source(str(folder), SourceOptions(size=(6, 10))).output_shape == (3, 6, 10)
    change(folder / "unet" / "config.json", block_out_channels=[8, 8, 8])
    with pytest.raises(AigcEdgeError, match="multiples of 4"):
        open_source(str(folder), SourceOptions(size=(6, 8)))


def test_a_half_precision_variant_is_loaded_as_float32(folder: Path) -> None:
    plain = open_source(str(folder)).components()[0].module.state_dict()
    half = {name: weight.half() for name, weight in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / WEIGHTS).unlink()
    module = open_source(str(folder)).components()[0].module
    for name, weight in module.state_dict().items():
        assert weight.dtype == torch.float32
        np.testing.assert_array_equal(weight.numpy(), plain[name].half().float().numpy())


def test_weights_in_several_files(folder: Path) -> None:
    plain = open_source(str(folder)).components()[0].module
    plain.unet.save_pretrained(folder / "unet", max_shard_size="5KB")
    (folder / WEIGHTS).unlink(missing_ok=True)
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    module = open_source(str(folder)).components()[0].module
    for name, weight in module.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), plain.state_dict()[name].numpy())


def variant(folder: Path, name: str, old: bool) -> None:
    """Sharded weights of a variant, named as diffusers does, or as its older versions did."""
    index = in_shards(folder)
    names = {file.name: file for file in (folder / "unet").glob("*-of-*.safetensors")}
    renamed = {}
    for file in names:
        stem, shard = file.removesuffix(".safetensors").split("-", 1)
        renamed[file] = f"{stem}-{shard}.{name}.safetensors" if old else f"{stem}.{name}-{shard}.safetensors"
        names[file].rename(folder / "unet" / renamed[file])
    content = json.loads(index.read_text())
    content["weight_map"] = {key: renamed[file] for key, file in content["weight_map"].items()}
    parts = index.name.removesuffix(".index.json")
    index.with_name(f"{parts}.{name}.index.json" if old else f"{parts}.index.{name}.json").write_text(json.dumps(content))
    index.unlink()


def left_over(folder: Path) -> None:
    in_shards(folder)
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00013.safetensors").write_bytes(b"of another download")


@pytest.mark.parametrize(
    "rename",
    [
        lambda f: (f / WEIGHTS).rename(f / "unet" / "diffusion_pytorch_model.fp16-ema.safetensors"),
        lambda f: variant(f, "fp16", old=False),
        lambda f: variant(f, "fp16", old=True),
        lambda f: variant(f, "non-ema", old=False),
        lambda f: variant(f, "non-ema", old=True),
        left_over,
    ],
    ids=["hyphen", "shards", "old shards", "shards hyphen", "old shards hyphen", "left over"],
)
def test_weights_are_those_of_the_index_whatever_their_names(folder: Path, rename: Callable[[Path], object]) -> None:
    plain = open_source(str(folder)).components()[0].module.state_dict()
    moved = folder.with_name("with.a.dot")  # which older index names are split at
    folder.rename(moved)
    rename(moved)
    found = open_source(str(moved)).components()[0].module.state_dict()
    assert found.keys() == plain.keys()
    for name, weight in found.items():
        np.testing.assert_array_equal(weight.numpy(), plain[name].numpy())


def test_a_class_name_with_the_file_of_a_custom_pipeline(folder: Path) -> None:
    change(folder / "model_index.json", _class_name=["pipeline", "DDIMPipeline"])
    assert open_source(str(folder)).family == "DDIMPipeline"


def test_a_chosen_solver_is_the_default_program(folder: Path) -> None:
    for solver, steps in (("euler", 10), ("ddim", 20), ("heun", 7)):
        assert open_source(str(folder)).programs(solver, steps, None)[0].name == f"{solver}-{steps}"


def test_a_network_is_checked_at_timesteps_of_its_schedule(folder: Path) -> None:
    (part,) = open_source(str(folder)).components()
    times = part.example(64, torch.Generator().manual_seed(0))[1]
    rows = {row.timestep for program in open_source(str(folder)).programs(None, None, None) for row in program.rows}
    assert set(times.tolist()) <= {float(np.float32(row)) for row in rows}
    change(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))
    change(folder / "model_index.json", _class_name="DDPMPipeline")
    (part,) = open_source(str(folder)).components()
    times = part.example(64, torch.Generator().manual_seed(0))[1]
    assert times.max() < 2  # ln(sigma) / 4 of sigma up to 80
    assert times.min() > -2


def test_provenance_names_no_place(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\ntags: [x]\n---\n# Pixels\nlicense: other\n")
    source = open_source(str(folder))
    found = source.provenance()
    assert (found["source"], found["pipeline"], found["licence"]) == ("pixels", "DDIMPipeline", "creativeml-openrail-m")
    assert str(folder.parent) not in json.dumps(found)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n")
    assert open_source(str(folder)).provenance()["licence"] == "my-terms"
    (folder / "README.md").unlink()
    assert source.provenance()["licence"] is None


def test_a_part_is_loaded_once_and_let_go(folder: Path) -> None:
    part = open_source(str(folder)).components()[0]
    module = part.module
    assert part.module is module
    part.release()
    (folder / WEIGHTS).unlink()
    with pytest.raises(AigcEdgeError, match="no safetensors"):
        part.module  # noqa: B018


def test_options_that_the_folder_answers_itself_are_refused(folder: Path) -> None:
    with pytest.raises(AigcEdgeError, match="--prediction was given, but a diffusers folder specifies it itself"):
        open_source(str(folder), SourceOptions(prediction="v"))
    with pytest.raises(AigcEdgeError, match="square images"):
        open_source(str(folder), SourceOptions(data="digits", size=(4, 8)))
    assert not open_source(str(folder)).judged
    judged = open_source(str(folder), SourceOptions(data="digits", size=(8, 8)))
    data = judged.data()
    assert judged.judged
    assert data is not None
    assert data.images.shape[2:] == (8, 8)


def test_identity_follows_the_weights(folder: Path) -> None:
    first = open_source(str(folder)).identity("denoiser")
    assert open_source(str(folder)).identity("denoiser") == first
    assert open_source(str(folder), SourceOptions(size=(8, 8))).identity("denoiser") != first
    one_value(folder, 2.5)
    assert open_source(str(folder)).identity("denoiser") != first


def test_a_scheduler_that_cannot_be_a_table_has_advice(folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=4)
    source = open_source(str(folder))
    with pytest.raises(AigcEdgeError, match=r"scheduler of pixels cannot be compiled.*--solver dpmpp_2m"):
        source.programs(None, 50, None)
    assert source.programs("euler", 3, None)[0].name == "euler-3"
