"""What a person did wrong, or has to know, in one clear line instead of a traceback."""

from __future__ import annotations

import os


class UserError(Exception):
    """A mistake that the user can mend; the text says how. Exit status 2."""


class Failed(Exception):  # noqa: N818 (an outcome, not a mistake)
    """What was asked for did not come about, through no mistake of the command line's. Exit status 1."""


def explain(error: Exception) -> str | None:
    """One line for an error of the AWS client; None for one that is not its."""
    # Only where botocore was used can the error be its own: no need to import it to find out.
    from botocore import exceptions

    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return (
            "no AWS credentials were found; sign in (`aws configure sso`, then `export AWS_PROFILE=…`), or try"
            " `make demo`, which needs no account"
        )
    if isinstance(error, exceptions.ProfileNotFound):
        return f"{error}; `aws configure list-profiles` shows those that there are"
    if isinstance(error, exceptions.NoRegionError):
        return "no AWS Region is set; `export AWS_REGION=us-east-1`, or the Region that you deployed to"
    if isinstance(error, exceptions.TokenRetrievalError | exceptions.SSOTokenLoadError):
        return f"the AWS sign-in has expired ({error}); run `aws sso login`"
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectionError):
        hint = "is the demo still running? `make demo KEEP=1` starts one" if endpoint else "check the network"
        return f"{endpoint or 'AWS'} cannot be reached ({error}); {hint}"
    if isinstance(error, exceptions.ClientError):
        return _of_service(error.response["Error"], error.operation_name)
    return str(error) if isinstance(error, exceptions.BotoCoreError) else None


_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN_KEY = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def _of_service(error: dict[str, str], operation: str) -> str:
    code, message = error.get("Code", ""), error.get("Message", "")
    if code in _EXPIRED:
        return "the AWS credentials have expired; sign in again (`aws sso login`)"
    if code in _UNKNOWN_KEY:
        return f"AWS does not know these credentials ({code}); check AWS_PROFILE and the AWS_… variables"
    if "AccessDenied" in code or code == "AuthorizationError":
        return f"AWS denied {operation}: {message}; use credentials that may do this"
    return f"AWS answered {operation} with {code}: {message}"
