"""What each verifier accepts, in cases worked out by hand; the cheap path compared with Math-Verify."""

from __future__ import annotations

import json
import logging
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from sieverl.errors import DataError, UsageError
from sieverl.types import Status, Verdict
from sieverl.verify import VERIFIERS, build, extract, gold_response, is_graded, make_verifier, numbers, options
from sieverl.verify.math import equal_cheaply
from sieverl.verify.rules import RULES, MathRules
from sieverl.verify.symbolic import max_digits

logging.getLogger("math_verify").setLevel(logging.ERROR)
CHECKS = {rules: build({"name": "math", "rules": rules}) for rules in RULES}


def says(spec, response, answer, **columns):
    return build(spec)(response, {"answer": answer, **columns}).status.value


# gold, answer in a box, correct by the strict rules, correct by the lenient rules
ANSWERS = [
    ("1200", "1,200", 1, 1),
    ("1,200", "1200.0", 1, 1),
    ("1200", "1, 200", 0, 0),
    ("1200", r"1{,}200", 1, 1),
    ("1200", r"1\,200", 1, 1),
    ("5", r"\$5", 1, 1),
    ("5", r"5\text{ cm}", 1, 1),
    ("5", r"5\,\mathrm{cm}^2", 1, 1),
    ("5", "5 cm", 1, 1),
    ("90", r"90^\circ", 1, 1),
    ("7", "x=7", 1, 1),
    ("x=7", "7", 1, 1),
    ("7", "7.", 1, 1),
    ("7", "007", 1, 1),
    ("-7", "−7", 1, 1),
    ("7", "7 or 8", 0, 0),
    ("7", "7, 8", 0, 0),
    ("50", r"50\%", 1, 1),
    (r"50\%", "50", 1, 1),
    ("0.5", r"50\%", 0, 1),
    (r"\frac{1}{2}", r"50\%", 0, 1),
    ("1/2", "0.5", 1, 1),
    (r"-\frac{1}{2}", r"\frac{-1}{2}", 1, 1),
    ("1/3", "0.333333", 1, 1),
    ("1/3", "0.33", 0, 0),
    ("7", "7.0000001", 0, 0),
    ("4.5e33", r"4.5\times 10^{33}", 1, 1),
    ("4.5e33", "4.6e33", 0, 0),
    ("1e-10", r"\frac{1}{10^{10}}", 1, 1),
    ("2e-10", r"\frac{1}{10^{10}}", 0, 0),
    (r"2\sqrt{2}", r"\sqrt{8}", 1, 1),
    ("x^2-1", "(x-1)(x+1)", 1, 1),
    ("x+1", "y+1", 0, 0),
    ("1,2", "2,1", 1, 1),
    (r"\{1,2\}", "2,1", 1, 1),
    ("(1,2)", "(2,1)", 0, 0),
    ("(1,2)", "[1,2]", 0, 0),
    ("1<x<2", "(1,2)", 1, 1),
    ("(1,2)", "1<x<2", 0, 1),
    (r"\text{(B)}", "B", 1, 1),
    (r"\text{Monday}", "Monday", 1, 1),
    (r"\text{Monday}", "Tuesday", 0, 0),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", 1, 1),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", 0, 0),
    ("5", "٥", 0, 0),
    ("5", "5\x00", 0, 0),
    ("5", "\ud800", 0, 0),
]


@pytest.mark.parametrize(("gold", "answer", "strict", "lenient"), ANSWERS)
def test_math_accepts(gold, answer, strict, lenient):
    response = rf"so it is $\boxed{{{answer}}}$."
    got = [CHECKS[rules](response, {"answer": gold}).reward for rules in ("strict", "lenient")]
    assert got == [strict, lenient]


# response, status for the gold 5 by strict, lenient, and Math-Verify's own rules
RESPONSES = [
    (r"\boxed{4}, no: \boxed{5}", "correct correct incorrect"),
    (r"\boxed{5}, no: \boxed{4}", "incorrect incorrect incorrect"),
    (r"\boxed{5} and again \boxed{5}", "correct correct correct"),
    (r"\boxed{x = \boxed{5}}", "correct correct correct"),
    (r"\boxed{5", "no_answer no_answer no_answer"),
    (r"\boxed{}", "no_answer no_answer no_answer"),
    ("the answer is 5", "no_answer correct correct"),
    ("the answer is $5$", "no_answer correct correct"),
    ("3 + 2 = 5", "no_answer correct correct"),
    ("I do not know", "no_answer no_answer no_answer"),
    ("", "no_answer no_answer no_answer"),
]


