"""The embedded server: it starts anywhere, keeps its data, and never outlives its owner."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

import pgque
from pgque.embedded import EmbeddedError, Server, binaries
from tests.fix_server import temporary_in
from tests.running import PATIENCE, eventually

CHECKOUT = Path(pgque.__file__).resolve().parent.parent
FAST = {"fsync": "off"}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another account")


@pytest.fixture(scope="module")
def seed() -> Iterator[Path]:
    """A data folder with an initialized cluster; initdb takes most of the time."""
    with tempfile.TemporaryDirectory(prefix="pgque-test-", dir=temporary_in()) as path:
        Path(path).chmod(0o711)
        Server(path, settings=FAST).start().stop()
        yield Path(path)


@pytest.fixture
def made(home: Path, seed: Path) -> Path:
    """The test's own data folder, with a cluster of version 18."""
    subprocess.run(["cp", "-a", seed / "data", home / "data"], check=True)
    return home


def servers_in(folder: Path) -> list[psutil.Process]:
    """All processes of a server in the folder: keeper, server, backends."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query).fetchone()[0]


@pytest.mark.parametrize("version", sorted(binaries.VERSIONS))
def test_every_version_starts(version: int) -> None:
    with Server(version=version, settings=FAST) as server:
        assert ask(server.dsn, "select current_setting('server_version_num')::int / 10000") == (
            version
        )
        done = subprocess.run([server.bin_dir / "psql", "--version"], capture_output=True)
        assert f" {version}." in done.stdout.decode()


def test_a_temporary_folder_is_removed() -> None:
    with Server(settings=FAST) as server:
        folder = server.data_dir
        assert folder.is_dir()
        assert servers_in(folder)
    assert not folder.exists()
    assert not servers_in(folder)
    assert not server.running


def test_settings_reach_the_server() -> None:
    settings = {"fsync": False, "work_mem": "7MB", "max_prepared_transactions": 3}
    with Server(settings=settings) as server, psycopg.connect(server.dsn) as conn:
        shown = [conn.execute(f"show {name}").fetchone()[0] for name in settings]
    assert shown == ["off", "7MB", "3"]


def test_fsync_is_on_by_default(made: Path) -> None:
    with Server(made) as server:
        assert ask(server.dsn, "show fsync") == "on"


def test_data_survive_a_restart(home: Path) -> None:
    with Server(home, version=16, settings=FAST) as server, psycopg.connect(server.dsn) as conn:
        conn.execute("create table kept as select 42 as answer")
    assert not servers_in(home)
    with Server(home, settings=FAST) as server:
        assert ask(server.dsn, "select answer from kept") == 42
        assert ask(server.dsn, "show server_version").startswith("16.")


def test_another_version_than_the_folders_is_refused(home: Path) -> None:
    Server(home, version=16, settings=FAST).start().stop()
    with pytest.raises(EmbeddedError, match="are of PostgreSQL 16, not 18"):
        Server(home, version=18, settings=FAST).start()
    assert not servers_in(home)


def test_start_and_stop_can_be_repeated(made: Path) -> None:
    server = Server(made, settings=FAST)
    server.stop()
    server.start()
    pids = {process.pid for process in servers_in(made)}
    server.start()
    assert {process.pid for process in servers_in(made)} & pids
    server.stop()
    server.stop()
    assert not servers_in(made)


def test_there_is_no_dsn_before_the_start() -> None:
    with pytest.raises(EmbeddedError, match="was not started"):
        _ = Server().dsn


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_temporary_data(mode: str) -> None:
    with Server(settings=FAST) as server:
        dsn = server.dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("create table kept as select 42 as answer")
            server.restart(mode)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("select 1")
        assert server.dsn == dsn
        assert ask(dsn, "select answer from kept") == 42


def test_a_second_server_in_a_folder_says_how_to_connect(made: Path) -> None:
    with Server(made, settings=FAST) as server:
        with pytest.raises(EmbeddedError, match="already runs in") as caught:
            Server(made, settings=FAST).start()
        assert server.dsn in str(caught.value)
        assert ask(server.dsn, "select 1") == 1


def test_many_servers_can_start_at_once_in_a_new_folder(home: Path) -> None:
    def start(_: int) -> Server | None:
        try:
            return Server(home, settings=FAST).start()
        except EmbeddedError as error:
            refusals.append(str(error))
            return None

    refusals: list[str] = []
    with ThreadPoolExecutor(6) as pool:
        started = [server for server in pool.map(start, range(6)) if server]
    assert len(started) == 1
    assert all("already runs" in refusal for refusal in refusals)
    assert ask(started[0].dsn, "select 1") == 1
    started[0].stop()
    assert not servers_in(home)


def test_a_setting_that_postgresql_refuses_is_reported(made: Path) -> None:
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        Server(made, settings={**FAST, "no_such_setting": 1}).start()
    assert not servers_in(made)
    with Server(made, settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(EmbeddedError, match="of version 9: there are 16 and 18"):
        Server(version=9).start()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"pip install 'pgque\[embedded\]'"):
        Server().start()


def test_an_interrupted_initdb_is_repeated(home: Path) -> None:
    (home / "data.unfinished").mkdir()
    (home / "data.unfinished" / "PG_VERSION").write_text("18\n")
    with Server(home, settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1


def test_a_stale_pid_of_another_process_is_ignored(made: Path) -> None:
    """After a crash of the machine the number may belong to any process."""
    with Server(made, settings=FAST):
        lines = (made / "data" / "postmaster.pid").read_text().split("\n")
    lines[0] = str(os.getppid())
    (made / "data" / "postmaster.pid").write_text("\n".join(lines))
    with Server(made, settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1


def test_a_server_that_was_started_by_hand_is_detected(made: Path) -> None:
    with Server(made, settings=FAST) as server:
        pid = int((made / "data" / "postmaster.pid").read_text().split("\n")[0])
        os.rename(made / "lock", made / "lock.gone")
        with pytest.raises(EmbeddedError, match=f"process {pid} runs PostgreSQL"):
            Server(made, settings=FAST).start()
        assert ask(server.dsn, "select 1") == 1


def test_a_path_too_long_for_a_socket_works(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    with Server(deep, settings=FAST) as server:
        socket_dir = Path(psycopg.conninfo.conninfo_to_dict(server.dsn)["host"])
        assert ask(server.dsn, "select 1") == 1
        server.restart()
        assert ask(server.dsn, "select 1") == 1
    assert not socket_dir.exists()


def test_a_folder_that_cannot_be_created_is_reported() -> None:
    with pytest.raises(EmbeddedError, match="cannot make the data folder"):
        Server("/proc/pgque").start()


OWNER = """
import os, signal, sys, time
from pgque.embedded import Server
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it: nohup
if sys.argv[2] == "announce":
    print("starting", flush=True)
