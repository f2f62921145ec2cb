"""``huggingface_hub``, imported when it is first needed, and its errors in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsedict.hub._address import HubAddress
from sparsedict.storage import installed_version


def library() -> Any:
    """Returns the module.

    Raises:
        ImportError: If it isn't installed.
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
    """Returns a client that says who is asking."""
    return library().HfApi(library_name="sparsedict", library_version=installed_version())


@contextmanager
def explained(address: HubAddress, doing: str) -> Iterator[None]:
    """Turns what goes wrong on the hub into an error that names the address and the remedy.

    Raises:
        FileNotFoundError: If the repository, its revision or the path in it isn't there.
        PermissionError: If it is gated, or may not be written.
        ConnectionError: If the hub can't be reached.
    """
    errors = library().errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{address} is gated: ask for access on its page on the hub, then log in by `hf auth login`, or set "
            "HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: there is no repository {address.repository!r} on the hub, or it is private. Check the name; "
            "for a private one, log in by `hf auth login` or set HF_TOKEN."
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
                f"{doing} {address} isn't allowed (HTTP {status}): log in by `hf auth login`, or set HF_TOKEN to a "
                "token that may."
            ) from error
        raise ConnectionError(f"{doing} {address} failed on the hub's side (HTTP {status}): {error}") from error
    except Exception as error:
        # Errors of the connection are those of whichever HTTP package this version of huggingface_hub uses.
        if isinstance(error, ConnectionError | TimeoutError) or _of_http_package(error):
            raise _unreachable(address, doing, error) from error
        raise


def _of_http_package(error: Exception) -> bool:
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
        f"{doing} {address} needs the hub, which can't be reached, and what is asked for isn't in the local cache "
        f"({type(error).__name__}). Check the connection, or that HF_HUB_OFFLINE isn't set."
    )
