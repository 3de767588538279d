"""The API as the command line sees it: where it is, and one call at a time."""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from microedr_standalone.errors import ApiError, UsageError
from microedr_standalone.state import StateDir, default_state_dir

TIMEOUT_S = 10.0
PAGE_ITEMS = 200

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is and what it takes to be let in."""

    url: str
    token: str
    ca_file: Path | None


def find_endpoint(state_dir: Path | None) -> Endpoint:
    """From MICROEDR_API_URL and its like, otherwise from the state directory of a running system.

    Raises:
        UsageError: Neither says where the API is; or the token file cannot be read.
    """
    url = os.environ.get("MICROEDR_API_URL")
    token_file = os.environ.get("MICROEDR_API_TOKEN_FILE")
    ca_file = os.environ.get("MICROEDR_CA_FILE")
    if not (url and token_file):
        running = _running(state_dir or default_state_dir())
        url = url or str(running["api_url"])
        token_file = token_file or str(running["api_token_file"])
        ca_file = ca_file or str(running["ca_file"])
    try:
        token = Path(token_file).read_text().strip()
    except OSError as error:
        raise UsageError(f"MICROEDR_API_TOKEN_FILE: {token_file}: {error.strerror}") from error
    return Endpoint(url.rstrip("/"), token, Path(ca_file) if ca_file else None)


def running_system(state_dir: Path | None) -> Json:
    """What the running system said of itself: the content of its ready file."""
    return _running(state_dir or default_state_dir())


def _running(state_dir: Path) -> Json:
    path = StateDir(state_dir).endpoints
    try:
        content: Json = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(
            f"no microedr runs on {state_dir}: start it with 'microedr up', or set MICROEDR_API_URL, "
            "MICROEDR_API_TOKEN_FILE and MICROEDR_CA_FILE"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    return content


class Client:
    """A connection to the API. Use it as a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            trust = ssl.create_default_context(cafile=str(endpoint.ca_file) if endpoint.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"MICROEDR_CA_FILE: {endpoint.ca_file}: {error}") from error
        self._http = httpx.Client(
            base_url=endpoint.url,
            headers={"Authorization": f"Bearer {endpoint.token}"},
            verify=trust,
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Json:
        """GET ``path``.

        Raises:
            ApiError: The API said no, or could not be reached.
        """
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """POST ``body`` as JSON; errors as ``get``."""
        return self._call("POST", path, json=dict(body or {}))

    def items(self, path: str, params: Mapping[str, str | int], limit: int) -> Iterator[Json]:
        """The first ``limit`` items of a list, over as many pages as it takes."""
        cursor: str | None = None
        while limit > 0:
            page = self.get(path, {**params, "limit": min(limit, PAGE_ITEMS), **({"cursor": cursor} if cursor else {})})
            yield from page["items"][:limit]
            limit -= len(page["items"])
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ApiError(f"{self._http.base_url}: {error or type(error).__name__}") from error
        if response.is_error:
            raise ApiError(_problem(response))
        content: Json = response.json()
        return content


def _problem(response: httpx.Response) -> str:
    """One line out of a problem document (RFC 9457), or what there is."""
    try:
        problem = response.json()
        text = problem.get("detail") or problem.get("title") or response.reason_phrase
    except (ValueError, AttributeError):
        text = response.reason_phrase
    return f"{response.request.method} {response.request.url.path}: {response.status_code} {text}"
