"""An algorithm of the user's is tried before it costs anything: one line, exit 2, no run directory."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from runs import recipe
from toys import unchecked

from sieverl.algorithms import ALGORITHMS
from sieverl.algorithms.trial import try_out
from sieverl.errors import UsageError
from sieverl.training.checks import chosen_algorithm
from sieverl.training.setup import prepare

HEAD = "import numpy as np, torch\nfrom sieverl import Algorithm, Penalty\nfrom sieverl.algorithms.credit import *\n"
AGGREGATE = "from sieverl.algorithms.objective import Aggregate\nhard = Algorithm(aggregate=Aggregate('mine', "
BROKEN = {
    "hard = Algorithm(shape=lambda r: r.reward_R[:, None])": "hard: shape returned shape (32, 1), expected (32,)",
    "hard = Algorithm(select=lambda r: r.correct_R[:4])": "hard: select returned shape (4,), expected (32,)",
    "hard = Algorithm(select=lambda r: r.reward_R)": "hard: select returned float64, expected bool",
    "hard = Algorithm(select=lambda r: [True] * len(r))": "hard: select returned a list, expected a NumPy array",
    "hard = Algorithm(select=lambda r: None)": "hard: select returned None, expected a NumPy array",
    "hard = Algorithm(advantage=lambda r, x: 1.0)": "hard: advantage returned a float, expected a NumPy array",
    "hard = Algorithm(advantage=lambda r, x: x / 0)": "hard: advantage returned NaN or infinity for 32 of 32 responses",
    "hard = Algorithm(advantage=lambda r: r.reward_R)": "hard: advantage: TypeError: <lambda>() takes 1 positional",
    "hard = Algorithm(advantage=lambda r, x: y)": "mine.py:4: NameError: name 'y' is not defined",
    "hard = Algorithm(token_advantage=lambda t: t.advantage_T[:1])": "hard: token_advantage returned shape (1,), "
    "expected one number",
    "hard = Algorithm(ratio=lambda t: t.logp_T.mean())": "hard: ratio returned a scalar, expected one number each of",
    "hard = Algorithm(ratio=lambda t: 1.0)": "hard: ratio returned a float, expected a tensor of shape (",
    AGGREGATE + "lambda t, x: x, lambda d: 2.0))": "hard: aggregate returned a Tensor over 2.0, expected a",
    AGGREGATE + "lambda t, x: x.sum(), lambda d: -1.0))": "hard: aggregate returned a Tensor over -1.0, expected a",
    "hard = Algorithm(objective=lambda t, s: -(s * t.advantage_T).mean())": "hard: objective returned a scalar",
    "hard = Algorithm(objective=lambda t: t.logp_T)": "hard: objective: TypeError: <lambda>() takes 1 positional",
    "hard = Algorithm(objective=lambda t, s: 1 / 0)": "mine.py:4: ZeroDivisionError: division by zero",
    "hard = Algorithm(objective=lambda t, s: s * float('nan'))": "hard: objective returned NaN or infinity for",
    "hard = Algorithm(objective=lambda t, s: -s.detach())": "hard: objective returned a loss without a gradient",
    "hard = Algorithm(objective=lambda t, s: s - t.ref_T)": "mine.py:4: TypeError: unsupported operand type(s) for -: "
    "'Tensor' and 'NoneType'; a function says what it needs with sieverl.algorithms.needs",
    "hard = Algorithm(penalties=(Penalty(lambda t: t.logp_T.sum(), 0.1),))": "hard: a penalty returned a scalar",
}


@pytest.mark.parametrize("text", BROKEN)
def test_S6_what_is_wrong_with_an_axis_is_one_line_and_nothing_is_made(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(HEAD + text)
    run_dir = tmp_path / "run"
    with unchecked(), pytest.raises(UsageError) as caught:
        prepare(recipe(run_dir, algorithm=f"{tmp_path}/mine.py:hard", model__path="/no/model"), say=lambda t: None)
    assert f"{tmp_path}/{BROKEN[text]}" in str(caught.value).replace("/mine.py:hard", "/hard")
    assert "\n" not in str(caught.value)
    assert not run_dir.exists()


def test_S6_the_line_is_the_innermost_one_of_the_file(tmp_path: Path) -> None:
    body = """
        def inner(x):
            return x.missing

        def outer(r, shaped):
            return inner(r)

        hard = Algorithm(advantage=outer)
    """
    (tmp_path / "mine.py").write_text(HEAD + textwrap.dedent(body))
    with unchecked(), pytest.raises(UsageError, match=r"mine\.py:6: AttributeError"):
        chosen_algorithm(recipe(tmp_path / "run", algorithm=f"{tmp_path}/mine.py:hard"))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("axes", [{}, {"kl": "k3", "kl_coefficient": 0.1, "entropy_coefficient": 0.1}])
def test_S6_every_built_in_algorithm_passes(tmp_path: Path, name: str, axes: dict[str, object]) -> None:
    changes = {f"axes__{key}": value for key, value in axes.items()}
    try_out(chosen_algorithm(recipe(tmp_path, algorithm=name, **changes)), name)


def test_S6_what_a_filter_drops_may_be_nan(tmp_path: Path) -> None:
    """r / std is NaN in the groups that the filter drops, and harmless there; nothing kept is no error either."""
    text = """
        def over_std(r, shaped):
            g = groups(r.prompt_R, shaped)
            return shaped / g.std

        hard = Algorithm(select=mixed_groups, advantage=over_std)
        none = Algorithm(select=lambda r: r.reward_R > 5)
    """
    (tmp_path / "mine.py").write_text(HEAD + textwrap.dedent(text))
    with unchecked():
        for name in ("hard", "none"):
            chosen_algorithm(recipe(tmp_path / "run", algorithm=f"{tmp_path}/mine.py:{name}"))