@pytest.mark.parametrize(("response", "statuses"), RESPONSES)
def test_where_the_answer_stands(response, statuses):
    got = [CHECKS[rules](response, {"answer": "5"}).status.value for rules in ("strict", "lenient", "math_verify")]
    assert got == statuses.split()


@pytest.mark.parametrize(
    ("boxes", "status"),
    [("last", "incorrect"), ("first", "correct"), ("any", "correct"), ("only", "incorrect"), ("joined", "incorrect")],
)
def test_which_box_counts(boxes, status):
    assert says({"name": "math", "boxes": boxes}, r"\boxed{5} then \boxed{4}", "5") == status


def test_boxes_joined_are_one_answer():
    assert says({"name": "math", "boxes": "joined"}, r"$x$ is \boxed{2} or \boxed{-1}", "-1, 2") == "correct"


def test_math_options():
    assert says({"name": "math", "percent": "value"}, r"\boxed{50\%}", "0.5") == "correct"
    assert says({"name": "math", "percent": "value"}, r"\boxed{50\%}", "50") == "incorrect"
    assert says({"name": "math", "percent": "value"}, r"\boxed{x\%}", r"\frac{x}{100}") == "correct"
    assert says({"name": "math", "units": False}, r"\boxed{5\text{ cm}}", "5") == "incorrect"
    assert says({"name": "math", "commas": False}, r"\boxed{1,200}", "1200") == "incorrect"
    assert says({"name": "math", "commas": False}, r"\boxed{200,1}", "1,200") == "correct"
    assert says({"name": "math", "e_notation": False}, r"\boxed{4.5\cdot 10^3}", "4.5e3") == "incorrect"
    assert says({"name": "math", "precision": 2}, r"\boxed{0.3333}", "1/3") == "correct"
    assert says({"name": "math", "tolerance": 0.01}, r"\boxed{99.5}", "100") == "correct"
    assert says({"name": "math", "tolerance": 0.01}, r"\boxed{98.5}", "100") == "incorrect"
    assert says({"name": "math", "variables": False}, r"\boxed{y+1}", "x+1") == "correct"
    assert says({"name": "math", "answers": "all"}, r"\boxed{2, 1}", ["1", "2"]) == "correct"
    assert says({"name": "math", "answers": "all"}, r"\boxed{2}", ["1", "2"]) == "incorrect"
    assert says({"name": "math"}, r"\boxed{2}", ["1", "2"]) == "correct"
    assert says({"name": "math", "after": "####"}, "so\n#### 1,200\nmore", "it is\n#### 1200") == "correct"
    assert says({"name": "math", "after": "####"}, r"\boxed{7}", "#### 7") == "correct"
    assert says({"name": "math", "max_chars": 10}, r"\boxed{1+1+1+1+1+1}", "6") == "verifier_error"


def test_golds_come_out_of_their_solutions():
    assert says({"name": "math"}, r"\boxed{1.6}", r"With $f=7200$, $$s=\boxed{1.6} \mathrm{~cm}$$") == "correct"
    assert says({"name": "math"}, r"\boxed{27}", 27.0) == "correct"
    assert says({"name": "math"}, r"\boxed{3}", 3) == "correct"


E_FORMS = ["4.5e{x}", "4.5E{x}", "4.5*10^{x}", "4.5*10**{x}", "4.5×10^{x}"]
E_FORMS += [r"4.5\times 10^{{{x}}}", r"4.5 \cdot 10^{{{x}}}", r"4.5\times10^{{{x}}}\text{{ erg}}", r"45\ast10^{{{y}}}"]


@pytest.mark.parametrize("form", E_FORMS)
@pytest.mark.parametrize("power", [33, -19, 5])
def test_any_usual_notation_of_a_power_of_ten(form, power):
    answer = form.format(x=power, y=power - 1)
    for gold in (f"4.5e{power}", rf"4.5\times 10^{{{power}}}"):
        assert CHECKS["strict"](rf"\boxed{{{answer}}}", {"answer": gold}).correct
        assert not CHECKS["strict"](rf"\boxed{{{answer}}}", {"answer": gold.replace("4.5", "4.51")}).correct


