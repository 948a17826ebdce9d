"""Tensor types that carry shapes: FloatBV is floating point, [B, V]. Checked in tests only (tests/conftest.py).

Legend: B sequences, V vocabulary, T response tokens, P packed tokens (or prompts, in an engine), L positions,
H heads, D size of a hidden state or of a head, M moved sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from typing import TypeAlias

    FloatB: TypeAlias = Tensor
    FloatBD: TypeAlias = Tensor
    FloatBV: TypeAlias = Tensor
    FloatBHLD: TypeAlias = Tensor
    FloatPLD: TypeAlias = Tensor
    FloatT: TypeAlias = Tensor
    FloatTD: TypeAlias = Tensor
    FloatV: TypeAlias = Tensor
    FloatVD: TypeAlias = Tensor
    IntB: TypeAlias = Tensor
    IntM: TypeAlias = Tensor
    IntP: TypeAlias = Tensor
    IntPL: TypeAlias = Tensor
    IntT: TypeAlias = Tensor
    BoolBL: TypeAlias = Tensor
else:
    from jaxtyping import Bool, Float, Int

    FloatB, FloatBD, FloatBV = Float[Tensor, "B"], Float[Tensor, "B D"], Float[Tensor, "B V"]
    FloatBHLD, FloatPLD = Float[Tensor, "B H L D"], Float[Tensor, "P L D"]
    FloatT, FloatTD = Float[Tensor, "T"], Float[Tensor, "T D"]
    FloatV, FloatVD = Float[Tensor, "V"], Float[Tensor, "V D"]
    IntB, IntM, IntP = Int[Tensor, "B"], Int[Tensor, "M"], Int[Tensor, "P"]
    IntPL, IntT = Int[Tensor, "P L"], Int[Tensor, "T"]
    BoolBL = Bool[Tensor, "B L"]
