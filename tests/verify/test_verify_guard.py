"""No text of a model is evaluated as Python, by us or by a library: watched by an audit hook while it is verified."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sieverl.verify import Pool, build
from sieverl.verify.guard import RefusedError, check_code, evaluate, guard_reasoning_gym, guard_sympy

CODE = (
    "open('ran','w')",
    "__import__('os').mkdir('ran')",
    "().__class__.__mro__[1].__subclasses__()",
    "exec('open(chr(114),chr(119))')",
    "eval('1')",
    "print(1)",
    "[x for x in (1,)]",
    "(lambda: 0)()",
    "sympify('open(1)')",
    "preview(1)",
    "lambdify((), 'open(1)')()",
    "getattr(1, 'real')",
    "f'{1}'",
    "{1: 2}",
    "a.b",
    "x[0]",
    "breakpoint()",
)

WATCH = """
    import builtins, importlib, json, os, sys
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the scorers print
    seen, reached, stringified = [], [], [""]
    HARMLESS = {"abs", "max", "min", "pow", "round", "sum", "divmod"}

    def hook(event, args):
        if event == "exec" and str(getattr(args[0], "co_filename", "")).startswith("<lambdify"):
            seen.append(["lambdify"])
        if event == "exec" and getattr(args[0], "co_filename", "") in ("<string>", "<unknown>"):
            names = set(args[0].co_names)
            bad = names & (set(dir(builtins)) - HARMLESS) | {name for name in names if name[:1] == "_"}
            if bad:
                seen.append(["exec", sorted(bad)])
        if event in ("os.system", "os.mkdir", "os.exec", "subprocess.Popen", "socket.connect", "pickle.find_class"):
            seen.append([event])
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            seen.append([event, str(args[0])])

    # what reaches the evaluating half of SymPy's parser, whoever calls it; it is there before the guard is
    parser = importlib.import_module("sympy.parsing.sympy_parser")
    stringify, evaluating = parser.stringify_expr, parser.eval_expr

    def stringify_expr(s, *rest):
        stringified[0] = s
        return stringify(s, *rest)

    def eval_expr(code, *rest):
        reached.append(stringified[0])
        return evaluating(code, *rest)

    parser.stringify_expr, parser.eval_expr = stringify_expr, eval_expr

    from sieverl.verify import build, functions, guard, symbolic
    if sys.argv[1] == "unguarded":
        symbolic.guard_sympy = functions.guard_reasoning_gym = lambda: None
    requests = json.load(sys.stdin)
    verifiers = {json.dumps(spec): build(spec) for spec, _, _ in requests}
    sys.addaudithook(hook)
    correct, ran = [], []
    for number, (spec, response, row) in enumerate(requests):
        try:
            correct.append(verifiers[json.dumps(spec)](response, row).correct)
        except Exception as error:
            correct.append(type(error).__name__)
        if os.path.exists("ran"):
            ran.append(number)
            os.rename("ran", f"ran-{number}")
    odd = [
        name for name, module in sys.modules.items()
        if name.split(".")[0] == "reasoning_gym" and vars(module).get("eval") is not guard.evaluate
        and module.__file__ and "eval(" in open(module.__file__).read()
    ]
    print(json.dumps([seen, correct, reached, ran, odd]), file=out)
"""


def watched(requests, cwd, how="guarded"):
    """What an audit hook saw while (specification, response, row) were verified, and the verdicts."""
    return watched_all(requests, cwd, how)[:2]


def watched_all(requests, cwd, how="guarded"):
    """`watched`; the texts that SymPy evaluated, the requests whose code ran, the modules that call Python's `eval`."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCH), how],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def hostile_texts():
    for code in CODE:
        yield from (code, rf"\boxed{{{code}}}", f"the answer is {code}", f"${code}$", f"<answer>{code}</answer>")
        yield rf"\boxed{{1+{code}}}"
        yield rf"\boxed{{\text{{{code}}}}}"
        yield rf"\boxed{{\operatorname{{{code}}}}}"


