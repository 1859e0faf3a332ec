"""Prints every route of the API server as JSON, [[method, path], ...]; runs inside its container.

The applications themselves are asked, since their OpenAPI documents leave routes out.
"""

import json
from collections.abc import Iterator
from typing import Any

from airflow.api_fastapi.app import create_app


def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of each route of an application and of those that it mounts."""
    if hasattr(app, "url_map"):  # Flask
        for rule in app.url_map.iter_rules():
            yield from ((method, prefix + rule.rule) for method in rule.methods)
        return
    found = list(getattr(app, "routes", ()))
    if hasattr(app, "_cadwyn_initialize"):  # the execution API, in versions
        app._cadwyn_initialize()
        found += app.router.unversioned_routes
        found += [route for router in app.router.versioned_routers.values() for route in router.routes]
    for route in found:
        inner: Any = getattr(route, "app", None)
        if hasattr(route, "methods"):
            yield from ((method, prefix + route.path) for method in route.methods or ["GET"])
        elif hasattr(inner, "routes"):
            yield from routes(inner, prefix + route.path)
        elif hasattr(inner, "app"):  # a WSGI application in its wrapper
            yield from routes(inner.app, prefix + route.path)


print(json.dumps(sorted(set(routes(create_app())))))
