"""What can be compiled: training runs, diffusers folders, any torch module, ONNX files; one file (or package) each."""
