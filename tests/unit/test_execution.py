from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat.execution import InputError, RunRequest, run_id

DEFAULTS: dict[str, Any] = {
    "dataset": "s3://data-bucket/datasets/stanley.jsonl",
    "instance_types": ["ml.p4d.24xlarge"],
    "max_runtime_seconds": 28800,
    "budget_usd": None,
    "use_spot": False,
    "endpoint_name": "heartbeat-dev",
}


def test_an_empty_input_is_the_defaults() -> None:
    request = RunRequest.parse({}, DEFAULTS)
    assert request.max_runtime_seconds == 28800
    assert request.deploy
    assert not request.approve
    assert request.wait_for_endpoint
    assert request.to_dict()["instance_types"] == ["ml.p4d.24xlarge"]


def test_a_base_models_folder_ends_with_a_slash() -> None:
    assert RunRequest.parse({}, DEFAULTS).base_model is None
    for given_uri in ("s3://mine/scout", "s3://mine/scout/"):
        assert RunRequest.parse({"base_model": given_uri}, DEFAULTS).base_model == "s3://mine/scout/"


def test_null_is_left_out() -> None:
    assert RunRequest.parse({"budget_usd": None, "dataset": None}, DEFAULTS).dataset == DEFAULTS["dataset"]


@pytest.mark.parametrize(
    ("given_input", "says"),
    [
        ([], "must be a JSON object"),
        ("{}", "must be a JSON object"),
        ({"datset": "s3://b/k"}, "did you mean 'dataset'?"),
        ({"colour": 1}, "known fields: dataset"),
        ({"dataset": 3}, "must be an S3 URI"),
        ({"dataset": "/tmp/a.jsonl"}, "write s3://BUCKET/KEY"),
        ({"dataset": "s3://bucket-a/folder/"}, "names a folder"),
        ({"held_out_dataset": 3}, "held_out_dataset=3 must be an S3 URI"),
        ({"held_out_dataset": "s3://bucket-a/folder/"}, "names a folder"),
        ({"held_out_dataset": DEFAULTS["dataset"]}, "is the dataset itself"),
        ({"base_model": 3}, "base_model=3 must be an S3 URI"),
        ({"base_model": "/models/scout"}, "base_model: '/models/scout/' is not an S3 URI"),
        ({"instance_types": "ml.p4d.24xlarge"}, "must be a list"),
        ({"instance_types": []}, "must be a list"),
        ({"instance_types": ["p4d.24xlarge"]}, "write ml.FAMILY.SIZE"),
        ({"instance_types": ["ml.g5.xlarge", "ml.g5.xlarge"]}, "names an instance twice"),
        ({"hyperparameters": [1]}, "must be an object"),
        ({"hyperparameters": {"MAX_STEPS": True}}, "MAX_STEPS=True must be a number or text"),
        ({"max_runtime_seconds": 0}, "between 1 and 2419200"),
        ({"max_runtime_seconds": 28 * 24 * 3600 + 1}, "28 days"),
        ({"max_runtime_seconds": 1.5}, "whole number"),
        ({"max_runtime_seconds": float("nan")}, "whole number"),
        ({"max_runtime_seconds": float("inf")}, "whole number"),
        ({"max_runtime_seconds": "28800"}, "whole number"),
        ({"max_runtime_seconds": 10**400}, "whole number"),
        ({"budget_usd": 10**400}, "positive number"),
        ({"budget_usd": -1}, "positive number"),
        ({"budget_usd": float("inf")}, "positive number"),
        ({"use_spot": "yes"}, "use_spot='yes' must be true or false"),
        ({"deploy": 1}, "deploy=1 must be true or false"),
        ({"endpoint_name": "somebody-elses"}, "must be 'heartbeat-dev' or begin with 'heartbeat-dev-'"),
        ({"endpoint_name": "heartbeat-dev2"}, "must be 'heartbeat-dev' or begin"),
        ({"endpoint_name": "heartbeat-dev-_x"}, "letters, digits and single hyphens"),
        ({"endpoint_name": "heartbeat-dev-" + "x" * 60}, "at most 63"),
    ],
)
def test_bad_input_names_the_field_and_the_fix(given_input: object, says: str) -> None:
    with pytest.raises(InputError) as raised:
        RunRequest.parse(given_input, DEFAULTS)
    assert says in str(raised.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["dataset", "instance_types", "hyperparameters", "max_runtime_seconds", "budget_usd", "use_spot"]
        ),
        _json,
    )
)
def test_any_json_is_taken_or_refused_in_words(given_input: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        request = RunRequest.parse(given_input, DEFAULTS)
        assert RunRequest.parse(request.to_dict(), DEFAULTS) == request


def test_run_id_fits_sagemakers_names() -> None:
    arn = "arn:aws:states:us-east-1:123456789012:execution:HeartBeat-dev:any name+of=80"
    assert run_id("dev", arn) == "hb-dev-" + hashlib.sha256(arn.encode()).hexdigest()[:12]
    # With the attempt and eight hex digits behind it, under the 63 that SageMaker takes.
    assert len(run_id("abcdefghij", arn)) + len("-99-deadbeef") < 63
