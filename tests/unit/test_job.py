"""FineTuneJob: defaults, limits, messages, precedence."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.job import SETTINGS, FineTuneJob, SettingError, resolve

CARD = {
    "LEARNING_RATE": "2e-4",
    "MAX_STEPS": "400",
    "PER_DEVICE_BATCH_SIZE": "2",
    "GRADIENT_ACCUMULATION_STEPS": "32",
    "MAX_LENGTH": "4096",
    "LORA_R": "16",
    "LORA_ALPHA": "32",
    "LORA_DROPOUT": "0.05",
}


def test_defaults_are_the_cards() -> None:
    assert FineTuneJob.from_hyperparameters(CARD) == FineTuneJob()
    assert FineTuneJob().global_batch_size == 64
    assert FineTuneJob().max_runtime_seconds == 28_800


def test_hyperparameters_are_strings_and_come_back_equal() -> None:
    job = FineTuneJob(max_steps=7, warmup_steps=2, lora_targets=("routed_experts",), usd_per_hour=7.91)
    strings = job.to_hyperparameters()
    assert set(strings) == set(SETTINGS)
    assert all(isinstance(value, str) for value in strings.values())
    assert FineTuneJob.from_hyperparameters(strings) == job


def test_no_price_leaves_the_name_out() -> None:
    assert "USD_PER_HOUR" not in FineTuneJob().to_hyperparameters()


def test_names_that_sagemaker_injects_are_ignored() -> None:
    assert FineTuneJob.from_hyperparameters({"sagemaker_program": "x", "MAX_STEPS": 30}).max_steps == 30


@pytest.mark.parametrize("value", ["30", 30, 30.0, "30.0", " 30 ", "3e1"])
def test_a_whole_number_in_any_spelling(value: object) -> None:
    assert FineTuneJob.from_hyperparameters({"MAX_STEPS": value}).max_steps == 30


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"MAX_STEPS": 0}, "MAX_STEPS=0 must be at least 1; leave it out for 400"),
        ({"MAX_STEPS": "4.5"}, "MAX_STEPS=4.5 must be a whole number"),
        ({"MAX_STEPS": True}, "MAX_STEPS=True must be a whole number"),
        ({"MAX_STEPS": ""}, "MAX_STEPS='' must be a whole number"),
        ({"SEED": "٣"}, "must be a whole number"),
        ({"LEARNING_RATE": "nan"}, "LEARNING_RATE=nan must be a number"),
        ({"LEARNING_RATE": float("nan")}, "must be a number, and finite"),
        ({"LEARNING_RATE": float("inf")}, "must be a number, and finite"),
        ({"LEARNING_RATE": "1e9999"}, "must be a number, and finite"),
        ({"LEARNING_RATE": 10**400}, "must be at most 1"),
        ({"LEARNING_RATE": -1e-4}, "must be more than 0"),
        ({"LORA_DROPOUT": 1}, "LORA_DROPOUT=1 must be less than 1; leave it out for 0.05"),
        ({"LORA_R": 513}, "LORA_R=513 must be at most 512 (vLLM serves no higher rank)"),
        ({"MAX_LENGTH": 8192}, "MAX_LENGTH=8192 must be at most 8191 (Llama 4 attends in chunks"),
        (
            {"MAX_RUNTIME_SECONDS": 2_419_201},
            "must be at most 2419200 (28 days, the longest that SageMaker lets a training job run); leave it out",
        ),
        ({"MODE": "shard"}, "must be one of auto, resident, sharded, streamed, perhaps sharded"),
        ({"LORA_TARGETS": "attention,"}, "must be a comma-separated list of attention, shared_expert"),
        ({"LORA_TARGETS": []}, "LORA_TARGETS=[] must be a comma-separated list of attention"),
        ({"MAX_STEP": 5}, "MAX_STEP is not a setting; did you mean MAX_STEPS?"),
        ({"learning_rate": 1e-4}, "learning_rate is not a setting; did you mean LEARNING_RATE?"),
        ({"colour": 1}, "colour is not a setting; the settings are LEARNING_RATE, MAX_STEPS"),
        ({"MAX_STEPS": 9, "WARMUP_STEPS": 9}, "set WARMUP_STEPS to at most 8"),
    ],
)
def test_the_message_names_setting_value_and_fix(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        FineTuneJob.from_hyperparameters(values)
    assert words in str(caught.value)


def test_the_first_source_that_has_a_name_wins_and_is_recorded() -> None:
    job, where = resolve(
        ("execution input", {"MAX_STEPS": 50, "LORA_R": None}),
        ("training_defaults.json", {"MAX_STEPS": 20, "LORA_R": 8}),
        ("the card", {"LORA_ALPHA": 32}),
    )
    assert (job.max_steps, job.lora_r) == (50, 8)
    assert where["MAX_STEPS"] == "execution input"
    assert where["LORA_R"] == "training_defaults.json"
    assert where["LORA_ALPHA"] == where["SEED"] == "the card"
    assert set(where) == set(SETTINGS)


def test_an_error_names_its_source() -> None:
    with pytest.raises(SettingError, match=r"\(from training_defaults.json\)"):
        resolve(("execution input", {}), ("training_defaults.json", {"LORA_R": 0}))


@given(st.integers(1, 1000))
def test_a_short_run_needs_no_word_on_warm_up(max_steps: int) -> None:
    job, where = resolve(("execution input", {"MAX_STEPS": max_steps}))
    assert job.warmup_steps < max_steps
    assert (where["WARMUP_STEPS"] == "the card") == (job.warmup_steps == 10)
    assert job == FineTuneJob().with_max_steps(max_steps)


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (3, 8), (16, 16), (17, 32), (300, 320), (512, 512)])
def test_the_served_rank_is_one_that_vllm_takes(rank: int, served: int) -> None:
    assert FineTuneJob(lora_r=rank).max_lora_rank == served


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FineTuneJob().max_steps = 5  # type: ignore[misc]


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.text(max_size=4))
)


@given(st.dictionaries(st.one_of(st.sampled_from(SETTINGS), st.text(max_size=6)), SCALARS, max_size=4))
def test_whatever_comes_gives_a_sound_job_or_a_message(values: dict[str, object]) -> None:
    message = ""
    try:
        job = FineTuneJob.from_hyperparameters(values)
    except SettingError as error:
        message = str(error)
    else:
        assert FineTuneJob.from_hyperparameters(job.to_hyperparameters()) == job
        assert all(type(getattr(job, f.name)) is not bool for f in fields(job))
    assert len(message) < 600
