"""The layer table of a build log, from lines as TensorRT-RTX 1.7 prints them (names and strides shortened)."""

from __future__ import annotations

from aigc_edge.engines.plans.log import layers_of, summary


def _tensors(text):
    """'-1,32,8,8 Int8; 1 Float' → as the log prints tensors."""
    parts = (part.split() for part in filter(None, text.split(";")))
    form = (
        "{{ Name: t, Dimensions: [{}], Strides: [1,1], StrideOrder: [1,0], Datatype: {}, Format: (NHWC) Channel major format }}"
    )
    return ", ".join(form.format(*part) for part in parts)


def _line(name, kind, inputs, constants, outputs):
    i, c, o = map(_tensors, (inputs, constants, outputs))
    return f"Name: {name}, LayerType: {kind}, Inputs: [ {i}], Constants: [ {c}], Outputs: [ {o}], TacticName: x, StreamId: 0"


CONV = _line("conv", "correlation", "-1,32,8,8 Int8", "64,32,3,3 Int8; 1 Float", "-1,64,4,4 Float")
SILENT = _line("up", "deconv", "-1,16,8,8 Half; 16,8,4,4 Half", "1 Float", "-1,8,16,16 Half")
GEMM = _line("linear", "gemm", "-1,128 Half", "128,384 Half; 1 Float", "-1,384 Half")
FOUR = _line("four", "gemm", "-1,64 FP4E2M1; -1,4,32,1,4 FP8", "64,128 FP4E2M1; 1 Float; 1,4,1,4,32 FP8", "-1,128 Half")
SCORES = _line("qk", "gemm", "-1,4,64,16 Float; -1,4,16,64 Float", "1,1,1,1 Float", "-1,4,64,64 Float")
FUSED = _line("__myl_FcAddSilu_myl0_9", "runtime_fusion", "-1,32 FP8", "1,128 Float; 32,128 FP8", "-1,128 FP8")
HEADS = _line("_gemm_mha_v2_myl0", "kgen", "-1,64,16 BFloat16; -1,16,64 BFloat16; -1,64,16 BFloat16", "", "-1,64,16 BFloat16")
OTHERS = [
    _line("__myl_SiluGnor_myl0_4", "kgen", "-1 Int32; -1,32,16,16 Float", "1,32,1,1 Float", "-1,32,16,16 Float"),
    _line("__mye_myl0_63", "signal", "", "", ""),
    "Name: something else",
    "Using default for use_tf32",
]


def test_layers_that_multiply_are_found_with_their_precision_and_cost():
    messages = ["\n".join([CONV, *OTHERS, SILENT]), GEMM, FOUR, SCORES, FUSED, HEADS]
    assert {layer.name: (layer.precision, layer.macs) for layer in layers_of(messages)} == {
        "conv": ("int8", 64 * 32 * 9 * 16),
        "up": ("fp16", 16 * 8 * 16 * 64),
        "linear": ("fp16", 128 * 384),
        "four": ("fp4", 64 * 128),
        "qk": ("fp32", 4 * 64 * 64 * 16),
        "__myl_FcAddSilu_myl0_9": ("fp8", 32 * 128),
        "_gemm_mha_v2_myl0": ("bf16", 2 * 64 * 64 * 16),
    }


def test_the_summary_counts_layers_and_shares_of_the_work():
    found = summary(layers_of([CONV, SILENT]))
    work = {"int8": 64 * 32 * 9 * 16, "fp16": 16 * 8 * 16 * 64}
    assert found["layers"] == {"int8": 1, "fp16": 1}
    assert found["macs_share"] == {name: round(n / sum(work.values()), 4) for name, n in work.items()}
    assert [layer["name"] for layer in found["table"]] == ["conv", "up"]
    assert summary([]) == {"layers": {}, "macs_share": {}, "table": []}


def test_lines_of_the_full_tensorrt_are_read_too():
    convolution = (
        "Name: conv + relu, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [-1,32,8,8], "
        "Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: y, Location: Device, "
        "Dimensions: [-1,64,8,8], Format/Datatype: Half }], ParameterType: Convolution, Kernel: [3,3], OutMaps: 64, "
        'Weights: {"Type": "Int8", "Count": 18432}, Bias: {"Type": "Float", "Count": 64}, TacticName: sm80_i8i8'
    )
    product = (
        "Name: matMul1_myl0_0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,128], Format/Datatype: Float }, "
        "{ Name: w, Dimensions: [128,64], Format/Datatype: Float }, { Name: alpha, Dimensions: [1], Format/Datatype: Float }], "
        "Outputs: [ { Name: y, Dimensions: [-1,64], Format/Datatype: Float }], TacticName: sm80_xmma_gemm, StreamId: 0, Metadata:"
    )
    tensor = "{ Name: x, Dimensions: [-1,64,8,8], Format/Datatype: Half }"
    pooling = f"Name: p, LayerType: CaskPooling, Inputs: [ {tensor}], Outputs: [ {tensor}]"
    found = [(layer.precision, layer.macs) for layer in layers_of([convolution, product, pooling])]
    assert found == [("int8", 18432 * 64), ("fp32", 128 * 64)]
