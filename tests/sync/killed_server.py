"""A server that kills itself with SIGKILL between COMMIT and reply, as often as a file says; its parent starts it anew.

Arguments: the settings as JSON, and the file with the number of kills that are left.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from app.api import request
from app.config import Settings
from app.main import create_app

DEADLY = ("/v1/sync/push", "/v1/sync/rxdb/{collection}/push", "/v1/sync/watermelon")


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    left = Path(sys.argv[2])
    write_down = request._Flow._write_down

    def die_if_any_are_left():
        number = int(left.read_text())
        if number > 0:
            left.write_text(str(number - 1))
            os.kill(os.getpid(), signal.SIGKILL)

    async def write_down_and_die(self, *arguments):
        await write_down(self, *arguments)
        if self.path in DEADLY:
            die_if_any_are_left()

    request._Flow._write_down = write_down_and_die
    with socket.create_server((settings.host, settings.port), backlog=200) as listening:
        listening.set_inheritable(True)
        while True:
            child = os.fork()
            if child == 0:
                config = uvicorn.Config(create_app(settings), log_level="error", access_log=False)
                uvicorn.Server(config).run(sockets=[listening])
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                return


if __name__ == "__main__":
    main()
