"""Stable Diffusion folders: from prompt to pixels beside diffusers' own pipeline, from the same noise."""

from __future__ import annotations

import json
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

LENGTH, WIDTH, SIZE = 12, 16, 8
PROMPTS = ["a red cat on a dog", "Naïve café, 3 dogs and 2 cats: très long " * 3]


def unet(**config: Any) -> diffusers.UNet2DConditionModel:
    common: dict[str, Any] = {"sample_size": SIZE, "block_out_channels": (16,), "layers_per_block": 1, "norm_num_groups": 8}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    common |= {"cross_attention_dim": WIDTH, "attention_head_dim": 2} | kinds | config
    made = diffusers.UNet2DConditionModel(**common)
    made.conv_out.weight.data *= 0.2  # an untrained network is no denoiser: its rounding would grow with every step
    return made


def vae() -> diffusers.AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**kinds, block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4)


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, clip_tokenizer: Callable[..., None], clip_model: Callable[..., Any]) -> Save:
    def write(
        name: str, scheduler: Any, network: Any, kind: Any = diffusers.StableDiffusionPipeline, decoder: Any = None
    ) -> Path:
        from transformers import CLIPTokenizer

        clip_tokenizer(tmp_path / name / "clip", LENGTH)
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / name / "clip")
        extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = kind(decoder or vae(), clip_model(LENGTH, WIDTH), tokenizer, network, scheduler, **extra)
        pipe.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def wanted(pipe: Any, latents: np.ndarray, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    made = pipe(PROMPTS, latents=torch.from_numpy(latents), output_type="pt", **options).images
    return np.asarray(made)


def test_stable_diffusion(save: Save, export: Any, rng: np.random.Generator) -> None:
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    folder = save("sd", scheduler, unet())
    source = open_source(str(folder))
    assert (source.sample_shape, source.output_shape, source.guidance_scale) == ((4, SIZE, SIZE), (3, 2 * SIZE, 2 * SIZE), 7.5)
    assert source.text is not None
    assert source.text.negative == "encode"
    program = source.programs(None, 10, None)[0]
    assert program.name == "PNDM-10"
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("denoiser",))
    image = exported.sample(program, latents, prompts=PROMPTS)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    assert exported.psnr(image, wanted(pipe, latents, num_inference_steps=10)) > 80
    other = exported.sample(program, latents, prompts=PROMPTS[::-1])
    assert exported.psnr(other, wanted(pipe, latents, num_inference_steps=10)) < 75, "prompts must matter"


def test_the_bundle_of_stable_diffusion(save: Save, export: Any, compiled: Any, rng: np.random.Generator) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    folder = save("sd-bundle", scheduler, unet())
    latents = rng.standard_normal((2, 4, SIZE, SIZE), np.float32)
    image = compiled(open_source(str(folder)), 6, latents, PROMPTS, negative_prompt="a dog")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    result = wanted(pipe, latents, num_inference_steps=6, negative_prompt=["a dog"] * 2)
    assert export(open_source(str(folder)), torch=("text_encoder", "denoiser", "decoder")).psnr(image, result) > 80


def test_v_prediction_and_an_uneven_size(save: Save, export: Any, rng: np.random.Generator) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    folder = save("sd2", scheduler, unet(attention_head_dim=(2,), use_linear_projection=True))
    source = open_source(str(folder), SourceOptions(size=(16, 24)))
    assert source.sample_shape == (4, 8, 12)
    program = source.programs(None, 6, 5.0)[0]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("denoiser", "decoder", "text_encoder"))
    image = exported.sample(program, latents, prompts=PROMPTS)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    options = {"num_inference_steps": 6, "guidance_scale": 5.0, "height": 16, "width": 24}
    assert exported.psnr(image, wanted(pipe, latents, **options)) > 80


def test_latent_consistency_with_an_embedded_guidance_scale(save: Save, export: Any, rng: np.random.Generator) -> None:
    network = unet(time_cond_proj_dim=10)
    network.time_embedding.cond_proj.weight.data *= 10  # so that the guidance scale shows
    scheduler = diffusers.LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    )
    folder = save("lcm", scheduler, network, diffusers.LatentConsistencyModelPipeline, tiny)
    source = open_source(str(folder))
    assert (source.steps, source.guidance_scale, source.schedule) == (4, 8.5, None)
    programs = source.programs(None, None, None)
    assert [program.name for program in programs] == ["LCM-4", "LCM-1", "LCM-2", "LCM-8"]
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    drawn = torch.Generator().manual_seed(11)
    noise = np.stack([torch.randn(latents.shape, generator=drawn).numpy() for _ in programs[0].draws])
    exported = export(source, torch=("text_encoder",))
    image = exported.sample(programs[0], latents, prompts=PROMPTS, noise=noise)
    pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder)
    result = wanted(pipe, latents, generator=torch.Generator().manual_seed(11))
    assert exported.psnr(image, result) > 80
    other = exported.sample(programs[0].with_guidance(2.0), latents, prompts=PROMPTS, noise=noise)
    assert exported.psnr(other, result) < 75, "the guidance scale must matter"


