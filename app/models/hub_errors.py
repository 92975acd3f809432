"""Words the reasons why the hub gave no answer, and the remedies."""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
GOES_ON = "What has arrived is kept: the next run goes on from there."


def reason(error: BaseException, revision: str | None = None) -> str:
    """Returns the reason as half of a sentence, for any exception of the hub's library."""
    from httpx2 import TransportError
    from huggingface_hub import errors

    cause = _cause(error)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    if isinstance(cause, errors.GatedRepoError):
        return "the hub shows it to those only who may use it (HF_TOKEN)"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return "the hub has no such model, or asks for a login (HF_TOKEN)"
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"on the hub it has no revision '{revision}'"
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return "on the hub it has no such file"
    if isinstance(cause, errors.HfHubHTTPError):
        return f"the hub answers with an error ({cause.response.status_code})"
    if isinstance(cause, TransportError):
        return f"the hub does not answer ({type(cause).__name__})"
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        return "the disk that holds the hub's cache is full"
    if isinstance(cause, errors.SafetensorsParsingError | ValueError | TypeError | AttributeError):
        return "what the hub has of it cannot be read"
    return f"the hub does not answer ({type(cause).__name__})"


def advice(error: BaseException, model: str) -> str:
    """Returns what to do next."""
    from huggingface_hub import constants, errors

    cause = _cause(error)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return f"Unset it, or put the model into a models folder (DW_MODELS) as {model}."
    if isinstance(cause, errors.GatedRepoError):
        return (
            f"Accept its licence at {constants.ENDPOINT}/{model} and start with the access token of"
            " your account in HF_TOKEN."
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return "Check the name; for a private model set HF_TOKEN to an access token."
    if isinstance(cause, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError):
        return "Check the names in the workflow against the model's page on the hub."
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        return f"Make room there, or set HF_HOME to a folder of another disk. {GOES_ON}"
    return f"Check the network. {GOES_ON}"


def _cause(error: BaseException) -> BaseException:
    """Returns the cause: the hub's library raises "not in the cache" from the real failure."""
    from huggingface_hub import errors

    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error
