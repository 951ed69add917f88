"""Takes parts of an index to other software: its router as an ONNX model, held against the kernels.

Not here: anything that a query of ours needs.
"""
