"""Compression with proof: formats are values, each with a handler that converts an ONNX file and measures what that did."""
