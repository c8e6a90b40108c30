"""`pgque worker`: a supervisor and its processes, as a user runs them."""

import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from pgque.cli.app import run
from pgque.ticker import LEADER
from tests.fix_cli import CHECKOUT, command, environment
from tests.fix_engine import send, value
from tests.running import PATIENCE, eventually

SHOP = """
import os, signal, time
from pathlib import Path

import pgque

DSN, QUEUE = os.environ["PGQUE_DSN"], os.environ["QUEUE"]
CODE = "old"
options = dict(queue=QUEUE, max_messages=1, retry_after=0, poll_interval=1)
group = pgque.Consumer(DSN, name="group", subconsumer="web", **options)
alone = pgque.Consumer(DSN, name="alone", **options)
stranger = pgque.Consumer(DSN, name="stranger", **options)
ticker = pgque.Ticker(DSN)

def wait_for(*names):
    while not all(map(os.path.exists, names)):
        time.sleep(0.01)

def meet(message):
    Path(f"met-{os.getpid()}").touch()
    while len(list(Path().glob("met-*"))) < 2:
        time.sleep(0.01)

def die_once(message):
    if not os.path.exists("died"):
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

def wait(message):
    Path("entered").write_text(str(os.getpid()))
    wait_for("go")

for consumer in group, alone:
    @consumer.on("*")
    def handle(message, client):
        {"meet": meet, "die": die_once, "wait": wait}.get(message.payload, len)(message.payload)
        client.conn.execute(
            "insert into handled values (%s, %s, %s)", [message.payload, os.getpid(), CODE]
        )
"""


TAKE_TERMINAL = """
import fcntl, os, sys, termios
terminal, *command = sys.argv[1:]
fcntl.ioctl(int(terminal), termios.TIOCSCTTY, 0)
os.close(int(terminal))
os.execv(command[0], command)
"""


