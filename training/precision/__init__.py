"""Which part of a model computes in which format, and the kernels that do it."""
