"""Types that carry shapes; the letters are in the legend of each file. Checked in tests only (tests/conftest.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    FloatR: TypeAlias = NDArray[np.float64]
    BoolR: TypeAlias = NDArray[np.bool_]
    IntR: TypeAlias = NDArray[np.int64]
    FloatT: TypeAlias = Tensor
    BoolT: TypeAlias = Tensor
    IntT: TypeAlias = Tensor
    IntS: TypeAlias = Tensor
    Scalar: TypeAlias = Tensor
    FloatTorP: TypeAlias = Tensor
else:
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    FloatR, BoolR, IntR = Float[np.ndarray, "R"], Bool[np.ndarray, "R"], Int[np.ndarray, "R"]
    FloatT, BoolT, IntT = Float[Tensor, "T"], Bool[Tensor, "T"], Int[Tensor, "T"]
    IntS, Scalar = Int[Tensor, "S"], Float[Tensor, ""]
    FloatTorP = Float[Tensor, "_"]