MATH = [{"name": "math"}, {"name": "math", "rules": "lenient"}, {"name": "math", "rules": "math_verify"}]
GYM: dict[str, dict[str, Any]] = {
    "countdown": {"numbers": [1, 2], "target": 3},
    "puzzle24": {"numbers": [1, 2, 3, 4]},
    "simple_integration": {"integrand": "2*x", "variable": "x"},
    "intermediate_integration": {"integrand": "2*x", "variable": "x"},
    "polynomial_multiplication": {"variables": ["x"], "result": "x**2"},
    "string_insertion": {},
    "spiral_matrix": {},
    "binary_matrix": {},
    "number_sorting": {"direction": "ascending"},
    "n_queens": {"valid_answers": ["Q"]},
    "bitwise_arithmetic": {"problem": "0x1 + 0x2"},
}


def test_no_response_is_evaluated_by_a_verifier(tmp_path):
    requests: list[Any] = [(spec, text, {"answer": "4"}) for spec in MATH for text in hostile_texts()]
    for task, metadata in GYM.items():
        row = {"answer": "[1, 2]", "metadata": {"source_dataset": task, **metadata}}
        requests += [({"name": "reasoning_gym"}, text, row) for text in hostile_texts()]
        requests += [({"name": "reasoning_gym"}, code, row | {"answer": code}) for code in CODE]
    seen, correct = watched(requests, tmp_path)
    assert seen == []
    assert True not in correct[: len(MATH) * len(list(hostile_texts()))]
    assert list(tmp_path.iterdir()) == []


def test_the_watch_sees_what_it_should(tmp_path):
    """Else the test before could not fail: a verifier of the user's that evaluates is seen."""
    (tmp_path / "mine.py").write_text("def mine(response, row):\n    return eval(response)\n")
    seen, _ = watched([({"name": "mine.py:mine"}, "open('ran','w') and 1", {"answer": "4"})], tmp_path)
    assert ["exec", ["open"]] in seen
    assert any(event[0] == "open" for event in seen)


def test_answers_that_are_mathematics_are_scored_as_before():
    score = build({"name": "reasoning_gym"})
    for task, answer, correct in (
        ("countdown", "1 + 2", True),
        ("countdown", "1 * 2", False),
        ("simple_integration", "x**2 + C", True),
        ("simple_integration", "x**2/2 + sin(pi) * sqrt(4)", False),
        ("bitwise_arithmetic", "0x3", True),
    ):
        row: dict[str, Any] = {"answer": None, "metadata": {"source_dataset": task, **GYM[task]}}
        assert score(answer, row).correct is correct, (task, answer)
    row = {"answer": "abc", "metadata": {"source_dataset": "string_insertion"}}
    assert score("['a', 'b', 'c']", row).reward == 0.1


@pytest.mark.parametrize("code", CODE)
def test_code_is_refused_and_mathematics_is_not(code):
    sympy = importlib.import_module("sympy")
    names = {name: getattr(sympy, name) for name in sympy.__all__ if hasattr(sympy, name)} | {"open": open}
    with pytest.raises((RefusedError, SyntaxError)):
        check_code(code, {}, names)
    with pytest.raises((RefusedError, SyntaxError)):
        evaluate(code)
    check_code("Integer (1 )+sin (Symbol ('x' ))/Function ('f' )(Float ('1.5' ))<=sqrt (pi )", {}, names)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("()[]{}'\".,+-*/=0123456789abcdefghilmnopqrstuvwxyz_ \\^!"), max_size=40))
def test_sympys_parser_evaluates_nothing_but_what_was_checked(text):
    """Whatever reaches eval in SymPy's parser consists of checked nodes only."""
    guard_sympy()
    parser = importlib.import_module("sympy.parsing.sympy_parser")
    sympy = importlib.import_module("sympy")
    names = {name: getattr(sympy, name) for name in ("sin", "Integer", "Symbol", "Float", "Function")}
    try:
        code = parser.stringify_expr(text, {}, names, parser.standard_transformations)
    except Exception:
        return
    for node in ast.walk(ast.parse(code.strip(), mode="eval")):
        assert not isinstance(node, ast.Attribute | ast.Subscript | ast.Lambda | ast.ListComp | ast.JoinedStr)