def test_the_scheduler_is_changed_as_the_pipeline_changes_it(save: Save, export: Any, rng: np.random.Generator) -> None:
    folder = save("old", diffusers.DDIMScheduler(), unet())
    diffusers.DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")  # clips, no offset
    source = open_source(str(folder))
    latents = rng.standard_normal((2, *source.sample_shape), np.float32)
    exported = export(source, torch=("denoiser", "decoder", "text_encoder"))
    image = exported.sample(source.programs(None, 5, None)[0], latents, prompts=PROMPTS)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    assert exported.psnr(image, wanted(pipe, latents, num_inference_steps=5)) > 80


def test_tokens_are_those_of_transformers(save: Save) -> None:
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer

    folder = save("sd", diffusers.DDIMScheduler(), unet())
    text = open_source(str(folder)).text
    assert text is not None
    tokens = text.encoders["text_encoder"]
    assert (tokens.length, tokens.pad) == (LENGTH, CLIPTokenizer.from_pretrained(folder / "tokenizer").pad_token_id)
    own = Tokenizer.from_str(tokens.tokenizer.decode())
    own.enable_truncation(tokens.length)
    own.enable_padding(length=tokens.length, pad_id=tokens.pad)
    prompts = ["", "  spaces \n and\ttabs  ", "UPPER lower", "日本語 😀", "it's <|endoftext|> here", "word " * 40, "a,b;c!?"]
    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    found = theirs(prompts, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    assert [encoding.ids for encoding in own.encode_batch(prompts)] == found


def test_loading_is_quiet_and_leaves_the_libraries_as_they_were(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    source = open_source(str(save("sd", diffusers.DDIMScheduler(), unet())))
    capfd.readouterr()
    enabled = logging.is_progress_bar_enabled()
    for part in source.components():
        part.module  # noqa: B018
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == enabled


def change(file: Path, **members: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | members))


@pytest.mark.parametrize(
    ("file", "members", "sentence"),
    [
        ("unet/config.json", {"cross_attention_dim": 768}, "cross_attention_dim of the unet is 768, hidden_size of the text_enc"),
        ("unet/config.json", {"in_channels": 9}, "in_channels of the unet is 9, latent channels of the vae 4"),
        ("unet/config.json", {"addition_embed_type": "text"}, "has addition_embed_type 'text'"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor of sd/vae is 0"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor of sd/vae is 'x'"),
        ("text_encoder/config.json", {"vocab_size": 400}, "has 521 tokens, but its text encoder only 400"),
        ("text_encoder/config.json", {"max_position_embeddings": 5}, "produces 12 tokens, but its text_encoder takes at most 5"),
        ("text_encoder/config.json", {"use_attention_mask": True}, "masks its padding"),
        ("model_index.json", {"tokenizer": ["transformers", "AutoTokenizer"]}, "AutoTokenizer: it must be one of CLIPTok"),
        ("model_index.json", {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]}, "must be one of CLIPTextModel"),
        ("model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "embeds no guidance scale"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "has addition_embed_type None"),
    ],
)
def test_components_that_do_not_fit_together(save: Save, file: str, members: dict[str, Any], sentence: str) -> None:
    folder = save("sd", diffusers.DDIMScheduler(), unet())
    change(folder / file, **members)
    with pytest.raises(AigcEdgeError, match=sentence):
        open_source(str(folder))


def test_a_damaged_tokenizer_and_pickles_anywhere(save: Save) -> None:
    folder = save("sd", diffusers.DDIMScheduler(), unet())
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(AigcEdgeError, match="sd/tokenizer cannot be read as a CLIPTokenizer"):
        open_source(str(folder))
    folder = save("other", diffusers.DDIMScheduler(), unet())
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(AigcEdgeError, match=r"other/text_encoder contains pickled weights \(pytorch_model.bin\)"):
        open_source(str(folder))


def test_weights_under_the_names_of_published_folders(save: Save) -> None:
    """Those of today's libraries differ: `text_model.` before CLIP's, other words for the attention of the VAE."""
    folder = save("sd", diffusers.DDIMScheduler(), unet())
    plain = {part.spec.name: part.module.state_dict() for part in open_source(str(folder)).components()}
    file = folder / "text_encoder" / "model.safetensors"
    text = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in load_file(file).items()}
    save_file(text | {"text_model.embeddings.position_ids": torch.arange(LENGTH)[None]}, file, {"format": "pt"})
    file, words = folder / "vae" / "diffusion_pytorch_model.safetensors", {"to_q": "query", "to_k": "key", "to_v": "value"}
    old = {}
    for name, weight in load_file(file).items():
        for new, before in (words | {"to_out.0": "proj_attn"}).items():
            name = name.replace(new, before)
        old[name] = weight
    assert any("query" in name for name in old)
    save_file(old, file, {"format": "pt"})
    for part in open_source(str(folder)).components():
        for name, weight in part.module.state_dict().items():
            torch.testing.assert_close(weight, plain[part.spec.name][name], rtol=0, atol=0)
