"""Types that all rooms share. Shapes: R responses (rows)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from os import PathLike
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]  # the columns of a dataset's row
JsonObject = dict[str, Any]  # as it is read from or written to JSON
VerifierSpec = Mapping[str, Any]  # a verifier's name and its options
Metrics = dict[str, Any]  # a row of metrics: name -> number
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]  # of a dtype that is still to be checked
Progress = Callable[[str], None]  # is told what a run is at, each time that it got on
ROUNDING = 1e-6  # rewards that are less than a bound by no more than this still reach it


def unwatched(phase: str) -> None:
    """The `Progress` of what nobody watches."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    name_or_path: str
    chat_template: str | None
    pad_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]: ...
    def __len__(self) -> int: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...
    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: object) -> list[str]: ...
    def get_vocab(self) -> dict[str, int]: ...
    def get_added_vocab(self) -> dict[str, int]: ...
    def save_pretrained(self, save_directory: str | PathLike[str]) -> object: ...
    def apply_chat_template(self, conversation: object, *, tokenize: bool, add_generation_prompt: bool) -> str: ...


class Status(StrEnum):
    """Why a response got its reward; each status is counted separately.

    >>> Status("truncated") is Status.TRUNCATED
    True
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    VERIFIER_TIMEOUT = "verifier_timeout"
    VERIFIER_ERROR = "verifier_error"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one response: the reward (any float), whether it is correct, and why.

    `parts` are rewards of which it is made, by name, for the log; None where a part does not apply.

    >>> Verdict.of(1.0)
    Verdict(reward=1.0, correct=True, status=<Status.CORRECT: 'correct'>)
    >>> Verdict.of(0.5).status.value
    'incorrect'
    """

    reward: float
    correct: bool
    status: Status
    parts: Mapping[str, float | None] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(reward: float, status: Status | None = None, correct_from: float = 1.0) -> Verdict:
        """The verdict of a plain number: correct if the reward is at least `correct_from` (up to rounding)."""
        correct = bool(reward >= correct_from - ROUNDING)
        return Verdict(float(reward), correct, status or (Status.CORRECT if correct else Status.INCORRECT))


class Note(NamedTuple):
    """A message about a training step; an `urgent` one is shown even if the step itself is not."""

    text: str
    urgent: bool = True


@dataclass(frozen=True)
class Prompt:
    """One question: `id` is its place in its source, `text` the bare question or `messages` a chat, `row` every column.

    `row["answer"]` is the gold answer that the verifier sees.
    """

    id: int
    text: str
    row: Row
    messages: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled response to the prompt `prompt_id`, whose token ids are `prompt_tokens`.

    `tokens` include the end-of-text token when there is one; `truncated` ones have none. `logp` are the engine's
    log-probs of `tokens` at the sampling temperature, in nats, same length. `sample` is its number among the responses
    to the prompt; `group` and `prompt_tokens` are those of its request.
    """

    prompt_id: int
    sample: int
    tokens: list[int]
    logp: list[float]
    truncated: bool
    group: int = 0
    prompt_tokens: Sequence[int] = ()


@dataclass(frozen=True)
class Responses:
    """All ranks' responses of one step, one row each; what credit is computed from (a few kB).

    Groups may be ragged: rows with one `prompt_R` form a group, wherever they stand. `greedy` has, row by row, the
    greedy response of the row's prompt (only when the algorithm asks for it); where no more is known of it than its
    reward, that is `greedy_R`, and an `advantage` finds its shaped reward there. `max_tokens` is the length at which
    a response is truncated, `seed` breaks ties, `graded` says that rewards mean more than right (1) and wrong (0).
    `samples` is the number of responses asked for a prompt, of which an adaptive draw makes more; 0 is unknown.

    >>> import numpy as np
    >>> right_R = np.array([True, False, True, True])
    >>> responses = Responses(
    ...     prompt_R=np.array([0, 0, 1, 1]), reward_R=right_R.astype(float), correct_R=right_R,
    ...     length_R=np.array([5, 9, 4, 4]), truncated_R=np.zeros(4, bool),
    ... )
    >>> from sieverl.algorithms.credit import share_correct
    >>> share_correct(responses)
    array([0.5, 0.5, 1. , 1. ])
    """

    prompt_R: IntArray
    reward_R: FloatArray
    correct_R: BoolArray
    length_R: IntArray
    truncated_R: BoolArray
    greedy_R: FloatArray | None = None
    max_tokens: int = 1
    seed: int = 0
    graded: bool = False
    greedy: Responses | None = None
    samples: int = 0

    def __len__(self) -> int:
        return len(self.prompt_R)


@dataclass(frozen=True)
class Credit:
    """Which responses are kept, bool [R], and the advantage of each response (not of its tokens), float64 [R].

    `selected` are those that a `kept` denominator counts; `keep` those of them that must be computed, since an
    advantage of zero teaches nothing.
    """

    keep: BoolArray
    advantage: FloatArray
    shaped: FloatArray = field(repr=False)
    selected: BoolArray = field(repr=False)

    def reshaped(self, shape: tuple[int, ...]) -> Credit:
        """The same in another shape, such as [prompts, samples]."""
        keep, selected = self.keep.reshape(shape), self.selected.reshape(shape)
        return Credit(keep, self.advantage.reshape(shape), self.shaped.reshape(shape), selected)