class Worker:
    """A worker that runs in a folder, and its log."""

    def __init__(
        self, folder: Path, *arguments: str, terminal: int | None = None, **more: str
    ) -> None:
        launcher = [] if terminal is None else [sys.executable, "-c", TAKE_TERMINAL, str(terminal)]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, *command("worker", *arguments)],
                cwd=folder,
                env=environment(PYTHONPATH=str(CHECKOUT), PYTHONDONTWRITEBYTECODE="1", **more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=terminal is not None,
                pass_fds=() if terminal is None else (terminal,),
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.log.count(text) >= times or self.process.poll(), text)
        assert self.log.count(text) >= times, self.log

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, status: int = 0) -> str:
        assert self.process.wait(PATIENCE) == status, self.log
        assert "Traceback" not in self.log
        return self.log

    def pids(self) -> list[int]:
        return [int(line.rpartition(" ")[2]) for line in self.log.splitlines() if "starts:" in line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def worker(folder, direct_dsn, queue, autoconn):
    autoconn.execute("create table handled (payload text, pid int, code text)")
    autoconn.execute("select pgque.subscribe(%s, 'alone')", [queue])
    autoconn.execute("select pgque.subscribe_subconsumer(%s, 'group', 'founder')", [queue])
    started = []

    def start(*arguments: str, **more) -> Worker:
        more = {"PGQUE_DSN": direct_dsn, "QUEUE": queue, **more}
        started.append(Worker(folder, *arguments, **more))
        return started[-1]

    yield start
    for one in started:
        for pid in one.pids():
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


@pytest.fixture
def handled(autoconn):
    def handled(payload: str, column: str = "pid") -> list:
        query = f"select {column} from handled where payload = %s"
        return [found for (found,) in autoconn.execute(query, [payload])]

    return handled


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def rewrite(module: Path, old: str, new: str) -> None:
    module.write_text(module.read_text().replace(old, new))


def test_processes_join_one_group_and_only_one_of_them_ticks(
    worker, autoconn, queue, handled, folder
):
    one = worker("shop:group", "--processes", "2")
    send(autoconn, queue, "meet")
    send(autoconn, queue, "meet")
    eventually(lambda: len(set(handled("meet"))) == 2)  # each waits for the other
    assert sorted(handled("meet")) == sorted(one.pids())
    names = (
        "select array_agg(consumer_name) from pgque.get_consumer_info() where consumer_name ~ '-'"
    )
    assert sorted(value(autoconn, names)) == ["group.web-1", "group.web-2"]
    assert len(autoconn.execute(LEADER).fetchall()) == 1
    sessions = (
        "select count(*) from pg_stat_activity where application_name = 'pgque shop:group-2' "
        "and datname = current_database()"
    )
    eventually(lambda: value(autoconn, sessions) == 2)  # those of the consumer and its ticker
    one.signal(signal.SIGINT)
    assert "INFO shop:group-1 starts: " in one.ends()


def test_without_a_group_the_other_processes_stand_by(worker, autoconn, queue, handled, folder):
    one = worker("shop:alone", "--processes", "2")
    one.says("is no member of a group: while one of its processes works, the others stand by")
    send(autoconn, queue, "wait")
    eventually((folder / "entered").exists)
    one.says("standing by")
    active = int((folder / "entered").read_text())
    os.kill(active, signal.SIGKILL)
    one.says("was killed by SIGKILL; again in")
    (folder / "go").touch()
    eventually(lambda: handled("wait"))
    assert active not in handled("wait")
    one.signal(signal.SIGTERM)
    one.ends()


def test_a_process_that_dies_is_restarted(worker, autoconn, queue, handled):
    one = worker("shop:alone")
    send(autoconn, queue, "die")
    eventually(lambda: handled("die"))
    _, second = one.pids()
    assert handled("die") == [second]
    assert "WARNING shop:alone was killed by SIGKILL; again in" in one.log
    os.kill(second, signal.SIGTERM)  # not by the supervisor
    one.says("shop:alone ended with status 0; again in")
    one.says("starts:", 3)
    one.signal(signal.SIGTERM)
    one.ends()


def test_a_stop_finishes_the_current_message(worker, autoconn, queue, handled, folder):
    one = worker("shop:alone")
    send(autoconn, queue, "wait")
    send(autoconn, queue, "next")
    eventually((folder / "entered").exists)
    one.signal(signal.SIGTERM)
    one.says("stopping after the messages that are handled")
    (folder / "go").touch()
    one.ends()
    assert len(handled("wait")) == 1
    assert not handled("next")


@pytest.mark.parametrize("how", ["second signal", "grace"])
def test_a_stop_kills_a_process_after_the_grace_period(
    worker, autoconn, queue, handled, folder, how
):
    one = worker("shop:alone", "--grace", "0.1" if how == "grace" else "300")
    send(autoconn, queue, "wait")
    eventually((folder / "entered").exists)
    one.signal(signal.SIGTERM)
    one.says("stopping")
    if how == "grace":
        one.says("shop:alone did not end within 0.1 s, and is killed")
    else:
        one.signal(signal.SIGTERM)
    one.ends()
    assert not handled("wait")
    assert all(map(has_ended, one.pids()))


@pytest.mark.parametrize("finishes", [True, False])
def test_a_killed_supervisor_leaves_no_orphans(worker, autoconn, queue, handled, folder, finishes):
    one = worker("shop:alone", "--grace", "300" if finishes else "0.1")
    send(autoconn, queue, "wait")
    send(autoconn, queue, "next")
    eventually((folder / "entered").exists)
    one.signal(signal.SIGKILL)
    one.process.wait()
    if finishes:
        (folder / "go").touch()
    [pid] = one.pids()
    eventually(lambda: has_ended(pid))
    assert len(handled("wait")) == finishes
    assert not handled("next")


def test_sighup_loads_new_code_but_keeps_the_old_if_it_is_broken(
    worker, autoconn, queue, handled, folder
):
    one = worker("shop:alone")
    one.says("starts:")
    rewrite(folder / "shop.py", '"old"', '"new')
    one.signal(signal.SIGHUP)
    one.says("ERROR not reloaded: cannot load shop:alone: SyntaxError: unterminated string")
    send(autoconn, queue, "first")
    eventually(lambda: handled("first", "code") == ["old"])
    rewrite(folder / "shop.py", '"new', '"new"')
    one.signal(signal.SIGHUP)
    one.says("starts:", 2)
    send(autoconn, queue, "second")
    eventually(lambda: handled("second", "code") == ["new"])
    one.signal(signal.SIGTERM)
    one.ends()


def test_closing_the_terminal_stops_the_worker(worker):
    ours, theirs = pty.openpty()
    one = worker("shop:alone", terminal=theirs)
    os.close(theirs)
    one.says("starts:")
    one.signal(signal.SIGHUP)  # while the terminal still exists
    one.says("reloading")
    os.close(ours)
    one.says("stopping")
    one.ends()


def test_a_changed_file_triggers_a_reload(worker, autoconn, queue, handled, folder):
    one = worker("shop:alone", "--reload")
    one.says("watching")
    one.says("starts:")
    rewrite(folder / "shop.py", '"old"', '"new"')
    one.says("changed: shop.py")
    one.says("starts:", 2)
    send(autoconn, queue, "x")
    eventually(lambda: handled("x", "code") == ["new"])
    one.signal(signal.SIGTERM)
    one.ends()


def test_a_target_that_cannot_be_loaded_ends_the_worker_with_status_2(worker):
    for target in ("nowhere:consumer", "shop:nothing"):
        one = worker("shop:alone", target)
        *_, line = one.ends(2).splitlines()
        assert line.startswith("pgque: ")


def test_if_no_process_can_start_the_worker_ends_with_status_1(worker):
    one = worker("shop:stranger", "--processes", "2")
    *_, line = one.ends(1).splitlines()
    assert line.startswith("pgque: Not subscriber to queue")
    one = worker("shop:alone", PGQUE_DSN="host=/nowhere")
    *_, line = one.ends(1).splitlines()
    assert line.startswith("pgque: connection is bad")


def test_a_process_that_cannot_start_does_not_stop_the_others(worker, autoconn, queue, handled):
    one = worker("shop:stranger", "shop:alone", "shop:ticker")
    one.says("shop:stranger failed: ")
    one.says("shop:ticker starts: a ticker")
    send(autoconn, queue, "x")
    eventually(lambda: handled("x"))
    autoconn.execute("select pgque.subscribe(%s, 'stranger')", [queue])
    one.signal(signal.SIGTERM)
    one.ends()


def test_a_missing_watchfiles_names_the_reload_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert run(["worker", "shop:alone", "--reload"]) == 1
    assert capsys.readouterr().err == "pgque: watchfiles is missing: pip install 'pgque[reload]'\n"


def test_killing_a_process_also_kills_the_children_of_its_handlers():
    ours, theirs = socket.socketpair()
    script = """
        import subprocess, sys, time
        from types import SimpleNamespace
        from pgque.worker.child import Link

        link = Link(int(sys.argv[1]), grace=0.1)
        link.stop_with_supervisor(SimpleNamespace(stop=lambda: None))
        print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(theirs.fileno())],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )
    with ours, theirs, process:
        assert process.stdout is not None
        grandchild = process.stdout.readline()
        theirs.close()
        ours.close()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: has_ended(int(grandchild)))
