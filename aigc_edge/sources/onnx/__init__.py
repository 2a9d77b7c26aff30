"""ONNX files of other tools as sources. What refuses a file is imported first, and what imports onnx afterwards."""

from aigc_edge.sources.onnx.source import OnnxSource

__all__ = ["OnnxSource"]
