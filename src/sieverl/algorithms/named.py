"""The one page: every named algorithm, each one value composed of small pure functions.

To add one, add one value, here or in a file of yours (`--algorithm my_file.py:my_algorithm`):

>>> only_hard = Algorithm(select=not_all_correct, advantage=group_centred, about="drop what is already solved")
>>> only_hard.credit([[1, 1], [1, 0]]).keep
array([[False, False],
       [ True,  True]])
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm, Critic, DynamicSampling
from sieverl.algorithms.credit import (
    OverlongShaped,
    balanced,
    batch_zscore,
    best_and_worst,
    correct,
    enough_of_both,
    group_centred,
    group_zscore,
    leave_one_out,
    minus_greedy,
    mixed_groups,
    not_all_correct,
    not_all_wrong,
    one,
    over_group_std,
    pair_sign,
)
from sieverl.algorithms.objective import Clipped, ClippedWeight, PairLogistic
from sieverl.algorithms.token_advantage import Gae
from sieverl.errors import UsageError, nearest
from sieverl.userfile import GIVEN, given, load_file

MINIMALIST = "arXiv 2504.11343"
raft = Algorithm(
    select=correct,
    advantage=one,
    objective=obj.log_prob,
    denominator="kept",
    about="likelihood of correct responses",
    paper=f"{MINIMALIST}, eq. 1",
)
raft_pp = Algorithm(
    select=correct, advantage=one, about="raft with importance ratio and clipping", paper=f"{MINIMALIST}, eq. 6"
)
raft_is = replace(raft_pp, objective=obj.unclipped, about="raft_pp without clipping (ablation)")
raft_pp_clip_higher = replace(raft_pp, objective=Clipped(0.2, 0.28), about="raft_pp with a wider upper clip (ablation)")
reinforce = Algorithm(about="the signed reward, no baseline", paper=f"{MINIMALIST}, eq. 5")
reinforce_rej = replace(reinforce, select=mixed_groups, about="reinforce without prompts all wrong or all correct")
reinforce_drop_wrong = replace(reinforce, select=not_all_wrong, about="reinforce without prompts all wrong (ablation)")
reinforce_drop_correct = replace(
    reinforce, select=not_all_correct, about="reinforce without prompts all correct (ablation)"
)
reinforce_mean = replace(reinforce, advantage=group_centred, about="reinforce minus the group's mean (ablation)")
reinforce_rej_std = replace(
    reinforce_rej, advantage=over_group_std, about="reinforce_rej over the group's std (ablation)"
)
grpo = Algorithm(advantage=group_zscore, about="z-score within the group", paper="arXiv 2402.03300")
dr_grpo = Algorithm(
    advantage=group_centred, aggregate=obj.constant_length, about="no std, constant length", paper="arXiv 2503.20783"
)
rloo = Algorithm(
    advantage=leave_one_out,
    objective=obj.log_prob,
    aggregate=obj.constant_length,
    about="minus the mean of the others, no clip",
    paper="arXiv 2402.14740",
)
remax = Algorithm(
    sampling=DynamicSampling(greedy_baseline=True),
    advantage=minus_greedy,
    objective=obj.log_prob,
    aggregate=obj.constant_length,
    about="minus the reward of the greedy response, no clip",
    paper="arXiv 2310.10505",
)
reinforce_pp = Algorithm(
    advantage=batch_zscore, about="z-score over the batch (verl whitens per token)", paper="arXiv 2501.03262"
)
dapo = Algorithm(
    sampling=DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=3),
    shape=OverlongShaped(0.2),
    select=mixed_groups,
    advantage=group_zscore,
    objective=Clipped(0.2, 0.28),
    aggregate=obj.token_mean,
    denominator="kept",
    about="clip-higher, dynamic sampling, overlong shaping, token mean",
    paper="arXiv 2503.14476",
)
gspo = Algorithm(
    advantage=group_zscore,
    ratio=obj.per_sequence,
    objective=Clipped(3e-4, 4e-4),
    about="one importance ratio a sequence",
    paper="arXiv 2507.18071",
)
cispo = Algorithm(
    advantage=group_zscore,
    objective=ClippedWeight(4.0),
    aggregate=obj.token_mean,
    about="clip the weight, keep the gradient",
    paper="arXiv 2506.13585",
)
reinforce_ada = Algorithm(
    sampling=DynamicSampling(until=enough_of_both, max_rounds=4),
    select=balanced,
    advantage=group_centred,
    objective=Clipped(0.2, 0.28),
    denominator="kept",
    about="sample until half a group is right and half wrong, train on that",
    paper="arXiv 2510.04996",
)
ppo = Algorithm(
    token_advantage=Gae(1.0, 1.0), whiten=True, critic=Critic(), about="critic and GAE", paper="arXiv 1707.06347; eq. 4"
)
iterative_dpo = Algorithm(
    select=best_and_worst,
    advantage=pair_sign,
    objective=PairLogistic(0.1),
    aggregate=obj.pair_mean,
    denominator="kept",
    about="best against worst response of each prompt, fresh pairs every step",
    paper="arXiv 2305.18290; 2504.11343",
)
MOVED = {  # modules of earlier versions
    "sieverl.algorithm": "sieverl.algorithms",
    "sieverl.credit": "sieverl.algorithms.credit",
    "sieverl.objective": "sieverl.algorithms.objective",
}
ALGORITHMS: dict[str, Algorithm] = {name: value for name, value in globals().items() if isinstance(value, Algorithm)}


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or `my_file.py:my_algorithm` from a file of the user's.

    >>> get_algorithm("raft").denominator
    'kept'
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if name.startswith(GIVEN):
        value = given(name)
        assert isinstance(value, Algorithm)
        return value
    path, _, attribute = name.rpartition(":")
    if not path:
        raise UsageError(
            f"there is no algorithm {name!r}.{nearest(name, ALGORITHMS)} `sieverl algorithms` lists them; one of your "
            "own is my_file.py:my_algorithm"
        )
    if not Path(path).is_file():
        raise UsageError(f"{path} is not a file; an algorithm of your own is my_file.py:my_algorithm")
    try:
        module = load_file(path)
    except Exception as error:  # whatever the user's file raises, the user is told where
        moved = MOVED.get(str(getattr(error, "name", "")))
        hint = f"; it is now {moved}" if moved else ""
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}{hint}") from error
    value = getattr(module, attribute, None)
    if not isinstance(value, Algorithm):
        raise UsageError(f"{path} has no sieverl.Algorithm named {attribute!r}")
    return value