server = Server(sys.argv[1], settings={"fsync": "off"}).start()
if sys.argv[2] == "forked":
    child = os.fork() or time.sleep(600)
    print(child, flush=True)
print("running", flush=True)
time.sleep(600)
"""


def owner(home: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home), *(arguments or ["plain"])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=CHECKOUT,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_server_outlives_its_owner(made: Path, number: int) -> None:
    with owner(made) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        process.wait(2 * PATIENCE)
    eventually(lambda: not servers_in(made))
    assert not (made / "data" / "postmaster.pid").exists(), "was not shut down cleanly"


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 0.9])
def test_no_server_outlives_an_owner_killed_while_starting(home: Path, delay: float) -> None:
    with owner(home, "announce") as process:
        assert process.stdout.readline() == "starting\n"
        time.sleep(delay)
        process.kill()
    eventually(lambda: not servers_in(home))
    with Server(home, settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1


def test_a_forked_child_neither_stops_nor_keeps_the_server(made: Path) -> None:
    with owner(made, "forked") as process:
        child = int(process.stdout.readline())
        try:
            process.kill()
            eventually(lambda: not servers_in(made) or servers_in(made) == [psutil.Process(child)])
        finally:
            os.kill(child, signal.SIGKILL)
    assert not (made / "data" / "postmaster.pid").exists()


def test_ctrl_c_stops_the_server_cleanly(made: Path) -> None:
    """A terminal sends it to the whole process group; the server must still stop cleanly."""
    with owner(made, start_new_session=True) as process:
        assert process.stdout.readline() == "running\n"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(2 * PATIENCE)
    eventually(lambda: not servers_in(made))
    assert not (made / "data" / "postmaster.pid").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_keeper_takes_the_server_along(made: Path) -> None:
    server = Server(made, settings=FAST).start()
    keeper = next(p for p in servers_in(made) if "keeper.py" in " ".join(p.cmdline()))
    keeper.kill()
    eventually(lambda: not servers_in(made))
    server.stop()
    with Server(made, settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1


@needs_root
def test_root_runs_postgresql_as_another_account(made: Path) -> None:
    with Server(made, settings=FAST) as server:
        pid = int((made / "data" / "postmaster.pid").read_text().split("\n")[0])
        assert psutil.Process(pid).username() == binaries.ACCOUNT
        assert ask(server.dsn, "select 1") == 1


@needs_root
def test_root_refuses_a_folder_that_postgresql_cannot_enter(home: Path) -> None:
    home.chmod(0o700)
    with pytest.raises(EmbeddedError, match="its own user cannot enter"):
        Server(home / "below", settings=FAST).start()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700, "the folder's permissions were changed"


@needs_root
def test_root_with_a_wheel_that_others_cannot_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = binaries.find_binaries(18)
    closed = home / "closed"
    for part in real.parts():
        shutil.copytree(real.package.parent / part, closed / part)
    closed.chmod(0o700)
    copied = binaries.Binaries(closed / real.package.name, real.install)
    monkeypatch.setattr("pgque.embedded.server.find_binaries", lambda version: copied)
    with Server(settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1
        server.restart()
        assert ask(server.dsn, "select 1") == 1
        pid = int((server.data_dir / "data" / "postmaster.pid").read_text().split("\n")[0])
        private = Path(psutil.Process(pid).exe())
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700, "the folder's permissions were changed"
    assert not private.exists()


@needs_root
def test_root_with_a_temporary_folder_that_others_cannot_enter(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with Server(settings=FAST) as server:
        assert ask(server.dsn, "select 1") == 1
        assert closed not in server.data_dir.parents
    with Server(settings=FAST, temporary_in=closed) as server:
        assert ask(server.dsn, "select 1") == 1
    assert list(closed.iterdir()) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700, "the folder's permissions were changed"
