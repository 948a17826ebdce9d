"""How fast TRL's GRPO gains accuracy: `python -m bench.peers.trl_accuracy --model DIR --prompts F --evaluation F`.

Both files hold JSON rows of `prompt` (the text as the model sees it) and `answer` (an integer, wanted in `\\boxed{}`).
Prints `{"step", "seconds", "accuracy"}` before training and every `--every` steps: the seconds are those of training
alone (loading and evaluation stop the clock), the accuracy is avg@k at temperature 1 over the evaluation prompts.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import GenerationConfig, TrainerCallback

from bench.peers.serve import open_output, peak_mb
from bench.peers.trl_setup import add_options, make_trainer
from bench.workloads import add_accuracy_options, boxed, read_prompts


class Evaluate(TrainerCallback):
    """Stops the clock, measures and reports; ends training at the target."""

    def __init__(self, options, write):
        self.options, self.write, self.rows = options, write, read_prompts(options.evaluation)
        self.seconds = 0.0

    def report(self, step: int) -> float:
        accuracy = sampled_accuracy(self.trainer, self.rows, self.options)
        self.write({"step": step, "seconds": self.seconds, "accuracy": accuracy, "peak_mb": peak_mb()})
        return accuracy

    def on_train_begin(self, args, state, control, **_):
        self.target = self.report(0) + self.options.gain

    def on_step_begin(self, args, state, control, **_):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.seconds += time.perf_counter() - self.began
        last = state.global_step == self.options.steps
        if state.global_step % self.options.every == 0 or last:
            control.should_training_stop = self.report(state.global_step) >= self.target or last


def sampled_accuracy(trainer, rows: list[dict[str, str]], options: argparse.Namespace) -> float:
    """avg@k over `options.samples_evaluated` samples a prompt; the random state of training does not change."""
    tokenizer, model, state = trainer.processing_class, trainer.model, torch.get_rng_state()
    torch.manual_seed(options.seed + 1)
    how = GenerationConfig(
        max_new_tokens=options.max_tokens,
        do_sample=True,
        top_k=0,
        num_return_sequences=options.samples_evaluated,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    right = 0.0
    model.eval()
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        batch = tokenizer(
            [row["prompt"] for row in part], padding=True, return_tensors="pt", return_token_type_ids=False
        )
        with torch.no_grad():
            out = model.generate(**batch.to(model.device), generation_config=how)
        out = out[:, batch["input_ids"].shape[1] :]
        ended = (out == tokenizer.eos_token_id).any(1).tolist()
        gold = [row["answer"] for row in part for _ in range(options.samples_evaluated)]
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        right += sum(boxed(text, answer) * end for text, answer, end in zip(texts, gold, ended, strict=True))
    model.train()
    torch.set_rng_state(state)
    return right / (len(rows) * options.samples_evaluated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_accuracy_options(parser)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    add_options(parser)
    options = parser.parse_args()
    rows = read_prompts(options.prompts)
    whole = len(rows) - len(rows) % options.prompts_per_step  # TRL drops the last, partial batch of an epoch too
    evaluate = Evaluate(options, open_output())
    evaluate.trainer = make_trainer(
        options,
        rows[:whole],
        boxed,
        prompts=options.prompts_per_step,
        samples=options.samples,
        max_tokens=options.max_tokens,
        callbacks=[evaluate],
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        adam_beta2=options.adam_beta2,
        max_steps=options.steps,
    )
    evaluate.trainer.train()


if __name__ == "__main__":
    main()
