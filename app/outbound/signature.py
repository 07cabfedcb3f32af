"""Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`, one for each secret that is valid. Source: standardwebhooks.com, 1.0.0."""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable

SECRET_BYTES = 32  # the specification asks for 24 to 64
PREFIX = "whsec_"


def new_secret() -> bytes:
    """Return a fresh secret."""
    return os.urandom(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """Return a secret as its receiver is given it."""
    return PREFIX + base64.b64encode(secret).decode()


def signed_headers(message_id: str, timestamp: int, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    """Return the headers of a delivery; during a rotation it carries a signature under each secret."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = ["v1," + base64.b64encode(hmac.digest(s, content, hashlib.sha256)).decode() for s in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "ipt-webhooks/1",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
