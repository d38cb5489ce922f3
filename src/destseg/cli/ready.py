"""Whether the server on this machine takes images: ``python -m destseg.cli.ready [PORT]``.

The health check of a container, where neither curl nor a certificate's name can be counted on: it
asks the loopback address, by HTTP and, where that is not spoken, by HTTPS.  It imports nothing but
the standard library, as it runs every few seconds.
"""

from __future__ import annotations

import http.client
import ssl
import sys

SECONDS = 2.0


def is_ready(port: int) -> bool:
    """Return whether ``/readyz`` of the loopback address answers 200, with or without TLS.

    Args:
        port: that the server listens at.
    """
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    # The certificate is for the clients' name of this machine; the loopback leads nowhere else.
    unverified.verify_mode = ssl.CERT_NONE
    for connection in (
        # HTTP first: a server with TLS closes it silently, one without would log what TLS says.
        http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS),
        http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=unverified),
    ):
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(sys.argv[1]) if len(sys.argv) > 1 else 8080) else 1)
