"""The embedded AWS: a development tool that runs the synthesised app on a laptop, over loopback only.

`python -m local_aws` serves it; `local_aws.server.start` is the same as a context manager. It imports nothing
of the project: it knows CloudFormation templates and public AWS APIs.
"""