HOSTILE = [
    *("5^{5^{5^{5}}}", "5^(5^(5^(5^5)))", "9**9**9**9**9", "(10^9)!", "100000000!", "((9!)!)!", "2^{1000000000}"),
    *("{" * 50_000 + "}" * 50_000, "(" * 500 + "1" + ")" * 500, "9" * 5000, r"\sqrt{" * 300 + "2" + "}" * 300),
    *(r"\binom{100000000}{50000000}", r"\sin(10^{100000000})", r"\prod_{n=1}^{1000000} n", "(x+y+z+1)^{300}"),
    *("x^{999999999}", r"\lfloor 10^{10^{10}} \rfloor", "1\x002", "\ud83d", "٣٤", "答案", "\\" * 1000, "$" * 999),
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_told_at_once(answer):
    for gold in ("7", r"\sqrt{7}+x"):
        assert not CHECKS["strict"](rf"\boxed{{{answer}}}", {"answer": gold}).correct
        assert not CHECKS["lenient"](f"the answer is ${answer}$", {"answer": gold}).correct


def test_what_is_too_big_is_refused_by_all_rules():
    for rules, check in CHECKS.items():
        assert check(r"\boxed{5^{5^{5^5}}}", {"answer": "7"}).status == Status.VERIFIER_ERROR, rules


def test_digits_bounds_what_numbers_grow_to():
    sympy = pytest.importorskip("sympy")
    power = sympy.Pow(2, 10**6, evaluate=False)
    assert max_digits(power) == pytest.approx(301_030, rel=1e-3)
    assert max_digits(sympy.sin(power)) == pytest.approx(301_030, rel=1e-3)
    assert max_digits(sympy.factorial(10**6, evaluate=False)) == pytest.approx(6e6)
    assert max_digits(sympy.Symbol("x") ** 5 + 7) < 2
    assert max_digits(sympy.Float("1e-300")) == pytest.approx(300, abs=1)


def test_number():
    assert says({"name": "number"}, "first 3, then 1,200.50 dollars", "1200.5") == "correct"
    assert says({"name": "number"}, r"\boxed{5 \text{ or } 6}, so 6", "6") == "incorrect"
    assert says({"name": "number"}, "it is 6", "5") == "incorrect"
    assert says({"name": "number", "unboxed": False}, "it is 5", "5") == "no_answer"
    assert says({"name": "number", "after": "A:"}, "1 + 2\nA: 3 apples\n", "A: 3") == "correct"
    assert says({"name": "number", "tolerance": 0.05}, "1.64", "1.6") == "correct"
    assert says({"name": "number", "boxes": "only"}, r"\boxed{1} \boxed{2}", "2") == "incorrect"


def test_choice():
    for response in (
        r"\boxed{B}",
        r"\boxed{\textbf{(B)}}",
        r"\boxed{B. Paris}",
        "The answer is (B).",
        "Answer: **B**",
        "B",
    ):
        assert says({"name": "choice"}, response, "B") == "correct"
    assert says({"name": "choice"}, r"\boxed{C}", "B") == "incorrect"
    assert says({"name": "choice"}, "A dog barks.", "A") == "no_answer"
    assert says({"name": "choice", "letters": "AB"}, r"The answer is E", "A") == "no_answer"


def test_string():
    assert says({"name": "string"}, r"\boxed{ New   YORK }", "new york") == "correct"
    assert says({"name": "string", "ignore_case": False}, r"\boxed{YORK}", "york") == "incorrect"
    assert says({"name": "string"}, "york", "york") == "correct"
    assert says({"name": "string", "unboxed": False}, "york", "york") == "no_answer"


def test_regex():
    form = {"name": "regex", "pattern": r"<think>.*</think>\s*\S"}
    assert says(form, "<think>a\nb</think> 4", "4") == "correct"
    assert says(form, "<think>a</think>", "4") == "incorrect"
    assert says({"name": "regex", "whole": True}, "abc", "[a-c]+") == "correct"
    assert says({"name": "regex", "whole": True}, "abcd", "[a-c]+") == "incorrect"


def test_sum_takes_correct_and_status_from_its_first_part():
    parts = [{"name": "math", "weight": 0.9}, {"name": "regex", "pattern": "^Let", "weight": 0.1}]
    check = build({"name": "sum", "parts": parts})
    both = check(r"Let me see: \boxed{4}", {"answer": "4"})
    assert (both.reward, both.correct, both.status) == (pytest.approx(1.0), True, Status.CORRECT)
    assert check(r"\boxed{4}", {"answer": "4"}) == Verdict(0.9, True, Status.CORRECT)
    assert check("Let me see", {"answer": "4"}) == Verdict(0.1, False, Status.NO_ANSWER)


def test_reasoning_gym_scores_with_its_own_scorer():
    import reasoning_gym

    entry = reasoning_gym.create_dataset("simple_equations", size=1, seed=0)[0]
    spec = {"name": "reasoning_gym"}
    assert says(spec, rf"so \boxed{{{entry['answer']}}}", **entry) == "correct"
    assert (
        says(spec, f"<answer>{entry['answer']}</answer>", **entry | {"metadata": json.dumps(entry["metadata"])})
        == "correct"
    )
    assert build(spec)(r"\boxed{nothing}", entry).reward < 1
    assert says(spec, "", **entry) == "no_answer"
    gold = gold_response(spec, entry)
    assert gold is not None
    assert build({"name": "reasoning_gym", "task": "simple_equations"})(gold, entry).correct
    with pytest.raises(UsageError, match="Did you mean simple_equations"):
        build({"name": "reasoning_gym", "task": "simple_equation"})("4", entry)
    with pytest.raises(DataError, match="names no reasoning-gym task"):
        build(spec)("4", {"answer": "4"})


USER = """
from helper import half
def plain(response, row): return float(response == row["answer"])
def full(response, row):
    from sieverl.types import Status, Verdict
    return Verdict(2.5, False, Status.NO_ANSWER)
def trl(completions, answer, **kwargs): return [half if c == a else 0 for c, a in zip(completions, answer)]
def narrow(prompts, completions, level): return [float(len(prompts[0]) + level[0])]
def chat(completions, **kwargs): return [float(completions[0][0]["content"] == "4")]
def nothing(completions, **kwargs): return [None]
def number(completions, **kwargs): return 1.0
def three(a, b, c): return 1.0
def fails(response, row): return 1 / 0
def infinite(response, row): return float("inf")
async def later(completions, **kwargs): return [1.0]
"""


@pytest.fixture
def user(tmp_path):
    (tmp_path / "helper.py").write_text("half = 0.5")
    file = tmp_path / "reward.py"
    file.write_text(USER)
    return lambda name: {"name": f"{file}:{name}"}


def test_functions_of_the_user(user):
    row = {"answer": "4", "prompt": "2+2?", "level": 3}
    assert build(user("plain"))("4", row) == Verdict(1.0, True, Status.CORRECT)
    assert build(user("full"))("4", row) == Verdict(2.5, False, Status.NO_ANSWER)
    assert build(user("trl"))("4", row) == Verdict(0.5, False, Status.INCORRECT)
    assert build(user("narrow"))("4", row).reward == 7
    assert build(user("chat"))("4", {"prompt": [{"role": "user", "content": "2+2?"}]}).correct
    assert build(user("nothing"))("4", row).status == Status.NO_ANSWER


def test_functions_that_cannot_work(user, tmp_path):
    row = {"answer": "4", "prompt": "2+2?"}
    with pytest.raises(UsageError, match="needs the column level; the data has prompts, completions, answer"):
        build(user("narrow"))("4", row)
    with pytest.raises(UsageError, match=r"takes \(a, b, c\); give it \(response, row\)"):
        build(user("three"))
    with pytest.raises(UsageError, match=r"has no function plan; .* Did you mean plain"):
        build(user("plan"))
    with pytest.raises(UsageError, match="asynchronous"):
        build(user("later"))
    with pytest.raises(TypeError, match="returned a float, not a list"):
        build(user("number"))("4", row)
    with pytest.raises(ValueError, match="must be a finite number"):
        build(user("infinite"))("4", row)
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(UsageError, match=r"Cannot load the verifier .*broken.py:f: SyntaxError"):
        build({"name": f"{tmp_path}/broken.py:f"})
    with pytest.raises(UsageError, match="FileNotFoundError"):
        build({"name": f"{tmp_path}/none.py:f"})
    with pytest.raises(UsageError, match="ModuleNotFoundError"):
        build({"name": "no_such_module:f"})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "maths"}, "Unknown verifier 'maths'.* Did you mean math?"),
        ({}, "Unknown verifier None"),
        ({"name": "math", "boxs": "last"}, r"verify\.boxs is no option of math.* Did you mean boxes?"),
        (
            {"name": "math", "boxes": "lst"},
            "it can be last, first, only, any, joined, sentence, math_verify.* Did you mean last?",
        ),
        ({"name": "math", "rules": "stirct"}, "it can be strict, lenient, math_verify.* Did you mean strict?"),
        ({"name": "math", "unboxed": "yes"}, "must be of the kind of False"),
        ({"name": "math", "precision": True}, "must be of the kind of 6"),
        ({"name": "math", "targets": ["string"]}, "it can be latex, expr"),
        ({"name": "number", "percent": "both"}, "it can be drop, value, either"),
        ({"name": "regex", "pattern": "("}, "is no regular expression"),
        ({"name": "sum"}, r"verify\.parts is empty"),
        ({"name": "sum", "parts": [{"name": "math", "weight": "much"}]}, "a weight is a number"),
        ({"name": "sum", "parts": [{"name": "math", "wait": 1}]}, "wait is no option of math"),
        ({"name": "mine.py:f", "boxes": "last"}, "no option of a function"),
    ],
)
def test_a_specification_that_cannot_work(spec, message):
    with pytest.raises(UsageError, match=message):
        make_verifier(spec)


