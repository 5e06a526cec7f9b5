"""Fine-tune Llama 4 with LoRA inside a training container: `python -m training_code.train`.

Exit status 0: /opt/ml/model holds a usable adapter. 1: /opt/ml/output/failure says why not, in one sentence.
One process for each GPU; without the variables of torchrun this one starts them.
"""

from __future__ import annotations

import errno
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext

from training_code.clock import Clock, StopReason

if __name__ == "__main__":
    # Before torch, whose import takes seconds: PID 1, as in a container, is sent no SIGTERM that it has no handler for.
    listening = Clock.of_process()

import torch

from heartbeat.job import FineTuneJob, SettingError, resolve
from heartbeat.memory import GIB
from heartbeat.scout import ModelShape
from training_code import checkpoint, data, device, forecast, loading, placing, questions, schedule, shortage
from training_code.answers import Asking
from training_code.base_files import CONFIG, open_base
from training_code.digests import Digests
from training_code.environment import Environment, read_json_object, write_json
from training_code.errors import TrainingError
from training_code.folder import only_process_in
from training_code.forecast import Forecast
from training_code.launch import Cluster, launch
from training_code.manifest import sha256_of
from training_code.placing import Arrangement
from training_code.ranks import Ranks, end_process, join
from training_code.result import write_metrics, write_record
from training_code.run import ADAM_BETAS, Run
from training_code.step import MAX_GRADIENT_NORM
from training_code.tokenizer import ChatTokenizer

DEFAULTS_FILE = "training_defaults.json"

Say = Callable[[str], None]


def main(clock: Clock | None = None) -> int:
    """`clock`: of a process that is listening already."""
    environment, clock = Environment.of_process(), clock or Clock.of_process()
    if "RANK" in os.environ:
        return _train_as_rank(environment, clock)
    with environment.ready_to_fail():
        try:
            cluster, num_processes = environment.cluster(), max(1, torch.cuda.device_count())
        except TrainingError as error:
            return environment.fail(str(error))
        if cluster.num_hosts * num_processes > 1:
            if clock.signalled:
                return environment.fail(loading.STOPPED_BEFORE_TRAINING)
            return _launch(environment, num_processes, cluster)
        return _train_as_rank(environment, clock)


def _train_as_rank(environment: Environment, clock: Clock) -> int:
    try:
        where = device.of_process()
        ranks = join(where)
        with only_process_in(environment.checkpoints) if ranks.is_first else nullcontext():
            train(environment, clock, where, ranks)
    except (TrainingError, SettingError) as error:
        return environment.fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _unexpected(environment, error)
        return environment.fail(f"the disk is full: {error}; give the job a larger volume (VolumeSizeInGB)")
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        if shortage.is_of_gpu(error):
            return environment.fail(
                f"out of GPU memory: set MODE=streamed, lower MAX_LENGTH, or choose an instance with more; {said}"
            )
        if shortage.is_of_host(error):
            return environment.fail(f"out of host memory: lower MAX_LENGTH, or choose an instance with more; {said}")
        if clock.signalled and os.environ.get("RANK", "0") != "0":
            return 0  # The first rank has left the step, to save; this one was waiting for it.
        return _unexpected(environment, error)
    return 0


def _launch(environment: Environment, num_processes: int, cluster: Cluster) -> int:
    ended = launch(["-m", "training_code.train"], num_processes=num_processes, cluster=cluster)
    if ended.killed:
        environment.forget_failure()  # the others' complaints that it is gone
        environment.fail(ended.killed)
    return ended.status


