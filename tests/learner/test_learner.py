"""The promises of the update: dropping equals masking, and the gradient depends on the batch alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from conftest import ROOT
from jaxtyping import TypeCheckError
from toys import SUMS, batch, gradient, learner

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.credit import signed, zero_one
from sieverl.algorithms.objective import Penalty
from sieverl.learner.assemble import as_tokens
from sieverl.learner.batches import Sample, micro_batches, mini_batch_of, pack
from sieverl.learner.gradients import Replicas
from sieverl.learner.optimizer import learning_rate
from sieverl.model.packed import Response, layout
from sieverl.model.policy import Policy
from sieverl.recipe import Train
from sieverl.types import Responses, Rollout

F64 = torch.float64
PAIRED_OR_POLICY = sorted(ALGORITHMS)


def gradients(model, algorithm, masked=False, budget=200, order=None, minibatches=2):
    """The gradient of each mini-batch at the same weights. `masked`: rejected responses are computed with weight 0."""
    responses, mine = batch()
    if order is not None:
        mine = {row: mine[row] for row in order}
    credit = algorithm.credit(responses)
    batches = pack(responses, credit, mine, algorithm, minibatches)
    if masked:
        batches = [replace(b, samples=every(responses, credit, mine, i, minibatches)) for i, b in enumerate(batches)]
    run = learner(model, algorithm, budget)
    run.score(batches)
    out = []
    for b in batches:
        sums = dict.fromkeys(SUMS, 0.0)
        if run.has_work(b):
            run.backward(b, sums)
            out.append(gradient(run))
    return out, run


def every(responses, credit, mine, index, minibatches):
    samples = []
    for row in range(len(responses)):
        if row // 4 * minibatches // 6 == index:
            kept = bool(credit.keep[row])
            samples.append(Sample.of(mine[row], float(credit.advantage[row]) if kept else 0.0, kept))
    return samples


def close(a, b, rel=1e-12):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert float((x - y).norm() / y.norm()) < rel


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in ("ppo", "iterative_dpo")])
def test_dropping_equals_masking(random_model, name):
    algorithm = get_algorithm(name)
    model = random_model(dtype=F64)
    dropped, run = gradients(model, algorithm)
    masked, full = gradients(model, algorithm, masked=True)
    close(dropped, masked)
    assert run.tokens_seen <= full.tokens_seen
    if name == "reinforce_rej":
        assert run.tokens_seen < 0.9 * full.tokens_seen, "what is dropped is not computed"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradient_does_not_depend_on_micro_batches_or_order(random_model, name):
    algorithm = get_algorithm(name)
    model = random_model(dtype=F64)
    whole, _ = gradients(model, algorithm, budget=10_000)
    split, _ = gradients(model, algorithm, budget=1)
    shuffled, _ = gradients(model, algorithm, budget=40, order=np.random.default_rng(1).permutation(24).tolist())
    close(whole, split)
    close(whole, shuffled)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("threads", [2, 3])
def test_two_parts_side_by_side_make_the_same_update(random_model, set_threads, threads, adapters):
    """Gradients, counted work and metrics are those of one part; the replica has the weights after the step, too."""
    out = []
    for parts in (1, 2):
        model = random_model(dtype=F64)
        if adapters:
            torch.manual_seed(0)
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
        set_threads(1 if parts == 1 else threads)
        responses, mine = batch()
        algorithm = get_algorithm("grpo")
        run = learner(model, algorithm, minibatches=2)
        assert len(run.replicas.policies) == parts
        batches = pack(responses, algorithm.credit(responses), mine, algorithm, 2)
        metrics = run.score(batches) | run.update(batches)
        assert torch.get_num_threads() == (1 if parts == 1 else threads)
        for name, p in run.policy.parameters.items():
            assert run.replicas.policies[-1].parameters[name].data_ptr() == p.data_ptr()
            assert run.replicas.policies[-1].parameters[name].grad is None
        out.append(
            (metrics, run.tokens_seen, torch.cat([p.detach().flatten() for p in run.policy.parameters.values()]))
        )
    (one, tokens, weights), (two, same, others) = out
    assert tokens == same
    assert one == pytest.approx(two, rel=1e-9)
    close([weights], [others])


def test_a_replica_keeps_its_gradients_apart(random_model):
    policy = Policy(random_model(dtype=F64), None)
    replica = policy.replica()
    packed = layout([Response([3, 4], [5, 6])], policy.device)
    replica.logp(replica.response_hidden(packed), packed.target_T, 1.0, entropy=False)[0].sum().backward()
    assert all(p.grad is None for p in policy.parameters.values())
    assert all(p.grad is not None for p in replica.parameters.values())


def test_a_large_model_has_no_replica(random_model, set_threads):
    set_threads(2)
    policy = Policy(random_model(), None)
    assert len(Replicas(policy).policies) == 2
    assert len(Replicas(policy, small=1000).policies) == 1


def test_an_error_in_one_part_is_raised(random_model):
    run = learner(random_model(dtype=F64), get_algorithm("grpo"))
    run.replicas.policies = [run.policy, run.policy.replica()]
    setattr(run.replicas.policies[1].decoder, "embed_tokens", None)  # noqa: B010 (a module's attribute has no type)
    responses, mine = batch()
    with pytest.raises(TypeError):
        run.update(pack(responses, run.algorithm.credit(responses), mine, run.algorithm, 2))


def test_penalty_over_sampled_turns_dropping_off(random_model):
    algorithm = with_axes(
        get_algorithm("reinforce_rej"), {"kl": "k2", "kl_coefficient": 0.1, "penalty_denominator": "sampled"}
    )
    responses, mine = batch()
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, 2)
    assert sum(len(b.samples) for b in batches) == 24
    assert sum(s.kept for b in batches for s in b.samples) < 24
    whole, _ = gradients(random_model(dtype=F64), algorithm, budget=10_000)
    split, _ = gradients(random_model(dtype=F64), algorithm, budget=1)
    close(whole, split)


def test_one_step_equals_plain_autograd(random_model):
    """GRPO over the whole batch, written as one expression on the model's own logits."""
    model = random_model(dtype=F64)
    responses, mine = batch()
    ours, _ = gradients(model, get_algorithm("grpo"), minibatches=1)
    advantage = get_algorithm("grpo").credit(responses).advantage
    model.zero_grad()
    loss = torch.zeros((), dtype=F64)
    for row, s in mine.items():
        logits = model(torch.tensor([[*s.prompt_tokens, *s.tokens]])).logits[0, len(s.prompt_tokens) - 1 : -1]
        logp = logits.log_softmax(-1).gather(1, torch.tensor(s.tokens)[:, None])
        loss = loss - advantage[row] * (logp - logp.detach()).exp().mean() / 24
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    close(ours, [expected], rel=1e-9)