@pytest.mark.parametrize("answer", [None, "", [], ["4", None]])
@pytest.mark.parametrize("name", ["math", "number", "choice", "string"])
def test_a_row_without_a_gold_answer(name, answer):
    with pytest.raises(DataError, match="give each row an answer"):
        build({"name": name})(r"\boxed{4}", {"answer": answer})


def test_graded_and_gold_responses():
    graded = {name: is_graded({"name": name}) for name in VERIFIERS if name != "sum"}
    assert graded == {
        "math": False,
        "number": False,
        "choice": False,
        "string": False,
        "regex": False,
        "reasoning_gym": True,
    }
    assert is_graded({"name": "sum", "parts": [{"name": "math"}]}) is True
    assert is_graded({"name": "no_such.py:f"}) is None
    assert gold_response({"name": "math"}, {"answer": r"thus \boxed{4}"}) == r"\boxed{4}"
    assert gold_response({"name": "math", "after": "A:"}, {"answer": "2+2\nA: 4"}) == r"\boxed{4}"
    assert gold_response({"name": "no_such.py:f"}, {"answer": "4"}) is None
    assert set(options("math")) == {"rules", *MathRules.__dataclass_fields__}


def test_boxes_are_found_in_any_text():
    assert extract.box_contents(r"\boxed{\left\{1,2\right.} \fbox{3} } {\boxed {4}") == [r"\left\{1,2\right.", "3", "4"]
    assert extract.box_contents("\\boxed{" * 50_000) == []
    assert extract.box_contents("{" * 100_000 + r"\boxed{1}") == ["1"]


