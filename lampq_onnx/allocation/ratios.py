"""How much one bit more or less is expected to change a layer's reconstruction error.

Only the error at the current width is measured. Errors at neighbouring widths are predicted from the ratio that
Gaussian weights and inputs have: r(B) = L(B-1) / L(B).
"""

from __future__ import annotations

import math

RATIO = {2: 82.74, 3: 6.59, 4: 4.70, 5: 4.29, 6: 4.13, 7: 4.12, 8: 4.03}
"""r(B), LampQ (AAAI 2026, arXiv 2511.10004), Table 2.

r(2) is the step between 1 and 2 bits, so the table covers every step within 1..8; r(1) would lead to 0 bits.
"""


def expected_ratio(low: int, high: int) -> float:
    """Return L(low) / L(high) for low <= high: the product of the steps between them."""
    return math.prod(RATIO[bits] for bits in range(low + 1, high + 1))


def gain(error: float, bits: int, raised: int) -> float:
    """Return the error expected to vanish when a layer with this error at ``bits`` is raised: L(B) (1 - 1 / r(B+1)).

    The formula printed in the paper is L(B-1) - L(B), one bit off from the paper's words. This follows the words: the
    error that the change removes.
    """
    return error * (1 - 1 / expected_ratio(bits, raised))


def degradation(error: float, bits: int, lowered: int) -> float:
    """Return the error expected to be added when a layer with this error at ``bits`` is lowered: L(B) (r(B) - 1).

    As printed in the paper, one bit off, it would be 0.85 L at 2 bits instead of 81.7 L, and layers would fall to 1
    bit.
    """
    return error * (expected_ratio(lowered, bits) - 1)
