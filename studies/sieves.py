"""Reinforce-Rej with sieves before sampling, ours and those of others, for sieve.toml."""

from __future__ import annotations

from sieverl.algorithms import reinforce_rej
from sieverl.algorithms.sieve import with_sieve

both = with_sieve(reinforce_rej)
# GRESO (arXiv 2506.02177): by the history of the prompt, before any response
history = with_sieve(reinforce_rej, first=1.0)
# SPEED-RL (arXiv 2506.09016): by the first responses; a group that is all right or all wrong so far is stopped
screening = with_sieve(reinforce_rej, skip=False, threshold=1.0, explore=0.0)
