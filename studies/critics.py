"""PPO with a critic that learns ten times as fast as the policy, as in the release of arXiv 2504.11343.

One for each learning rate of minimalist-rates.toml; that of minimalist.toml is `at_1e_4`.
"""

from __future__ import annotations

from dataclasses import replace

from sieverl.algorithms import Critic, ppo

at_5e_5 = replace(ppo, critic=Critic(lr=5e-4))
at_1e_4 = replace(ppo, critic=Critic(lr=1e-3))
at_2e_4 = replace(ppo, critic=Critic(lr=2e-3))
