"""The CDK app: reads the context once, composes the stacks, checks them. Makes no call to AWS.

cdk deploy --all -c environment=prod
"""

from __future__ import annotations

import json
import sys

import stacks  # noqa: F401  (before aws_cdk: it chooses the Node that runs the CDK)

# isort: split

import aws_cdk as cdk

from heartbeat.job import SettingError
from stacks import bundling
from stacks.findings import accept_pipeline_findings
from stacks.monitoring import Monitoring
from stacks.nag import Checks
from stacks.pipeline import Pipeline
from stacks.registry import Registry
from stacks.settings import Settings
from stacks.storage import Storage


def make_app(outdir: str | None = None) -> cdk.App:
    """An app with cdk.json's context, over which the CDK's command line puts its own.

    So a plain `python app.py` and the tests synthesise what `cdk synth` does.
    """
    context = json.loads((bundling.ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    app = cdk.App(context=context, outdir=outdir, analytics_reporting=False)
    cdk.Validations.of(app).add_plugins(Checks(app))
    return app


def compose(app: cdk.App, settings: Settings) -> None:
    """Adds the stacks of one environment. They name no account and no Region, so they deploy to any."""
    prefix = f"HeartBeat-{settings.environment}"
    storage = Storage(app, f"{prefix}-Storage", settings=settings)
    registry = Registry(app, f"{prefix}-Registry", settings=settings, key=storage.key)
    pipeline = Pipeline(app, f"{prefix}-Pipeline", settings=settings, storage=storage, registry=registry)
    monitoring = Monitoring(app, f"{prefix}-Monitoring", settings=settings, registry=registry, pipeline=pipeline)
    accept_pipeline_findings(pipeline, settings)
    for stack in (storage, registry, pipeline, monitoring):
        stack.termination_protection = settings.termination_protection
        for key, value in settings.all_tags.items():
            stack.add_stack_tag(key, value)
            cdk.Tags.of(stack).add(key, value)


def main() -> None:
    app = make_app()
    try:
        settings = Settings.from_context(app.node, app.node.try_get_context("environment") or "dev")
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    compose(app, settings)
    app.synth()


if __name__ == "__main__":
    main()
