"""/docs: the API described on one page made from openapi.json, without scripts and without the internet."""

import html
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;background:#8881;padding:.1em .3em;border-radius:3px}
section{border-top:1px solid #8885;padding:.5rem 0 1rem}h2{font-size:1.05rem}table{border-collapse:collapse}
td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}b{text-transform:uppercase}
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(render(request.app.openapi()))


def render(schema: dict[str, Any]) -> str:
    """``schema`` (OpenAPI 3.1) as a page of HTML."""
    operations = "".join(
        _operation(verb, path, operation, schema)
        for path, verbs in schema["paths"].items()
        for verb, operation in verbs.items()
    )
    models = "".join(_model(name, model) for name, model in schema.get("components", {}).get("schemas", {}).items())
    info = schema["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_esc(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{_esc(info['title'])} {_esc(info['version'])}</h1><p>{_esc(info.get('description', ''))}</p>"
        f"<p>For programs: <a href=/openapi.json>openapi.json</a></p>{operations}<h1>Objects</h1>{models}</html>"
    )


def _operation(verb: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_esc(p['name'])}</code><td>{p['in']}<td>{_kind(p.get('schema', {}))}"
        f"<td>{_esc(p.get('description') or p.get('schema', {}).get('description', ''))}"
        for p in operation.get("parameters", [])
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = "".join(
        f"<tr><td><code>{code}</code><td>{_esc(answer.get('description', ''))}<td>"
        + " ".join(_kind(content.get("schema", {})) for content in answer.get("content", {}).values())
        for code, answer in operation.get("responses", {}).items()
    )
    lock = "" if operation.get("security") or schema.get("security") else " <small>(no token needed)</small>"
    return (
        f"<section><h2><b>{verb}</b> <code>{_esc(path)}</code>{lock}</h2>"
        f"<p>{_esc(operation.get('description', ''))}</p>"
        + (f"<table>{rows}</table>" if rows else "")
        + (f"<p>Body: {_kind(body)}</p>" if body else "")
        + f"<table>{answers}</table></section>"
    )


def _model(name: str, model: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_esc(field)}</code><td>{_kind(kind)}<td>{_esc(kind.get('description', ''))}"
        for field, kind in model.get("properties", {}).items()
    )
    return (
        f"<section id='{_esc(name)}'><h2>{_esc(name)}</h2><p>{_esc(model.get('description', ''))}</p>"
        f"<table>{rows}</table></section>"
    )


def _kind(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = _esc(kind["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in kind:
        return " or ".join(_kind(choice) for choice in kind["anyOf"])
    if "enum" in kind:
        return " | ".join(f"<code>{_esc(str(value))}</code>" for value in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {_kind(kind.get('items', {}))}"
    return _esc(str(kind.get("const") or kind.get("format") or kind.get("type", "")))


def _esc(text: str) -> str:
    return html.escape(text, quote=True)
