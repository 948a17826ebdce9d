"""The datasets with known names: the Hub id, the columns, and how the gold answer is extracted.

No revision is fixed here. When data is read, the Hub's `main` is resolved to a commit, which is loaded and recorded
with the prompts; `NAME@COMMIT` reads the same data again. `NAME@FILE` reads a local copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sieverl.data.answers import Extract, after, auto, boxed_answer, integer, json_list, plain

PROMPT_COLUMNS = ("prompt", "question", "problem", "query", "messages")
ANSWER_COLUMNS = (
    "answer",
    "gold",
    "final_answer",
    "ground_truth",
    "reward_model.ground_truth",
    "solution",
)
_BOTH: Mapping[str, str] = {"train": "train", "test": "test"}


@dataclass(frozen=True)
class DatasetSpec:
    """A public dataset: its Hub id and configuration, and how prompts and gold answers are read from it.

    `splits` maps our names of splits to the dataset's. `prompt` and `answer` are the columns to try, in order.
    `extract` takes the gold answer out of its column, `reject` are texts that mean "no answer". `evaluate` is the split
    to measure on, None if the dataset is no benchmark.
    """

    hub: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})
    prompt: tuple[str, ...] = PROMPT_COLUMNS
    answer: tuple[str, ...] = ANSWER_COLUMNS
    extract: Extract = auto
    evaluate: str | None = None
    reject: tuple[str, ...] = ()


_TEST: Mapping[str, str] = {"test": "test"}
_QUESTION = ("problem", "question", "prompt")
SOURCES: Mapping[str, DatasetSpec] = {
    "gsm8k": DatasetSpec("openai/gsm8k", "main", _BOTH, ("question",), ("answer",), after("####"), evaluate="test"),
    # The box of the solution first: in copies with verl's schema the target has lost its spaces and words.
    "math": DatasetSpec(
        "DigitalLearningGmbH/MATH-lighteval",
        splits=_BOTH,
        prompt=("problem", "prompt"),
        answer=("solution", "reward_model.ground_truth.solution", *ANSWER_COLUMNS),
    ),
    # The prompts of the paper's runs (arXiv 2504.11343).
    "numina_math": DatasetSpec(
        "ScaleML-RLHF/numina_math", prompt=_QUESTION, answer=("answer", "gt", "reward_model.ground_truth")
    ),
    "numina_math_cot": DatasetSpec("AI-MO/NuminaMath-CoT", None, _BOTH, ("problem",), ("solution",), boxed_answer),
    "numina_math_tir": DatasetSpec("AI-MO/NuminaMath-TIR", None, _BOTH, ("problem",), ("solution",), boxed_answer),
    "numina_math_1_5": DatasetSpec(
        "AI-MO/NuminaMath-1.5", prompt=("problem",), answer=("answer",), extract=plain, reject=("proof", "notfound")
    ),
    "dapo_math": DatasetSpec(
        "open-r1/DAPO-Math-17k-Processed", "all", prompt=("prompt",), answer=("solution", "reward_model.ground_truth")
    ),
    # As published: each prompt occurs many times, and is wrapped in an instruction to end with "Answer:".
    "dapo_math_raw": DatasetSpec("BytedTsinghua-SIA/DAPO-Math-17k", prompt=("prompt",), extract=plain),
    "deepscaler": DatasetSpec(
        "agentica-org/DeepScaleR-Preview-Dataset", prompt=("problem",), answer=("answer",), extract=plain
    ),
    "skywork_or1": DatasetSpec(
        "Skywork/Skywork-OR1-RL-Data",
        splits={"train": "math"},
        prompt=("prompt",),
        answer=("reward_model.ground_truth",),
        extract=json_list,
    ),
    "math500": DatasetSpec("HuggingFaceH4/MATH-500", None, _TEST, _QUESTION, ("answer",), plain, evaluate="test"),
    "minerva": DatasetSpec(
        "math-ai/minervamath", None, _TEST, _QUESTION, ("answer", "solution"), auto, evaluate="test"
    ),
    "olympiad": DatasetSpec(
        "math-ai/olympiadbench", None, _TEST, _QUESTION, ("final_answer", "answer"), plain, evaluate="test"
    ),
    "aime24": DatasetSpec(
        "HuggingFaceH4/aime_2024", None, {"test": "train"}, _QUESTION, ("answer",), integer, evaluate="test"
    ),
    "aime25": DatasetSpec("math-ai/aime25", None, _TEST, _QUESTION, ("answer",), integer, evaluate="test"),
    "amc23": DatasetSpec("math-ai/amc23", None, _TEST, _QUESTION, ("answer",), integer, evaluate="test"),
}
BENCHMARKS = tuple(name for name, source in SOURCES.items() if source.evaluate)