@pytest.mark.parametrize(
    ("text", "response", "solution"),
    [
        (r"\boxed{1} and \boxed{2}", "2", "2"),
        (r"\boxed 0.5.", "0.5", "0.5"),
        (r"\boxed x", None, "x"),
        (r"\boxed{1}, cut off: \boxed{2", "1", None),
        (r"\boxed{1}, escaped twice: \\boxed{2}", "1", "2"),
    ],
)
def test_the_last_box_of_a_response_and_of_a_published_solution(text, response, solution):
    """A reward needs a closed box; a dataset's notation is read more freely, but a cut answer is no gold answer."""
    found = [extract.boxes_in(text, in_solution) for in_solution in (False, True)]
    assert [boxes[-1].content if boxes else None for boxes in found] == [response, solution]


def written(number: Fraction, form: str) -> str:
    """A number in one of its notations."""
    sign, size = "-" * (number < 0), abs(number)
    forms = {
        "decimal": f"{float(number):.6f}",
        "short": f"{float(number):.2f}",
        "fraction": rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}",
        "slash": f"{sign}{size.numerator}/{size.denominator}",
        "commas": f"{int(number):,}",
        "plain": f"{int(number)}",
    }
    return forms[form]


FORMS = st.sampled_from(["decimal", "short", "fraction", "slash", "commas", "plain"])
DRESS = st.sampled_from(["{}", " {} ", "${}$", r"\${}", r"{}\text{{ cm}}", r"{}\mathrm{{~m}}^2"])
NUMBERS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=60)