def train(environment: Environment, clock: Clock, where: torch.device, ranks: Ranks) -> None:
    """The whole job, phase by phase."""
    say = print_flushed if ranks.is_first else silent
    # Settings
    channel = environment.channel("model")
    job, origins = resolve(
        ("hyperparameters.json", environment.hyperparameters()),
        (DEFAULTS_FILE, read_json_object(channel / DEFAULTS_FILE, missing={})),
    )
    clock.limit_seconds = job.max_runtime_seconds
    _say_settings(say, job, origins)

    # Data, before the model: its mistakes are the likelier ones, and cost seconds to find
    say("== reading the dataset")
    base = open_base(channel)
    tokenizer = ChatTokenizer(channel)
    rows = data.load(
        environment.channel("training"),
        environment.channel("heldout"),
        tokenizer,
        max_length=job.max_length,
        held_out_fraction=job.held_out_fraction,
        seed=job.seed,
    )
    _say_data(say, rows, job)
    asked = questions.of_run(job, rows, tokenizer, channel)
    _say_questions(say, asked, job)

    # Base model, adapter, optimizer
    dtype = device.compute_dtype(where)
    before = _arrangement_before(environment, where, ranks)
    arrangement = placing.choose(
        job, base.architecture.shape, rows, where, ranks, is_quantised=base.is_quantised, before=before
    )
    _say_change(say, arrangement, before)
    say(f"== loading the base model: {arrangement.describe(where, dtype, ranks)}")
    expected = _forecast(base.architecture.shape, rows, job, arrangement, where, ranks)
    if expected:
        say(expected.describe())
    digests = Digests(base.folder, base.records)
    llama = loading.load(
        base,
        job,
        arrangement=arrangement,
        device=where,
        dtype=dtype,
        ranks=ranks,
        report=say,
        digests=digests,
        # What an earlier run came to is worth loading the model for: its adapter is then written.
        interrupted=lambda: clock.signalled and ranks.is_first and before is None,
    )
    sources = {
        "dataset_sha256": rows.sha256,
        "heldout_sha256": rows.heldout_sha256,
        "base_config_sha256": sha256_of(channel / CONFIG),
        "base_weights_sha256": base.digest,
        "tokenizer_sha256": tokenizer.sha256,
    }
    asking = Asking(
        job=job,
        questions=asked,
        num_heldout_rows=len(rows.heldout),
        heldout_lines=rows.heldout_lines,
        llama=llama,
        tokenizer=tokenizer,
        ranks=ranks,
        clock=clock,
        folder=environment.checkpoints,
        identity=f"{sources['base_config_sha256']}:{sources['base_weights_sha256']}:{arrangement.weight_format}",
        free_bytes=lambda: placing.bytes_for_answers(job, rows, llama, ranks),
        say=say,
    )
    run = Run(
        clock=clock,
        job=job,
        data=rows,
        sources=sources,
        arrangement=arrangement,
        llama=llama,
        ranks=ranks,
        checkpoints=environment.checkpoints,
        asking=asking,
    )
    say(f"{llama.lora.num_parameters:,} trained parameters in {sum(1 for _ in llama.lora.matrices())} matrices")

    # Resume, or measure where training starts from
    run.resume()
    if run.progress.step:
        say(f"== resuming after step {run.progress.step} of {job.max_steps}")
    if run.progress.base_row_losses is None:
        say(f"== evaluating the base model on {len(rows.heldout)} held-out rows")
        run.evaluate_base()
    _require_whole_weights(digests, ranks, say)
    run.save_checkpoint()  # Shows now, not hours later, that the folder takes it, and how long that lasts.
    if asked:
        say(f"== asking the base model {len(asked.prompts)} questions")
    run.ask_base()

    # Steps
    say(f"== training to step {job.max_steps}, {job.global_batch_size} rows a step")
    reason = run.train()
    run.refuse_nothing_trained(reason)

    # What the job is for, first what must not be lost
    say(f"== saving the adapter of step {run.progress.step}" + (f", stopped by {reason}" if reason else ""))
    run.save_adapter(environment.model / "adapter")
    _write_results(environment, run, asking, origins, reason)
    run.save_checkpoint()
    run.evaluate_tuned()
    _write_results(environment, run, asking, origins, reason)
    if asking.base:
        say(f"== asking the tuned model {len(asking.base.texts)} questions")
    run.ask_tuned()
    _write_results(environment, run, asking, origins, reason)
    _say_outcome(say, run, expected)


def _require_whole_weights(digests: Digests, ranks: Ranks, say: Say) -> None:
    started = time.monotonic()
    digests.require_whole()
    ranks.wait_for_all()  # where it is not, the job ends with that rank, and has written nothing
    waited = time.monotonic() - started
    if waited > 1:
        say(f"waited {waited:.0f} s for the digests of the weights")


def _arrangement_before(environment: Environment, where: torch.device, ranks: Ranks) -> Arrangement | None:
    """Of the run that this one resumes."""
    found = checkpoint.newest(environment.checkpoints) if ranks.is_first else None
    told = ranks.text_of_first(found.arrangement if found else "", where)
    return Arrangement.from_text(told) if told else None


