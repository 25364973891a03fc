"""What a parameter is: told from its dotted name, its shape and the module that holds it."""

from __future__ import annotations

from torch import Tensor, nn


def is_bias(name: str) -> bool:
    """Return whether a parameter is a bias, or a stack of experts' biases (which has two dimensions, as a matrix)."""
    return name.endswith("bias")


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is the weight of a matrix product, or a stack of such: no gain and no bias."""
    return parameter.ndim >= 2 and not is_bias(name)


def matrix_of(name: str) -> str:
    """Return the name of the matrix that a bias is added to; of anything else, its own."""
    for ending, replacement in ((".bias", ".weight"), ("_bias", "")):
        if name.endswith(ending):
            return name.removesuffix(ending) + replacement
    return name


class Unused(nn.Module):
    """Parameters that exist and that no forward pass touches: they are counted, and never trained."""