@pytest.mark.parametrize("adapters", [False, True])
def test_M12_nothing_selected_still_makes_the_step_of_a_penalty_over_all_sampled(random_model, adapters):
    """Its gradient is that of the penalty alone, wherever the denominator of the objective is taken."""
    responses, mine = batch()
    responses = replace(responses, reward_R=np.zeros(24), correct_R=np.zeros(24, dtype=bool))
    grads = []
    for over in ("kept", "sampled"):
        model = random_model(dtype=F64)
        if adapters:
            torch.manual_seed(0)
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
        algorithm = with_axes(
            get_algorithm("reinforce_rej"),
            {"denominator": over, "entropy_coefficient": 0.1, "penalty_denominator": "sampled"},
        )
        batches = pack(responses, algorithm.credit(responses), mine, algorithm, 2)
        run = learner(model, algorithm)
        run.score(batches)
        assert run.has_work(batches[0])
        run.backward(batches[0], dict.fromkeys(SUMS, 0.0))
        grads.append(gradient(run))
        assert run.update(batches)["train/updates"] == 2
    close([grads[0]], [grads[1]])


def test_M12_an_undeclared_ratio_is_that_to_the_policy_before_the_first_step(random_model):
    """In the second mini-batch of the step it is not 1."""
    seen = []

    def spy(tokens):
        seen.append(float((tokens.log_ratio_T().detach() != 0).double().mean()))
        return tokens.log_ratio_T().exp() * 0.01

    algorithm = replace(get_algorithm("raft"), penalties=(Penalty(spy, 0.1),))
    run, _ = step(random_model(dtype=F64), algorithm, 2)
    assert max(seen) > 0.9
    assert step(random_model(dtype=F64), get_algorithm("raft"), 2)[0].forwards < run.forwards, "raft needs none"


