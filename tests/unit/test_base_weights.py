from __future__ import annotations

from typing import Any

import pytest

from heartbeat.base_weights import FORMATS, INSTANCES, STARTED_BY, BringJob, BringRequest, candidates
from heartbeat.execution import InputError
from heartbeat.scout import SCOUT


def test_an_empty_input_makes_everything() -> None:
    assert BringRequest.parse({}) == BringRequest.parse({STARTED_BY: "arn"}) == BringRequest(make=FORMATS)


def test_formats_come_in_the_order_in_which_they_are_made() -> None:
    assert BringRequest.parse({"make": ["fp8", "bf16"]}).make == ("bf16", "fp8")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "must be a JSON object"),
        ({"mak": ["bf16"]}, "did you mean 'make'?"),
        ({"make": "bf16"}, "make='bf16' must be a list"),
        ({"make": ["int4"]}, "make: 'int4' is not a format; name some of bf16, nf4, fp8"),
        ({"revision": "../../other"}, "revision='../../other' must be a branch"),
        ({"max_runtime_seconds": 5}, "max_runtime_seconds=5 must be a whole number from 600"),
        ({"max_runtime_seconds": True}, "max_runtime_seconds=True"),
    ],
)
def test_a_wrong_input_is_named(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=r".*") as refused:
        BringRequest.parse(given)
    assert says in str(refused.value)


def test_candidates_are_ranked_by_the_price_of_the_job() -> None:
    found = candidates(SCOUT, FORMATS)
    assert len(found) == len(INSTANCES)
    assert [one.usd for one in found] == sorted(one.usd for one in found)


def test_the_stop_leaves_room() -> None:
    """At 200 MB/s Scout's 217 GB take 18 minutes, where the network has as much."""
    for one in candidates(SCOUT, ["bf16"]):
        rate = 156.25e6 if one.instance_type == "ml.m5.xlarge" else 200e6
        assert one.hours == pytest.approx(217.2e9 / rate / 3600, rel=0.02)
        assert one.max_runtime_seconds == pytest.approx(3 * one.hours * 3600 + 1800, rel=0.02)


def test_packing_takes_longer_on_fewer_cores() -> None:
    hours = {one.instance_type: one.hours for one in candidates(SCOUT, ["nf4"])}
    assert hours["ml.m5.xlarge"] > hours["ml.m5.2xlarge"] > hours["ml.m5.4xlarge"]


def test_own_instances_and_stop() -> None:
    found = candidates(SCOUT, ["bf16"], names=("ml.c5.2xlarge", "ml.m5.xlarge"), max_runtime_seconds=7200)
    assert [(one.instance_type, one.max_runtime_seconds) for one in found] == [
        ("ml.c5.2xlarge", 7200),
        ("ml.m5.xlarge", 7200),
    ]
    with pytest.raises(InputError, match=r"'ml.p5.48xlarge' is not known to bring weights on"):
        candidates(SCOUT, ["bf16"], names=("ml.p5.48xlarge",))


def test_a_job_survives_its_hyperparameters() -> None:
    job = BringJob(
        model="a/b", revision="main", make=("bf16", "fp8"), bucket="c", folder="base-models/a/b/", token_secret="arn"
    )
    assert BringJob.from_hyperparameters(job.to_hyperparameters()) == job
    with pytest.raises(InputError, match=r"TOKEN_SECRET=None must be text"):
        BringJob.from_hyperparameters({**job.to_hyperparameters(), "TOKEN_SECRET": None})
