"""A PostgreSQL server on loopback, of the Debian package, in a folder of its own."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

PASSWORD = "a:b/c@d"
"""With what has to be escaped in a URL."""


def binaries() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are, or None."""
    found = [*glob.glob("/usr/lib/postgresql/*/bin"), os.path.dirname(shutil.which("initdb") or "")]  # noqa: PTH207, PTH120
    return next((Path(folder) for folder in found if folder and (Path(folder) / "initdb").exists()), None)


class PostgresServer:
    """A server with a user ``autoq``, who has a password, and a database ``studies``."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None
        self._binaries = folder
        self._user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
        self._folder = Path(tempfile.mkdtemp(prefix="autoq-postgres-"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = self._folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        data = str(self._folder / "data")
        self._call("initdb", "-D", data, "-U", "autoq", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        self.start()
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        command = [str(folder / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "autoq", "studies"]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    def url(self, password: str = "a%3Ab%2Fc%40d") -> str:
        return f"postgresql://autoq:{password}@127.0.0.1:{self.port}/studies"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        self._call(
            "pg_ctl", "-D", str(self._folder / "data"), "-w", "-l", str(self._folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop at once, as if it had crashed."""
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, user=self._user, cwd="/", stdout=subprocess.DEVNULL)
