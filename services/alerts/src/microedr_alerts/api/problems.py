"""Refusals as problem+json (RFC 9457), each naming the field; nothing of the inside is told."""

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from microedr_alerts.errors import PostgresRejectedError, PostgresUnavailableError, ProblemError

_log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` as a problem."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PostgresUnavailableError, _unavailable)
    app.add_exception_handler(PostgresRejectedError, _rejected)
    app.add_exception_handler(Exception, _failed)


def problem_response(error: ProblemError) -> JSONResponse:
    """``error`` as an answer."""
    content = {"type": "about:blank", "title": error.status.phrase, "status": error.status, "detail": error.detail}
    errors = [{"field": name, "detail": detail} for name, detail in error.fields]
    return JSONResponse(
        {**content, "errors": errors}, status_code=error.status, headers=error.headers, media_type=MEDIA_TYPE
    )


async def _problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)  # noqa: S101 - for the type checker; Starlette picks by class
    return problem_response(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    fields = [(_field(complaint["loc"]), complaint["msg"]) for complaint in error.errors()]
    named = ", ".join(dict.fromkeys(name for name, _ in fields))
    return problem_response(ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"wrong: {named}", fields=fields))


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    status = HTTPStatus(error.status_code)
    return problem_response(ProblemError(status, str(error.detail), headers=error.headers))


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    _log.warning("request_failed_without_postgres", error=str(error))
    return problem_response(
        ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the database is away; try again",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )
    )


async def _rejected(_request: Request, error: Exception) -> JSONResponse:
    _log.warning("request_rejected_by_postgres", error=str(error))
    return problem_response(ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "a value cannot be stored"))


async def _failed(_request: Request, _error: Exception) -> JSONResponse:
    # Starlette raises it again after this answer, and uvicorn logs it.
    return problem_response(
        ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong here; the log says what")
    )


def _field(location: tuple[int | str, ...]) -> str:
    inside = [str(part) for part in location if part not in {"query", "body", "path", "header"}]
    return ".".join(inside) or str(location[0])
