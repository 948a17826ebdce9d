"""No text of a model is evaluated as Python, by us or by a library: watched by an audit hook while it is verified."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sieverl.verify import build
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
    import builtins, json, sys
    seen = []
    HARMLESS = {"abs", "max", "min", "pow", "round", "sum", "divmod"}

    def hook(event, args):
        if event == "exec" and getattr(args[0], "co_filename", "") in ("<string>", "<unknown>"):
            names = set(args[0].co_names)
            bad = names & (set(dir(builtins)) - HARMLESS) | {name for name in names if name[:1] == "_"}
            if bad:
                seen.append(["exec", sorted(bad)])
        if event in ("os.system", "os.mkdir", "os.exec", "subprocess.Popen", "socket.connect", "pickle.find_class"):
            seen.append([event])
        if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            seen.append([event, str(args[0])])

    from sieverl.verify import build
    requests = json.load(sys.stdin)
    verifiers = {json.dumps(spec): build(spec) for spec, _, _ in requests}
    sys.addaudithook(hook)
    correct = []
    for spec, response, row in requests:
        try:
            correct.append(verifiers[json.dumps(spec)](response, row).correct)
        except Exception as error:
            correct.append(type(error).__name__)
    print(json.dumps([seen, correct]))
"""


def watched(requests, cwd):
    """What an audit hook saw while (specification, response, row) were verified, and the verdicts."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCH)],
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