def _say_change(say: Say, now: Arrangement, before: Arrangement | None) -> None:
    if before is not None and before.placement.micro_batch_tokens != now.placement.micro_batch_tokens:
        say(
            f"warning: there is not enough memory for micro-batches of {before.placement.micro_batch_tokens:,} tokens, "
            f"as before; going on with {now.placement.micro_batch_tokens:,}, so dropout draws other numbers from here"
        )


def _forecast(
    shape: ModelShape, rows: data.Data, job: FineTuneJob, arrangement: Arrangement, where: torch.device, ranks: Ranks
) -> Forecast | None:
    if where.type != "cuda":
        return None
    work, name = placing.workload(job, rows), torch.cuda.get_device_name(where)
    return forecast.of_run(job, shape, work, arrangement, device_name=name, num_gpus=ranks.world_size)


def _write_results(
    environment: Environment, run: Run, asking: Asking, where: dict[str, str], reason: StopReason | None
) -> None:
    if not run.ranks.is_first:
        return
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
            "near_repeats": run.data.num_near_repeats,
        },
    )
    write_record(
        environment.model / "run.json",
        run.job,
        where,
        sources=run.sources,
        weight_format=run.arrangement.weight_format,
    )
    write_json(environment.model / "scores.json", asking.record())


def _unexpected(environment: Environment, error: Exception) -> int:
    if environment.failure.exists():
        # Of another rank, which has said why: this one lost the network with it.
        print(f"ended with the process that failed: {error}", file=sys.stderr, flush=True)
        return 1
    traceback.print_exc()
    return environment.fail(f"unexpected {type(error).__name__}: {error}; the log has the details")


def print_flushed(line: str) -> None:
    print(line, flush=True)


def silent(line: str) -> None:
    """What all ranks would say, the first one says."""
    del line


def _say_settings(say: Say, job: FineTuneJob, sources: dict[str, str]) -> None:
    say("== settings")
    for name, value in job.to_hyperparameters().items():
        say(f"{name}: {value} (from {sources[name]})")
    say(
        f"AdamW, betas {ADAM_BETAS}, no weight decay; gradients clipped to norm {MAX_GRADIENT_NORM}; learning rate: "
        f"linear over {job.warmup_steps} steps, then a cosine to {schedule.FINAL_SHARE} of the peak"
    )


def _say_data(say: Say, rows: data.Data, job: FineTuneJob) -> None:
    tokens = sum(len(row.ids) for row in rows.training)
    supervised = sum(row.num_supervised for row in rows.training)
    say(f"{len(rows.training)} training rows, {tokens:,} tokens, the loss taken on {supervised:,} of them")
    say(f"{len(rows.heldout)} held-out rows")
    if rows.num_over_long:
        say(f"{rows.num_over_long} rows left out: longer than MAX_LENGTH={job.max_length} tokens")
    if not rows.heldout:
        say("warning: no held-out rows, so base and tuned model are not compared; raise HELD_OUT_FRACTION")
    for warning in rows.warnings:
        say(f"warning: {warning}")


def _say_questions(say: Say, asked: questions.Questions | None, job: FineTuneJob) -> None:
    if asked is None:
        say("warning: no answers will be asked for, and the quality gate judges by them: see EVAL_GENERATE_ROWS")
        return
    say(
        f"{len(asked.cases)} turns of {asked.num_rows} held-out rows to be said, {len(asked.general)} general questions"
    )
    if asked.num_over_long:
        say(
            f"warning: {asked.num_over_long} of these turns have more than EVAL_MAX_NEW_TOKENS="
            f"{job.eval_max_new_tokens} tokens: answers to them are cut"
        )


def _say_outcome(say: Say, run: Run, expected: Forecast | None) -> None:
    heldout = run.heldout()
    if heldout.base_loss is not None and heldout.tuned_loss is not None:
        say(f"held-out loss {heldout.base_loss:.4f} before, {heldout.tuned_loss:.4f} after")
    if expected and run.step_seconds:
        # The median: the first step has kernels compiled.
        say(expected.compare(statistics.median(run.step_seconds), torch.cuda.max_memory_allocated() / GIB))
    say(f"done in {run.clock.elapsed_seconds():.0f} seconds")


if __name__ == "__main__":
    end_process(main(listening))