def test_nothing_kept_makes_no_step_and_probes_the_engine(random_model):
    model = random_model(dtype=F64)
    responses, mine = batch()
    responses = replace(responses, reward_R=np.zeros(24), correct_R=np.zeros(24, dtype=bool))
    algorithm = get_algorithm("reinforce_rej")
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, 2)
    run = learner(model, algorithm)
    before = [p.clone() for p in model.parameters()]
    metrics = run.score(batches, probe=[mine[0], mine[1]]) | run.update(batches)
    assert metrics["policy/engine_mismatch"] > 0, "a probe is compared with the engine"
    assert metrics["train/updates"] == 0
    assert run.updates == 2, "the schedule advances"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gradients_that_are_not_finite_are_skipped_and_counted(random_model):
    model = random_model(dtype=F64)
    responses, mine = batch()
    algorithm = get_algorithm("grpo")
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, 1)
    run = learner(model, algorithm, minibatches=1)
    batches[0].samples[0].advantage = float("inf")
    before = [p.clone() for p in model.parameters()]
    metrics = run.update(batches)
    assert metrics["train/nonfinite"] == 1
    assert metrics["train/updates"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_several_steps_use_the_policy_before_the_first(random_model):
    responses, mine = batch()
    algorithm = get_algorithm("grpo")
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, 3)
    run = learner(random_model(dtype=F64), algorithm, minibatches=3)
    scores = run.score(batches)
    assert "policy/engine_mismatch" in scores
    metrics = run.update(batches)
    assert metrics["train/updates"] == 3
    assert metrics["policy/kl_old"] != 0, "after the first step the policy is no longer the old one"


def packed_tokens(samples) -> int:
    prompts = {tuple(s.prompt_tokens) for s in samples}
    return sum(map(len, prompts)) + sum(len(s.response_tokens) - 1 for s in samples)


