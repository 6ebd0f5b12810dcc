"""The server of an object store that the environment names: whether it answers."""

from __future__ import annotations

import functools
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request

from factory.core.proxies import without_password
from osasis.errors import UserError

# pyarrow waits minutes for a server that accepts connections and never answers.
ANSWER_SECONDS = 10.0
# For this long a server that does not answer is not asked again by this process.
REMEMBER_SECONDS = 60.0
S3_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


class EndpointError(UserError):
    """No server answers where a variable says that the object store is."""


def check_endpoint(scheme: str) -> None:
    """Raise EndpointError where the server of a URI's scheme is one that does not answer."""
    variable = next((name for name in S3_VARIABLES if os.environ.get(name)), None)
    if scheme.lower() != "s3" or variable is None:
        return
    url = without_password(os.environ[variable])
    if problem := _problem(url, int(time.monotonic() / REMEMBER_SECONDS)):
        raise EndpointError(
            f"{variable} is {url}: no object store answers there ({problem}); "
            "start it, correct the variable, or unset it"
        )


@functools.lru_cache(maxsize=64)
def _problem(url: str, period: int) -> str:
    """Why nothing answers at a URL; "" where any HTTP answer comes. period: counts time."""
    # Whether a certificate is trusted is pyarrow's decision, with the certificates that it knows.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        opener.open(url, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException, ValueError) as e:
        reason = getattr(e, "reason", e)
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return str(text).lower()
    return ""
