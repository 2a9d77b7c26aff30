"""Text encoders as components: token ids → the conditions that a pipeline uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceComponent, SourceOptions, Text, Tokens
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.loading import load
from aigc_edge.sources.diffusers.tokens import tokens_of

Hidden = Literal["last", "penultimate"]
MASKED = -1e4  # added to attention logits; the softmax of such values is 0
# Default calibration prompts: short and long; people, places, objects, drawings, lettering.
PROMPTS = (
    "a photograph of an astronaut riding a horse",
    "portrait of an old fisherman, soft window light, 85mm",
    "a bowl of ripe oranges on a wooden table, oil painting",
    "a narrow street in the rain at night, neon signs, reflections on the pavement, cinematic",
    "a red bicycle leaning against a white wall",
    "pencil sketch of a cathedral",
    "a mountain lake at dawn with mist over the water, wide angle, highly detailed",
    "a shop sign that says OPEN",
)


class Clip(nn.Module):
    """CLIP's text model: the hidden states of one layer and the pooled vector, projected if the model has a projection."""

    def __init__(self, model: nn.Module, length: int, hidden: Hidden | None, pooled: bool) -> None:
        super().__init__()
        self.model, self.hidden, self.pooled = model, hidden, pooled
        # The causal mask as a constant: the model's own is computed per sample, with values outside the range of half precision.
        self.mask = nn.Buffer(torch.full((1, 1, length, length), MASKED).triu(1))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Token ids int64 [N, L] → hidden states [N, L, D], the last (normalised) or the penultimate ones, and pooled [N, P]."""
        outputs = self.model(tokens, attention_mask=self.mask, output_hidden_states=self.hidden == "penultimate")
        conditions: tuple[Tensor, ...] = ()
        if self.hidden is not None:
            conditions += (outputs.last_hidden_state if self.hidden == "last" else outputs.hidden_states[-2],)
        if self.pooled:
            projected = getattr(outputs, "text_embeds", None)
            conditions += (outputs.pooler_output if projected is None else projected,)
        return conditions


class PositionBias(nn.Module):
    """T5's bias by relative position, with the buckets as a constant.

    Buckets are rounded logarithms: an engine with different rounding would assign some positions to other buckets.
    """

    def __init__(self, attention: Any, length: int) -> None:
        super().__init__()
        position = torch.arange(length)
        buckets = attention._relative_position_bucket(
            position[None] - position[:, None],
            bidirectional=True,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        self.buckets = nn.Buffer(buckets)
        self.bias = attention.relative_attention_bias

    def forward(self, *lengths: Any, **options: Any) -> Tensor:
        """The bias [1, heads, L, L]; T5's arguments are ignored."""
        bias: Tensor = self.bias(self.buckets)
        return bias.permute(2, 0, 1)[None]


class T5(nn.Module):
    """T5's encoder, without masked padding, as in diffusers' pipelines."""

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.model = model
        self.mask = nn.Buffer(torch.zeros(1, 1, 1, length))
        attention = model.encoder.block[0].layer[0].SelfAttention
        attention.position = PositionBias(attention, length)
        attention.__dict__["compute_bias"] = attention.position  # takes precedence over the class's method

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids int64 [N, L] → hidden states [N, L, D]."""
        hidden: Tensor = self.model(tokens, attention_mask=self.mask).last_hidden_state
        return hidden


@dataclass(frozen=True)
class Encoder:
    """A text encoder: its component, tokenizer and output conditions."""

    part: SourceComponent
    tokens: Tokens
    width: int = 0  # of the hidden states, 0 if unused
    pooled_width: int = 0  # of the pooled vector, 0 if unused

    @property
    def conditions(self) -> tuple[TensorSpec, ...]:
        """The outputs, which are the denoiser's inputs of the same names."""
        return self.part.spec.outputs


def clip(
    folder: Folder,
    name: str,
    tokenizer: str,
    *,
    hidden: Hidden | None,
    pooled: bool = False,
    projected: bool = False,
    length: int | None = None,
) -> Encoder:
    """CLIP's text model `name`, with a projection or without, and its `tokenizer`, for `length` tokens (its own unless given)."""
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    config = folder.config(name, (kind,))
    if config.get("use_attention_mask"):
        raise AigcEdgeError(f"the {name} of {folder.name} masks its padding (use_attention_mask), which is not supported")
    tokens = tokens_of(folder, tokenizer, length, folder.number(name, config, "vocab_size", 49408))
    longest = folder.number(name, config, "max_position_embeddings", 77)
    if tokens.length > longest:
        raise AigcEdgeError(
            f"the {tokenizer} of {folder.name} produces {tokens.length} tokens, but its {name} takes at most {longest}"
        )
    width = folder.number(name, config, "hidden_size", 512)
    pooled_width = folder.number(name, config, "projection_dim", 512) if projected else width

    def load_module() -> nn.Module:
        return Clip(load(folder, name, kind), tokens.length, hidden, pooled)

    return _encoder(name, load_module, tokens, width if hidden else 0, pooled_width if pooled else 0)


def t5(folder: Folder, name: str, tokenizer: str, length: int) -> Encoder:
    """T5's encoder `name` with its `tokenizer`, truncated and padded to `length` tokens."""
    kind = "T5EncoderModel"
    config = folder.config(name, (kind,))
    tokens = tokens_of(folder, tokenizer, length, folder.number(name, config, "vocab_size", 32128))
    width = folder.number(name, config, "d_model", 512)
    return _encoder(name, lambda: T5(load(folder, name, kind), length), tokens, width)


def text_of(encoders: Sequence[Encoder], negative: Literal["encode", "zeros"], options: SourceOptions) -> Text:
    """The bundle's text conditioning, with the calibration prompts."""
    return Text({e.part.spec.name: e.tokens for e in encoders}, negative, options.prompts or PROMPTS)


def _encoder(name: str, load_module: Callable[[], nn.Module], tokens: Tokens, width: int, pooled_width: int = 0) -> Encoder:
    outputs = [TensorSpec(f"{name}_hidden", "condition", "float32", (BATCH, tokens.length, width))] if width else []
    outputs += [TensorSpec(f"{name}_pooled", "condition", "float32", (BATCH, pooled_width))] if pooled_width else []
    spec = ComponentSpec(name, (TensorSpec("tokens", "tokens", "int64", (BATCH, tokens.length)),), tuple(outputs))

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (_random_prompts(tokens, batch, generator),)

    return Encoder(SourceComponent(spec, load_module, example), tokens, width, pooled_width)


def _random_prompts(tokens: Tokens, batch: int, generator: torch.Generator) -> Tensor:
    """Token ids [batch, length] of random prompts, terminated and padded by the tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokens.tokenizer.decode())
    tokenizer.enable_truncation(tokens.length)
    tokenizer.enable_padding(length=tokens.length, pad_id=tokens.pad)
    size, prompts = tokenizer.get_vocab_size(), []
    for _ in range(batch):
        count = int(torch.randint(1, tokens.length, (1,), generator=generator))
        ids = torch.randint(0, size, (count,), generator=generator).tolist()
        prompts.append("".join(tokenizer.id_to_token(i) or "" for i in ids))
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(prompts)])
