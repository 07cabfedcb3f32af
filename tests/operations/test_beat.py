"""What a worker says of itself once a minute: that it lives, and which jobs do not come round."""

import asyncio
from types import SimpleNamespace

from app import worker


def test_a_worker_says_that_it_lives_and_which_job_stands_still(monkeypatch):
    monkeypatch.setattr(worker, "BEAT_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(worker, "_rounds", {})
    beats = []
    monkeypatch.setattr(worker, "log", SimpleNamespace(info=lambda event, **said: beats.append((event, said["late"]))))

    async def done():
        stop, hangs = asyncio.Event(), asyncio.Event()

        async def goes():
            return 0

        async def stands():
            await hangs.wait()
            return 0

        jobs = [worker._every(0.01, stop, "goes", goes), worker._every(0.01, stop, "stands", stands), worker._beat(stop)]
        together = asyncio.gather(*jobs)
        await asyncio.sleep(0.5)
        stop.set()
        hangs.set()
        await together

    asyncio.run(done())
    assert beats[0] == ("alive", [])
    assert beats[-1] == ("alive", ["stands"])
