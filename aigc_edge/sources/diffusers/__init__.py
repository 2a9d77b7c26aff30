"""Sources that are folders of the diffusers library: `model_index.json`, components with safetensors, tokenizers, a scheduler."""

from aigc_edge.sources.diffusers.source import DiffusersSource

__all__ = ["DiffusersSource"]
