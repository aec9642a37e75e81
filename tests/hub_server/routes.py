"""The table of the loopback Hub's routes, and the pieces that their patterns are made of.

@route("GET", f"{REPOSITORY}/refs")
def refs(request, kind, name): ...      # `request` is server.py's handler; groups of the pattern follow by name
"""

import re
from urllib.parse import unquote

KIND, NAME = r"(?P<kind>models|datasets)", r"(?P<name>[\w\-.]+/[\w\-.]+?)"
REVISION, SHA256 = r"(?P<revision>[^/]+)", r"(?P<sha256>[0-9a-f]{64})"
REPOSITORY = f"/api/{KIND}/{NAME}"
PAGE = f"/(?:(?P<kind>datasets)/)?{NAME}"  # models have no prefix here
ROUTES = []


def route(methods, pattern):
    def register(function):
        ROUTES.append((methods.split(), re.compile(pattern), function))
        return function

    return register


def find_route(method, path):
    """(function, arguments), or None."""
    for methods, pattern, function in ROUTES:
        match = pattern.fullmatch(path)
        if match and method in methods:
            groups = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
            if "kind" in groups:
                groups["kind"] = groups["kind"] or "models"
            return function, groups
    return None