@settings(max_examples=150, deadline=None)
@given(
    NUMBERS,
    st.one_of(st.just(Fraction(0)), st.sampled_from([Fraction(1), Fraction(1, 1000)]), NUMBERS),
    FORMS,
    FORMS,
    DRESS,
)
@example(Fraction(1, 3), Fraction(0), "fraction", "decimal", "{}")
@example(Fraction(2, 23), Fraction(0), "slash", "decimal", "{}")
@example(Fraction(1234567), Fraction(0), "plain", "commas", "{}")
def test_the_cheap_path_agrees_with_math_verify(number, distance, gold_form, answer_form, dress):
    """Where it decides, it agrees with Math-Verify, but may accept a difference that is less than the rounding."""
    from math_verify import parse, verify

    gold, answer = written(number, gold_form), dress.format(written(number + distance, answer_form))
    told = equal_cheaply(answer, gold, MathRules())
    parsed = [parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    expected = verify(*parsed, timeout_seconds=None)
    answer_number, gold_number = (numbers.parse_number(numbers.without_unit(numbers.tidy(x))) for x in (answer, gold))
    assert told is not None
    assert answer_number is not None
    assert gold_number is not None
    assert told == expected or (told and abs(answer_number.value - gold_number.value) <= Fraction(1, 10**6))


ITEMS = st.lists(
    st.sampled_from(["0", "1", "2", "-1", "2.5", r"\frac{5}{2}", "1/2", "0.50", "1.0", "-2.5"]), min_size=1, max_size=3
)
WRAPS = st.sampled_from(["({})", "[{}]", "({}]", r"\{{{}\}}", r"\left({}\right)", "{}", "{}"])


@settings(max_examples=150, deadline=None)
@given(ITEMS, ITEMS, WRAPS, WRAPS, st.booleans(), st.integers(0, 2))
@example(["1.0", "-2.5"], ["0.50", "0.50"], "({}]", "({}]", True, 2)  # no intervals, for all their brackets
@example(["2"], ["2", "2"], "{}", "{}", True, 2)
def test_the_cheap_path_agrees_with_math_verify_on_lists(items, others, wrap, other_wrap, same_wrap, order):
    from math_verify import parse, verify

    shuffled = [items, sorted(items), others][order]
    gold = wrap.format(",".join(items))
    answer = (wrap if same_wrap else other_wrap).format(", ".join(shuffled))
    told = equal_cheaply(answer, gold, MathRules())
    parsed = [parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    if told is not None and answer.replace(" ", "") != gold:
        assert told == verify(*parsed, timeout_seconds=None)


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet="0123456789.,-+eE/{}\\frac$% x()", max_size=12),
    st.text(alphabet="0123456789.,/-%e", min_size=1, max_size=8),
)
def test_the_cheap_path_is_part_of_the_full_path(answer, gold):
    check = CHECKS["strict"]
    row = {"answer": gold}
    cheap = check.cheap(rf"\boxed{{{answer}}}", row)
    assert cheap is None or cheap == check.full(rf"\boxed{{{answer}}}", row)


@pytest.mark.parametrize("rules", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (r"32,\!349", "32349"),
        (r"32,\! 349", "32349"),
        (r"11,\!111,\!111,\!100", "11111111100"),
        (r"x=32,\!349", "32349"),
        (r"(32,\!349,2)", "(32349,2)"),
        (r"32,\!349\pi", r"32349\pi"),
        (r"\{1,\!000,2{,}000\}", r"\{2000,1000\}"),
    ],
)
def test_M20_thin_spaces_in_numbers_are_read_in_answer_and_gold(rules, written, plain):
    check = build({"name": "math", "rules": rules})
    assert check(rf"\boxed{{{written}}}", {"answer": plain}).correct
    assert check(rf"\boxed{{{plain}}}", {"answer": written}).correct
    assert check(rf"\boxed{{{written}}}", {"answer": written}).correct
    assert not check(rf"\boxed{{{written}+1}}", {"answer": plain}).correct


def test_M20_thin_spaces_without_a_box():
    for spec in ({"name": "number"}, {"name": "math", "rules": "lenient"}):
        assert build(spec)(r"it is 32,\!349.", {"answer": "32349"}).correct
    assert not build({"name": "number", "commas": False})(r"\boxed{32,\!349}", {"answer": "32349"}).correct


