"""What is learnt: every named algorithm, and what one is composed of (`sieverl.algorithms.named` is the page)."""

from sieverl.algorithms.algorithm import Algorithm as Algorithm
from sieverl.algorithms.algorithm import Critic as Critic
from sieverl.algorithms.algorithm import DynamicSampling as DynamicSampling
from sieverl.algorithms.named import *  # noqa: F403 (every algorithm of the page, so that a new one is found here)
from sieverl.algorithms.named import ALGORITHMS as ALGORITHMS
from sieverl.algorithms.named import get_algorithm as get_algorithm
