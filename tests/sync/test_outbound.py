"""The guarded client: never to where it must not go, whatever a name or a receiver says."""

import asyncio
import contextlib
import socket
import threading

import pytest

from app.outbound.guarded import AddressRefused, NoAnswer, Outbound, check_public, checked_url

BAD = [
    "ftp://example.com/", "http://example.com/", "https://user:pw@example.com/", "https://example.com/#x", "https://localhost/", "https://intranet/",
    "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://[::1]/", "https://[::]/",
    "https://0.0.0.0/", "https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.1.1/", "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/", "https://[fe80::1]/", "https://[fc00::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[fd00:ec2::254]/", "https://224.0.0.1/", "https://255.255.255.255/",
    "https://192.0.0.192/", "https://168.63.129.16/", "https://[fec0::1]/", "https://[3fff::1]/", "https://192.88.99.1/", "https://198.18.0.1/",
    "https://[2001:4860:4860::5efe:7f00:1]/", "https://[100::1]/", "https://hooks.example.com/ü", "https://hooks.example.com/?q=é",
    "https://exam ple.com/", "https://example.com:99999/", "https:///x", "x", "https://münchen.de/", "https://192.0.2.1/", "https://[ff02::1]/",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_addresses_that_must_not_be_called_are_refused_when_they_are_registered(partner, url):
    with pytest.raises(AddressRefused):
        checked_url(url)
    answer = partner.send("POST", "/v1/webhook-endpoints", {"url": url, "event_types": ["*"]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/url"


def test_public_addresses_are_taken():
    for url in ("https://hooks.example.com/x?y=1", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/", "https://xn--mnchen-3ya.de/"):
        assert checked_url(url).hostname
    for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"):
        check_public(address)
    assert checked_url("http://127.0.0.1:8080/x", ["127.0.0.1:8080"]).port == 8080
    assert checked_url("http://[::1]:8080/x", ["[::1]:8080"]).port == 8080
    with pytest.raises(AddressRefused):
        checked_url("http://127.0.0.1:8081/x", ["127.0.0.1:8080"])


def test_a_name_that_turns_private_after_it_was_registered_is_not_called(receiver, monkeypatch):
    """DNS rebinding: whatever a name resolves to at the moment of the call is judged, all of it, and that very address is called."""
    answers = {"private.example.com": ["127.0.0.1"], "mixed.example.com": ["93.184.216.34", "10.0.0.7"], "meta.example.com": ["169.254.169.254"]}
    real = socket.getaddrinfo
    connected = []

    def resolve(host, port, *more, **options):
        if host in answers:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers[host]]
        return real(host, port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def calls():
        outbound = Outbound(within_seconds=2)
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def watched(sock, address):
            connected.append(address)
            return await connect(sock, address)

        loop.sock_connect = watched
        for host in answers:
            with pytest.raises(AddressRefused):
                await outbound.post(f"https://{host}:{receiver.server_address[1]}/hooks", {}, b"{}")
        await outbound.close()

    asyncio.run(calls())
    assert connected == []
    assert receiver.got == []


def test_the_proxy_of_the_environment_is_not_used_and_redirects_are_not_followed(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    receiver.behave = lambda _: 302

    async def call():
        outbound = Outbound([receiver.host])
        answer = await outbound.post(receiver.address, {}, b"{}")
        await outbound.close()
        return answer.status

    assert asyncio.run(call()) == 302


LIES = {
    "garbage": b"\x00\x01garbage\r\n\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
    "nothing": b"",
    "impossible status": b"HTTP/1.1 9999 OK\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "early hints for ever": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_receiver_that_lies_is_an_attempt_that_failed(lie):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(LIES[lie])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        async def call():
            outbound = Outbound([address], within_seconds=2)
            try:
                await outbound.post(f"http://{address}/x", {}, b"{}")
            finally:
                await outbound.close()

        with pytest.raises(NoAnswer):
            asyncio.run(call())
        thread.join(5)


def test_an_endless_answer_is_read_up_to_a_limit_only():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        sent = []

        def serve():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                    sent.append(65_536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        async def call():
            outbound = Outbound([address], within_seconds=5)
            answer = await outbound.post(f"http://{address}/x", {}, b"{}")
            await outbound.close()
            return answer.status

        assert asyncio.run(call()) == 200
        thread.join(5)
        assert sum(sent) < 50_000_000
