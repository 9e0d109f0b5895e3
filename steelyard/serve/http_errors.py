"""Failures as HTTP: a status and OpenAI's error object, `{"error": {"message", "type", "param", "code"}}`, for every one of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHttpException

from steelyard.core.errors import BusyError, ContextLengthError, SteelyardError

if TYPE_CHECKING:
    from steelyard.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

STORE, LEVERS = "store_unavailable", "steelyard.levers"
INVALID, SERVER = "invalid_request_error", "server_error"
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
PROMPTS = {"/v1/completions": "prompt", "/v1/responses": "input", "/v1/embeddings": "input"}
"""What routes call the text that may be too long; the others call it `messages`."""
CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 429: "rate_limit_exceeded"}


class ApiError(HTTPException):
    """A request that is answered with an error.

    Args:
        message: what was wrong and what to do, for a person.
        status: of HTTP.
        param: the field of the request that is to blame.
        code: for a program.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        message = message.encode("utf-8", "replace").decode("utf-8")  # it may quote half a surrogate pair
        super().__init__(status, message)
        self.message, self.status, self.param, self.code = message, status, param, code


def body_of(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = TYPES.get(error.status, SERVER if error.status >= 500 else INVALID)
    code = error.code or CODES.get(error.status)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def as_api_error(error: Exception, prompt: str = "messages") -> ApiError:
    """What a failure of any kind is to a client. What nobody foresaw is logged in full and told in general.

    Args:
        error: what was raised.
        prompt: what the request calls the text that the model reads.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SteelyardError):
        status, code = _status(error)
        if isinstance(error, ContextLengthError):  # in words that clients look for, as some know this failure by them alone
            told = f"The prompt is longer than the model's context length: {one_line(error)}"
            return ApiError(told, status=status, code=code, param=prompt)
        if code == STORE:  # where it lies is the operator's to know
            logger.error("%s", one_line(error))
            return ApiError(one_line(SteelyardError(error.what, do=error.do)), status=status, code=code)
        asked = LEVERS if (error.where or "").startswith(LEVERS) else None
        return ApiError(one_line(error), status=status, code=code, param=asked)
    logger.error("a request failed", exc_info=error)
    return ApiError("The server failed at this request; its log says why.", status=500, code="internal_error")


def failed(message: str, ready: bool) -> ApiError:
    """An answer that failed after it had begun: the engine's process is gone, or this one answer could not go on."""
    return ApiError(message.replace("\n  ", " "), status=500 if ready else 503, code="answer_failed" if ready else "engine_restarting")


def one_line(error: SteelyardError) -> str:
    """The words of an error, as a program's log shows them: on one line."""
    address = f"{error.where}: " if error.where else ""
    return f"{address}{error.what}. {error.do}" if error.do else f"{address}{error.what}."


def _status(error: SteelyardError) -> tuple[int, str | None]:
    from steelyard.serve.served import EngineFault, EngineGone
    from steelyard.serve.store.errors import NotFoundError, StoreError, TooLargeError

    told: Sequence[tuple[type[SteelyardError], int, str]] = (
        (BusyError, 429, "rate_limit_exceeded"),
        (ContextLengthError, 400, "context_length_exceeded"),
        (EngineGone, 503, "engine_restarting"),
        (EngineFault, 500, "internal_error"),
        (NotFoundError, 404, "not_found"),
        (TooLargeError, 413, "body_too_large"),
        (StoreError, 503, STORE),
    )
    return next(((status, code) for kind, status, code in told if isinstance(error, kind)), (400, None))


def response_of(error: ApiError, retry_seconds: int) -> JSONResponse:
    """The answer to a failed request; where asking again can help, it says when."""
    headers = {"Retry-After": str(retry_seconds)} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body_of(error), status_code=error.status, headers=headers)


def install(app: FastAPI, settings: ServeSettings) -> None:
    """Makes every failure of an app answer in OpenAI's error shape."""

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response_of(of_validation(error.errors(), error.body), settings.retry_seconds)

    def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHttpException)
        message = f"There is no {request.url.path} here." if error.status_code == 404 else str(error.detail)
        if error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}."
        told = response_of(ApiError(message, status=error.status_code), settings.retry_seconds)
        told.headers.update(error.headers or {})
        return told

    def other(request: Request, error: Exception) -> JSONResponse:
        return response_of(as_api_error(error, PROMPTS.get(request.url.path, "messages")), settings.retry_seconds)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(AnyHttpException, http)
    app.add_exception_handler(ApiError, other)
    app.add_exception_handler(SteelyardError, other)
    app.add_exception_handler(Exception, other)


def of_validation(problems: Sequence[Mapping[str, Any]], body: Any = None) -> ApiError:
    """What pydantic found wrong with a request: the first wrong field, and what is wrong with it.

    Of a field that may be of several types every alternative complains; what is said is of the one that came furthest.

    Args:
        problems: as pydantic tells them.
        body: the JSON that was sent: a problem's place also names alternatives, which are no part of it.
    """
    if not problems:
        return ApiError("The request is not valid.")
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = unknown[0] if unknown else max(problems, key=lambda problem: len(problem["loc"]))
    place = _place(problem, body)
    param = ".".join(part for part in place if part.isidentifier() or part.isdigit()) or None
    if problem["type"] == "extra_forbidden":
        return ApiError(f"Unknown field `{param or place[-1][:80]}`: it would have no effect here.", param=param, code="unknown_field")
    if problem["type"] == "missing":
        what = f"`{param}` is missing." if param else "The request has no body: send JSON with `Content-Type: application/json`."
        return ApiError(what, param=param, code="missing_field")
    words = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]
        words = f"`{str(known['tag'])[:80]}` is not known here; known are {known['expected_tags']}"
    if not param:
        return ApiError(f"The body is not as it should be: {words}. Send JSON with `Content-Type: application/json`.")
    return ApiError(f"`{param}`: {words[:1].lower()}{words[1:]}.", param=param, code="invalid_value")


def _place(problem: Mapping[str, Any], body: Any) -> list[str]:
    """Where in a request a problem lies: the keys and numbers that lead there, without the names of alternatives between them."""
    loc = list(problem["loc"])
    if loc[:1] != ["body"]:
        return [str(part) for part in loc if part not in ("query", "path", "header")]
    place, value = [], body
    for number, part in enumerate(loc[1:], 2):
        inside = isinstance(value, dict) and part in value or isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside:
            value = value[part]
        if inside or (number == len(loc) and problem["type"] == "missing"):
            place.append(str(part))
    return place
