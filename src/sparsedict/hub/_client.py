"""Lazy import of ``huggingface_hub``, and conversion of its errors to errors with remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsedict.hub._address import HubAddress
from sparsedict.storage import installed_version


def library() -> Any:
    """Imports ``huggingface_hub``.

    Raises:
        ImportError: If the package isn't installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            "The hub needs the package huggingface_hub: `pip install sparsedict[hf]`.", name="huggingface_hub"
        ) from error
    return huggingface_hub


def client() -> Any:
    """Returns a client that identifies this library."""
    return library().HfApi(library_name="sparsedict", library_version=installed_version())


@contextmanager
def converted_errors(address: HubAddress, doing: str) -> Iterator[None]:
    """Context that converts errors of the hub to errors that name the address and the remedy.

    Raises:
        FileNotFoundError: If the repository, its revision or the path in it doesn't exist.
        PermissionError: If the repository is gated or not writable.
        ConnectionError: If the hub can't be reached.
    """
    errors = library().errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{address} is gated. Request access on its page on the hub, then log in by `hf auth login`, or set "
            "HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: there is no repository {address.repository!r} on the hub, or it is private. Check the name. "
            "For a private repository, log in by `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{address}: the repository has no revision {address.revision or 'main'!r}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(address, doing, error) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{address}: the repository has no such path.") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{address} isn't an address on the hub: {error}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"{doing} {address} isn't permitted (HTTP {status}). Log in by `hf auth login`, or set HF_TOKEN to a "
                "token with permission."
            ) from error
        raise ConnectionError(f"{doing} {address} failed with an error of the hub (HTTP {status}): {error}") from error
    except Exception as error:
        # Connection errors come from the HTTP package that this version of huggingface_hub uses.
        if isinstance(error, ConnectionError | TimeoutError) or _is_http_error(error):
            raise _unreachable(address, doing, error) from error
        raise


def _is_http_error(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
        "urllib3",
    )


def _unreachable(address: HubAddress, doing: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"{doing} {address} needs the hub, which can't be reached, and the files aren't in the local cache "
        f"({type(error).__name__}). Check the connection, and that HF_HUB_OFFLINE isn't set."
    )
