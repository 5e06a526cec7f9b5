"""Fine-tune Llama 4 with LoRA inside a training container: `python -m training_code.train`.

Exit status 0: /opt/ml/model holds a usable adapter. 1: /opt/ml/output/failure says why not, in one sentence.
"""

from __future__ import annotations

import hashlib
import sys
import traceback

import torch

from heartbeat.job import FineTuneJob, SettingError, resolve
from training_code import checkpoint, data, lora, model, schedule
from training_code.clock import Clock, StopReason, process_start
from training_code.environment import Environment, read_json_object
from training_code.errors import TrainingError
from training_code.result import write_metrics, write_record
from training_code.run import ADAM_BETAS, Run
from training_code.step import MAX_GRADIENT_NORM
from training_code.tokenizer import ChatTokenizer

DEFAULTS_FILE = "training_defaults.json"


def main() -> int:
    environment = Environment.of_process()
    clock = Clock(limit_seconds=FineTuneJob.max_runtime_seconds, started=process_start())
    clock.listen()
    try:
        with checkpoint.exclusive(environment.checkpoints):
            train(environment, clock)
    except (TrainingError, SettingError) as error:
        return _fail(environment, str(error))
    except torch.OutOfMemoryError as error:
        return _fail(
            environment,
            f"out of GPU memory: lower PER_DEVICE_BATCH_SIZE (and raise GRADIENT_ACCUMULATION_STEPS as much) or "
            f"MAX_LENGTH, or choose an instance with more; {error}",
        )
    except Exception as error:
        traceback.print_exc()
        return _fail(environment, f"unexpected {type(error).__name__}: {error}; the log has the details")
    return 0


def train(environment: Environment, clock: Clock) -> None:
    """The whole job, phase by phase."""
    # Settings
    base = environment.channel("model")
    job, where = resolve(
        ("hyperparameters.json", environment.hyperparameters()),
        (DEFAULTS_FILE, read_json_object(base / DEFAULTS_FILE, missing={})),
    )
    clock.limit_seconds = job.max_runtime_seconds
    _refuse_unsupported(job, environment)
    _print_settings(job, where)

    # Data, before the model: its mistakes are the likelier ones, and cost seconds to find
    _phase("reading the dataset")
    model.read_text_config(base)
    rows = data.load(
        environment.channel("training"),
        environment.channel("heldout"),
        ChatTokenizer(base),
        max_length=job.max_length,
        held_out_fraction=job.held_out_fraction,
        seed=job.seed,
    )
    _print_data(rows, job)

    # Base model, adapter, optimizer
    device = model.pick_device()
    dtype = model.compute_dtype(device)
    _phase(f"loading the base model onto {device} as {str(dtype).removeprefix('torch.')}")
    llama = model.load_base(base, device, dtype)
    attached = lora.attach(
        llama,
        job.lora_targets,
        rank=job.lora_r,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        seed=job.seed,
    )
    run = Run(
        clock=clock,
        job=job,
        data=rows,
        base_config_sha256=hashlib.sha256((base / "config.json").read_bytes()).hexdigest(),
        device=device,
        model=llama,
        attached=attached,
        checkpoints=environment.checkpoints,
    )
    num_trained = sum(parameter.numel() for parameter in run.parameters.values())
    print(f"{num_trained:,} trained parameters in {len(attached)} layers", flush=True)

    # Resume, or measure where training starts from
    run.resume()
    if run.progress.step:
        _phase(f"resuming after step {run.progress.step} of {job.max_steps}")
    if run.progress.base_heldout_loss is None:
        _phase(f"evaluating the base model on {len(rows.heldout)} held-out rows")
        run.evaluate_base()
        run.save_checkpoint()  # Shows now, not hours later, that the folder takes it, and how long that lasts.

    # Steps
    _phase(f"training to step {job.max_steps}, {job.global_batch_size} rows a step")
    reason = run.train()
    run.refuse_nothing_trained(reason)

    # What the job is for, first what must not be lost
    _phase(f"saving the adapter of step {run.progress.step}" + (f", stopped by {reason}" if reason else ""))
    run.save_adapter(environment.model / "adapter")
    _write_results(environment, run, where, reason)
    run.save_checkpoint()
    run.evaluate_tuned()
    _write_results(environment, run, where, reason)
    _print_outcome(run)


def _refuse_unsupported(job: FineTuneJob, environment: Environment) -> None:
    if job.mode not in ("auto", "resident"):
        raise TrainingError(f"MODE={job.mode} is not supported by this version of the trainer; use auto or resident")
    if environment.num_hosts() > 1:
        raise TrainingError(f"this job has {environment.num_hosts()} instances; the trainer runs on one")
    lora.target_pattern(job.lora_targets)


def _write_results(environment: Environment, run: Run, where: dict[str, str], reason: StopReason | None) -> None:
    write_metrics(
        environment.model / "metrics.json",
        run.progress,
        steps_planned=run.job.max_steps,
        stop_reason=reason,
        heldout=run.heldout(),
        rows={
            "training": len(run.data.training),
            "heldout": len(run.data.heldout),
            "over_long": run.data.num_over_long,
        },
    )
    write_record(
        environment.model / "run.json",
        run.job,
        where,
        dataset_sha256=run.data.sha256,
        base_config_sha256=run.base_config_sha256,
    )


def _fail(environment: Environment, sentence: str) -> int:
    print(f"failed: {sentence}", file=sys.stderr, flush=True)
    environment.fail(sentence)
    return 1


def _phase(text: str) -> None:
    print(f"== {text}", flush=True)


def _print_settings(job: FineTuneJob, where: dict[str, str]) -> None:
    _phase("settings")
    for name, value in job.to_hyperparameters().items():
        print(f"{name}: {value} (from {where[name]})")
    print(
        f"AdamW, betas {ADAM_BETAS}, no weight decay; gradients clipped to norm {MAX_GRADIENT_NORM}; learning rate: "
        f"linear over {job.warmup_steps} steps, then a cosine to {schedule.FINAL_SHARE} of the peak",
        flush=True,
    )


def _print_data(rows: data.Data, job: FineTuneJob) -> None:
    tokens = sum(len(row.ids) for row in rows.training)
    supervised = sum(row.num_supervised for row in rows.training)
    print(f"{len(rows.training)} training rows, {tokens:,} tokens, the loss taken on {supervised:,} of them")
    print(f"{len(rows.heldout)} held-out rows")
    if rows.num_over_long:
        print(f"{rows.num_over_long} rows left out: longer than MAX_LENGTH={job.max_length} tokens")
    if not rows.heldout:
        print("warning: no held-out rows, so base and tuned model are not compared; raise HELD_OUT_FRACTION")
    for warning in rows.warnings:
        print(f"warning: {warning}")
    sys.stdout.flush()


def _print_outcome(run: Run) -> None:
    heldout = run.heldout()
    if heldout.base_loss is not None and heldout.tuned_loss is not None:
        print(f"held-out loss {heldout.base_loss:.4f} before, {heldout.tuned_loss:.4f} after")
    print(f"done in {run.clock.elapsed_seconds():.0f} seconds", flush=True)


if __name__ == "__main__":
    sys.exit(main())
