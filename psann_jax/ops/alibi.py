"""ALiBi: each head's penalty for distance, subtracted from its scaled scores.

Source: arXiv 2108.12409, section 3, with its rule for head counts that are no power of two.
"""

import math


def slopes(n_heads: int) -> tuple[float, ...]:
    """Penalty per token of distance, one a head; distances are meant in float32."""
    whole = 2 ** math.floor(math.log2(n_heads))
    first = [2.0 ** (-8.0 * (j + 1) / whole) for j in range(whole)]
    between = [2.0 ** (-8.0 * (2 * j + 1) / (2 * whole)) for j in range(n_heads - whole)]
    return tuple(first + between)