def test_sizes_of_micro_batches():
    lengths = [1, 30, 2, 3, 9, 8]
    paired = [Sample([1] * 4, [1] * n, [], pair=i // 2) for i, n in enumerate(lengths)]
    single = [Sample([i % 2] * 4, [1] * n, []) for i, n in enumerate(lengths)]
    for samples, budget in itertools.product((paired, single), (10, 20, 40, 80, 1000)):
        groups = micro_batches(samples, budget)
        assert sorted(i for g in groups for i in g) == list(range(6))
        for group in groups:
            alone = 2 if samples is paired else 1
            assert len(group) == alone or packed_tokens([samples[i] for i in group]) <= budget
            assert samples is single or {i ^ 1 for i in group} == set(group), "pairs stay whole"
    assert len(micro_batches(paired, 1000)) == 1
    assert micro_batches(single, 42) == [[0, 2, 4], [1, 3, 5]], "the responses of a prompt stay together where they fit"


def test_learning_rates():
    linear = Train(lr=1.0, warmup_updates=4, schedule="linear")
    assert [learning_rate(u, 8, linear) for u in range(8)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    )
    cosine = Train(lr=2.0, schedule="cosine", min_lr_ratio=0.1)
    assert learning_rate(0, 10, cosine) == pytest.approx(2.0)
    assert learning_rate(10, 10, cosine) == pytest.approx(0.2)
    assert learning_rate(99, 10, Train(lr=3.0)) == 3.0


def test_lora_trains_adapters_only_and_its_base_model_is_the_reference(random_model):
    from peft import LoraConfig, get_peft_model

    model = random_model()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        start = model(ids).logits
    policy = Policy(get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")), None)
    assert all("lora_" in name for name in policy.parameters)
    with torch.no_grad():
        for p in policy.parameters.values():
            p.add_(0.1)
        reference = replace(policy, adapters=False)
        torch.testing.assert_close(reference.logits(reference.hidden(ids)), start)
        assert not torch.allclose(policy.logits(policy.hidden(ids)), start)


def test_two_ranks_make_the_gradient_of_one(tmp_path):
    """gloo, two processes: the gradient of every mini-batch equals one process's to 1e-12, with an idle rank too."""
    script = ROOT / "tests" / "learner" / "ranks.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("grpo", "reinforce_rej", "iterative_dpo", "ppo", "M7"):
        for case in ("both", "idle"):
            one, two = torch.load(tmp_path / f"{name}-{case}.pt", weights_only=True)
            assert float((one - two).norm() / one.norm()) < 1e-12, (name, case)
    (one, two), tokens, times = torch.load(tmp_path / "halved.pt", weights_only=True)
    assert float((one - two).norm() / one.norm()) < 1e-12, "where one of them runs out of memory, too"
    assert times >= 1
    assert tokens[0] == tokens[1] < 200, "both go on with its micro-batches"


def test_wrong_shapes_are_noticed_in_tests():
    """A log-prob too few: without the check it would be broadcast or fail far away."""
    samples = [Sample([3], [4, 5, 6], [-1.0] * 3, old_logp=torch.zeros(2))]
    with pytest.raises(TypeCheckError, match="joined"):
        as_tokens(samples, torch.zeros(3))
    with pytest.raises(TypeCheckError, match="prompt_R"):
        mini_batch_of(np.zeros((2, 2), dtype=np.int64), 1)


# --- which responses the denominators count -----------------------------------------------------------


def counted(algorithm, rewards, lengths, truncated=(), minibatches=1):
    """The mini-batches of one prompt's responses."""
    rows = len(rewards)
    responses = Responses(
        np.zeros(rows, dtype=int),
        np.array(rewards, dtype=float),
        np.array(rewards) > 0,
        np.array(lengths),
        np.isin(np.arange(rows), truncated),
        max_tokens=100,
        graded=True,
    )
    mine = {row: Rollout(0, row, [7] * n, [-1.0] * n, False, 0, [5, 6]) for row, n in enumerate(lengths)}
    return pack(responses, algorithm.credit(responses), mine, algorithm, minibatches)


def test_M5_a_zero_advantage_stays_in_the_denominator():
    """DAPO, lengths 10, 10, 100, rewards 1, -1, 0: the last has the group's mean and is not computed, but it counts."""
    dapo = replace(get_algorithm("dapo"), shape=signed)
    (batch,) = counted(dapo, [1.0, -1.0, 0.0], [10, 10, 100])
    assert [len(s.response_tokens) for s in batch.samples] == [10, 10]
    assert dapo.aggregate.count(batch.denominator) == 120
    (batch,) = counted(replace(dapo, aggregate=obj.sequence_mean), [1.0, -1.0, 0.0], [10, 10, 100])
    assert batch.denominator.lengths == [10, 10, 100]


@pytest.mark.parametrize("name", ["raft", "reinforce_rej"])
def test_M5_over_kept_the_step_is_that_of_computing_all_that_is_selected(random_model, name):
    """Adding a term of weight zero, which makes every selected response be computed, does not change the gradient."""
    algorithm = replace(get_algorithm(name), shape=zero_one, denominator="kept")
    everything = replace(algorithm, penalties=(Penalty(obj.k2, 0.0),))
    ours, _ = gradients(random_model(dtype=F64), algorithm)
    whole, _ = gradients(random_model(dtype=F64), everything)
    close(ours, whole)


# --- the engine is compared on every step -------------------------------------------------------------


def step(model, algorithm, minibatches=2, **changes):
    """One step of the loop: the learner and the metrics; nothing of the engine's log-probs is true."""
    responses, mine = batch()
    run = learner(model, algorithm, minibatches=minibatches, **changes)
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, minibatches)
    scores = run.score(batches, probe=[mine[0], mine[1]])
    assert run.algorithm is algorithm
    return run, run.update(batches) | scores


@pytest.mark.parametrize("name", ["grpo", "raft", "ppo"])
@pytest.mark.parametrize(("minibatches", "epochs"), [(1, 1), (3, 2)])
def test_M6_with_the_engines_log_probs_as_old_the_mismatch_is_reported_for_free(
    random_model, name, minibatches, epochs
):
    """It is the mean gap of the first mini-batch before its step."""
    model = random_model(dtype=F64)
    algorithm = get_algorithm(name)
    run, _ = step(model, algorithm, minibatches, epochs=epochs, old="learner")
    free, metrics = step(random_model(dtype=F64), algorithm, minibatches, epochs=epochs, old="engine")
    assert metrics["policy/engine_mismatch"] > 0
    assert free.forwards <= run.forwards, "and no forward is made for it"
    if minibatches == 1:
        assert metrics["policy/engine_mismatch"] == pytest.approx(
            step(random_model(dtype=F64), algorithm, 1)[1]["policy/engine_mismatch"], rel=1e-12
        )


@pytest.mark.parametrize("old", ["learner", "engine"])
@pytest.mark.parametrize("warmup", [1, 2, 9])
def test_M6_the_mismatch_is_reported_while_a_critic_warms_up(random_model, warmup, old):
    ppo = get_algorithm("ppo")
    assert ppo.critic is not None
    ppo = replace(ppo, critic=replace(ppo.critic, warmup_updates=warmup))
    run, metrics = step(random_model(dtype=F64), ppo, 2, old=old)
    assert metrics["policy/engine_mismatch"] > 0
    assert metrics["train/updates"] == max(0, 2 - warmup)
    assert run.forwards >= 1
    alone, metrics = step(random_model(dtype=F64), ppo, 1, old=old)
    assert metrics["policy/engine_mismatch"] > 0
    assert alone.forwards == 1, "the probe alone"


# --- what is masked and yet computed, for a penalty ---------------------------------------------------


def masked_ppo(model, penalty, drop):
    """PPO on a batch with some responses masked, which a penalty over all sampled ones needs or not."""
    responses, mine = batch()
    algorithm = replace(get_algorithm("ppo"), penalties=(Penalty(obj.k2, 0.0, "sampled"),) if penalty else ())
    truncated = np.isin(np.arange(24), drop)
    credit = algorithm.credit(responses)
    credit = replace(credit, keep=credit.keep & ~truncated, selected=credit.selected & ~truncated)
    batches = pack(responses, credit, mine, algorithm, 1)
    run = learner(model, algorithm, minibatches=1)
    run.score(batches)
    advantage = [s.token_advantage for s in batches[0].samples if s.kept and s.token_advantage is not None]
    assert run.critic is not None
    run.critic.update(batches[0], run.policy, run.budget, run.world)
    run.backward(batches[0], dict.fromkeys(SUMS, 0.0))
    critic = [p.detach().flatten() for p in run.critic.trained.values()]
    return torch.cat(advantage), torch.cat(critic), gradient(run), run.critic.loss, len(batches[0].samples)


def test_M7_masked_responses_are_neither_whitened_nor_teach_the_critic(random_model):
    """A penalty of weight zero makes them be computed, and changes nothing."""
    drop = [0, 5, 9, 20]
    advantage, critic, policy, loss, few = masked_ppo(random_model(dtype=F64), False, drop)
    same, as_well, whole, also, many = masked_ppo(random_model(dtype=F64), True, drop)
    assert (few, many) == (20, 24)
    assert advantage.mean().item() == pytest.approx(0, abs=1e-12)
    assert advantage.std().item() == pytest.approx(1, rel=1e-6)
    close([advantage, critic, policy], [same, as_well, whole])
    assert loss == also == pytest.approx(0.5), "before it learns, the value of a token is 0 and its target 1 or -1"


@pytest.mark.parametrize("minibatches", [1, 2])
def test_M17_an_off_policy_engine_weights_each_term_and_costs_no_pass_on_policy(random_model, minibatches):
    """min(pi_old / pi_engine, 2) of each token, where pi_old is this policy; scored beforehand with several updates."""
    model, algorithm = random_model(dtype=F64), get_algorithm("grpo")
    responses, mine = batch()
    batches = pack(responses, algorithm.credit(responses), mine, algorithm, minibatches)
    run = learner(model, algorithm, minibatches=minibatches, off_policy_engine=True)
    samples = [s for b in batches for s in b.samples]
    exact = run.logp(samples)
    for s, logp in zip(samples, exact, strict=True):  # an engine that is now above, now below, once far off
        gap = torch.linspace(-0.4, 0.5, len(logp), dtype=F64)
        gap[0] = -3.0
        s.engine_logp = (logp + gap).tolist()
    run.forwards = 0
    run.score(batches)
    assert (run.forwards == 0) == (minibatches == 1), "one update a batch needs no scoring"
    expected = torch.zeros((), dtype=F64)
    for s in batches[0].samples:
        packed = layout([s], torch.device("cpu"))
        logp_T, _ = run.policy.logp(run.policy.response_hidden(packed), packed.target_T, 1.0, False)
        weight_T = (logp_T.detach() - torch.tensor(s.engine_logp, dtype=F64)).exp().clamp(max=2.0)
        ratio_T = (logp_T - logp_T.detach()).exp()
        expected = expected - (s.advantage * weight_T * ratio_T).mean() / len(batches[0].denominator.lengths)
    model.zero_grad()
    expected.backward()
    theirs = gradient(run)
    run.backward(batches[0], dict.fromkeys(SUMS, 0.0))
    close([gradient(run)], [theirs], 1e-10)
