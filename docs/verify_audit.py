"""Check your audit trail with nothing of ours: python3 verify_audit.py https://api.example client_id secret. Needs httpx and cryptography."""

import base64
import hashlib
import json
import sys

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

url, client_id, secret = sys.argv[1:4]
form = {"grant_type": "client_credentials", "scope": "audit:read"}
token = httpx.post(f"{url}/oauth/token", data=form, auth=(client_id, secret)).json()["access_token"]
http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def pages(path):
    page = http.get(path).raise_for_status().json()
    yield from page["items"]
    while page["next"]:
        page = http.get(f"{path}&cursor={page['next']}").raise_for_status().json()
        yield from page["items"]


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def root_of(level):
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2])]
        level = paired + level[len(paired) * 2 :]
    return level[0]


keys = {k["kid"]: k for k in http.get("/v1/audit/keys").raise_for_status().json()["keys"]}
previous, number, events = "00" * 32, 0, 0
for seal in pages("/v1/audit/seals?limit=1000"):
    head, claims, signature = seal["signature"].split(".")
    key, raw = keys[json.loads(unb64(head))["kid"]], unb64(signature)
    point = ec.EllipticCurvePublicNumbers(int.from_bytes(unb64(key["x"])), int.from_bytes(unb64(key["y"])), ec.SECP256R1()).public_key()
    der = utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    point.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))  # raises when it does not hold
    said, number = json.loads(unb64(claims)), number + 1
    under = sorted(pages(f"/v1/audit-events?limit=1000&seal={number}"), key=lambda e: e["id"])
    hashed = [{name: value for name, value in e.items() if name not in ("seal", "forged")} for e in under]
    spelled = [json.dumps(e, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() for e in hashed]
    leaves = [hashlib.sha256(b"\x00" + text).digest() for text in spelled]
    expected = {"partner": client_id.split(".")[0], "number": number, "count": len(leaves), "root": root_of(leaves).hex(), "previous": previous}
    if any(said[name] != value for name, value in expected.items()):
        sys.exit(f"Seal {number} does not hold.")
    previous, events = hashlib.sha256(seal["signature"].encode()).hexdigest(), events + len(leaves)
print(f"{number} seals over {events} events hold. Keep the newest: {seal['signature'] if number else None}")