def test_every_module_of_reasoning_gym_has_our_eval():
    importlib.import_module("reasoning_gym")
    guard_reasoning_gym()
    folder = Path(importlib.import_module("reasoning_gym").__file__ or "").parent
    for file in folder.rglob("*.py"):
        name = ".".join(("reasoning_gym", *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        if "eval(" in file.read_text() and name in sys.modules:
            assert vars(sys.modules[name])["eval"] is evaluate, name


RUN = ("__import__('os').mkdir('ran')", "open('ran','w')")  # each leaves something named `ran` if it is evaluated
# The tasks of GYM whose scorer evaluates the answer as Python: by SymPy's parser, or by `eval`.
BY_SYMPY = ["countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"]
BY_EVAL = ["string_insertion", "spiral_matrix", "n_queens"]


def gym_requests(tasks, texts):
    for task in tasks:
        row = {"answer": "[1, 2]", "metadata": {"source_dataset": task, **GYM[task]}}
        yield from (({"name": "reasoning_gym"}, text, row) for text in texts)


def test_the_guard_of_reasoning_gym_is_what_stops_the_code(tmp_path):
    """The same answers run their code in every one of these scorers when the guard is taken out."""
    requests = list(gym_requests([*BY_SYMPY, *BY_EVAL], RUN))
    seen, correct, reached, ran, odd = watched_all(requests, tmp_path)
    assert (seen, reached, ran, odd) == ([], ["[1, 2]"] * reached.count("[1, 2]"), [], [])
    assert True not in correct
    assert not list(tmp_path.iterdir())
    seen, _, reached, ran, odd = watched_all(requests, tmp_path, how="unguarded")
    assert ran == list(range(len(requests))), "each of them"
    assert set(RUN) <= set(reached), "raw"
    assert ["os.mkdir"] in seen
    assert odd


def test_math_gives_sympys_parser_no_text_of_a_response_but_arithmetic(tmp_path):
    """Even without the guard, which is the second wall here: Math-Verify looks for digits and operators alone."""
    texts = [*hostile_texts(), *(text.format(code) for code in RUN for text in ("={}", "1+{}", "2*({})", "answer: {}"))]
    plain = ["1 + 1", "the answer is 3*(4 - 1)", "=5^2"]
    requests = [(spec, text, {"answer": "4"}) for spec in MATH for text in (*texts, *plain)]
    for how in ("guarded", "unguarded"):
        seen, _, reached, ran, _ = watched_all(requests, tmp_path, how)
        assert (seen, ran) == ([], [])
        assert {"1 + 1", "3*(4 - 1)"} & set(reached), "else nothing of a response reaches it, and this cannot fail"
        odd = {text for text in reached if not re.fullmatch(r"[\d.\s+\-*/^()×÷]*|[A-Za-z]+", text)}
        assert not odd, "digits and operators, or the name of a unit, which SymPy makes itself"


def test_no_code_runs_in_a_worker_of_the_pool(tmp_path):
    """The same in the real pool, with an absolute path, wherever a worker stands."""
    ran = tmp_path / "ran"
    code = [f"__import__('os').mkdir({str(ran)!r})", f"open({str(ran)!r}, 'w')", f"[open({str(ran)!r}, 'w')]"]
    requests = list(gym_requests(GYM, [*code, *(f"<answer>{text}</answer>" for text in code)]))
    with Pool({"name": "reasoning_gym"}, workers=2, timeout_s=30) as pool:
        verdicts = pool.verdicts([(text, row) for _, text, row in requests])
    assert not any(verdict.correct for verdict in verdicts)
    assert pool.timeouts == pool.restarts == 0
    assert not ran.exists()