@pytest.mark.parametrize(
    ("response", "gold", "correct"),
    [
        (r"The integers are \boxed{-2} and \boxed{1}.", "-2, 1", True),
        (r"$\boxed{-2}$, $\boxed{1}$", "1, -2", True),
        (r"\(\boxed{1}\), \(\boxed{2}\), and \(\boxed{3}\)", "1, 2, 3", True),
        (r"$\boxed{(1,2)} \quad\text{and}\quad \boxed{(3,4)}$", "(1,2), (3,4)", True),
        (r"$\boxed{1} \text{ or } \boxed{2}$", "1, 2", True),
        (r"$x = \boxed{1}$ or \fbox{2}", "1, 2", True),
        # a later box replaces, and nothing can be gained by adding one
        (r"\boxed{-2}, no: \boxed{1}", "-2, 1", False),
        (r"\boxed{-2}, no: \boxed{1}", "1", True),
        (r"\boxed{1}. Wait, \boxed{2} and \boxed{3}", "2, 3", True),
        (r"\boxed{1} and \boxed{2}. No: \boxed{3}", "3", True),
        (r"\boxed{4} or \boxed{5}", "5", False),
        (r"\boxed{5} or \boxed{4}", "5", False),
        (r"\boxed{4}, \boxed{5}, \boxed{6}", "5", False),
        (r"\boxed{4} \boxed{5}", "5", True),
        (r"\boxed{4} and not \boxed{5}", "4, 5", False),
        (r"\boxed{4} and x = \boxed{5}", "4, 5", False),
        (r"\boxed{5}, \boxed{5}", "5", True),
        (r"\boxed{1}" + " " * 50_000 + r"and \boxed{2}", "2", True),
    ],
)
def test_M20_boxes_of_one_sentence_add_up_and_a_later_box_replaces(response, gold, correct):
    assert build({"name": "math", "boxes": "sentence"})(response, {"answer": gold}).correct is correct
    assert build({"name": "math", "rules": "lenient"})(response, {"answer": gold}).correct is correct


def test_M20_a_gold_that_is_a_whole_solution_is_read_by_the_same_rule():
    gold = {"answer": r"They meet at $\boxed{(-2,18)}$ and $\boxed{(8,38)}$."}
    assert build({"name": "math", "rules": "lenient"})(r"\boxed{(-2,18),(8,38)}", gold).correct
    assert build({"name": "math", "boxes": "last"})(r"\boxed{(8,38)}", gold).correct


@pytest.mark.parametrize("rules", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        (r"7\text{ cm}+10^{9}", "7", False),
        (r"7\text{ cm}, 8\text{ cm}", "7", False),
        (r"7\text{ plus } 8\text{ cm}", "7", False),
        (r"x\sqrt{2}\text{ m}\,\text{s}^{-1}", r"\sqrt{2}x", True),
        (r"\sqrt{8}\mathrm{~cm}^2", r"2\sqrt{2}", True),
        (r"7\text{ or }8\text{ cm}", "7, 8", True),
    ],
)
def test_what_stands_between_a_unit_and_the_end_is_no_unit(rules, answer, gold, correct):
    r"""Math-Verify takes all from the first \text{ to a last } for the unit."""
    assert CHECKS[rules](rf"\boxed{{{answer}}}", {"answer": gold}).correct is correct


@pytest.mark.parametrize("rules", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        (r"\neq 7", "7", False),
        (r"\not= 7", "7", False),
        (r"\leq 7", "7", False),
        (r"\leq 7", r"\geq 7", False),
        (r"\frac{14}{2} + 1^", "7", False),
        (r"\frac{1}{2})(", "1/2", False),
        ("x=7+", "7", False),
        (r"\leq 7", r"\leq 7", True),
        (r"\approx 7.1", "7.1", True),
        ("7 apples", "7", True),
    ],
)
def test_a_box_that_is_no_expression_is_not_searched_for_one(rules, answer, gold, correct):
    """Math-Verify looks for a number or a fraction in what it cannot parse."""
    assert CHECKS[rules](rf"\boxed{{{answer}}}", {"answer": gold}).correct is correct


def test_a_backslash_before_the_first_box_escapes_it_as_before_any_other():
    assert extract.box_contents(r"\\boxed{4}") == []
    assert extract.box_contents(r"\\boxed{4} and \\boxed{5}") == []
    assert extract.box_contents(r"\\\boxed{4}, \\boxed{5}") == ["4"]
    assert [box.content for box in extract.boxes_in(r"\\boxed{4}", in_solution=True)] == ["4"]
