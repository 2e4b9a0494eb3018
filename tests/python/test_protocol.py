"""The link: marks, deadlines, fences, bells, credits, the end, and forked children."""

import json
import os
import signal
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path

import front
from front import CREDIT, Front

APP = {"wsgi_app.py": Path(front.__file__).with_name("wsgi_app.py").read_text()}


class Case:
    worker_class = "sync"
    threads = 1

    def start(self, app="wsgi_app:app", files=None, **more):
        more.setdefault("worker_class", self.worker_class)
        more.setdefault("threads", self.threads)
        started = Front(app, files or APP, **more)
        self.addCleanup(started.close)
        return started

    def gate(self):
        """A file for the view `stepwise`, which goes on when it exists."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Path(directory.name) / "go"


class Both(Case):
    """What holds for sync and gthread alike."""

    def test_loaded(self):
        f = self.start()
        interface, worker_class, threads, detail = f.worker.loaded
        self.assertEqual((interface, worker_class), ("wsgi", self.worker_class))
        self.assertEqual(int(threads), self.threads)
        self.assertRegex(detail, r"^\w+ 3\.\d+\.\d+$")

    def test_mark_is_set_while_the_application_runs(self):
        f = self.start()
        ident = f.send("GET", "/sleep", query="0.2")
        f.until(lambda: f.worker.marks() == [ident])
        f.response(ident)
        f.until(lambda: f.worker.marks() == [])

    def test_mark_is_set_while_the_body_is_made(self):
        f = self.start()
        go = self.gate()
        ident = f.send("GET", "/stepwise", query=str(go))
        f.until(lambda: f.responses[ident].body == b"one")
        self.assertEqual(f.worker.marks(), [ident])
        go.touch()
        f.response(ident)
        f.until(lambda: f.worker.marks() == [])

    def test_expired(self):
        f = self.start()
        response = f.response(f.send(deadline=time.monotonic() - 0.001))
        self.assertEqual(response.end, "expired")
        self.assertEqual(len(response.messages), 1)
        f.until(lambda: f.worker.marks() == [])

    def test_expired_while_it_waited(self):
        f = self.start()
        # It has passed when a thread is free again, however late that is.
        deadline = time.monotonic() + 0.1
        slow = [f.send("GET", "/sleep", query="1") for _ in range(self.threads)]
        late = f.send(deadline=deadline)
        self.assertEqual(f.response(late).end, "expired")
        for ident in slow:
            self.assertEqual(f.response(ident).body, b"slept")

    def test_fence(self):
        f = self.start(cores=2)
        f.fence(b"nonce--1", core=1)
        f.fence(b"nonce--0", core=0)
        self.assertTrue(f.worker.wait_for_ring(1))
        f.until(lambda: len(f.fenced) == 2)
        self.assertEqual(sorted(f.fenced), [(0, b"nonce--0"), (1, b"nonce--1")])

    def test_responses_go_to_the_core_of_the_request(self):
        f = self.start(cores=3)
        idents = [f.send(core=core) for core in (2, 0, 1, 2)]
        cores = [f.response(ident).core for ident in idents]
        self.assertEqual(cores, [2, 0, 1, 2])
        for core in range(3):
            self.assertTrue(f.worker.wait_for_ring(core))

    def test_bell_when_the_inbox_is_empty(self):
        f = self.start()
        for _ in range(3):
            f.get()
            self.assertTrue(f.worker.wait_for_ring())

    def test_bell_is_rung_once_for_a_burst(self):
        """Rule (b): no more than once a millisecond while there are requests."""
        f = self.start()
        f.get()
        # Let the worker find all of them waiting.
        os.kill(f.worker.process.pid, signal.SIGSTOP)
        idents = [f.send() for _ in range(100)]
        f.worker.rings()
        began = time.monotonic()
        os.kill(f.worker.process.pid, signal.SIGCONT)
        for ident in idents:
            f.response(ident)
        time.sleep(0.01)
        took = time.monotonic() - began
        self.assertLessEqual(f.worker.rings(), 2 + self.threads + took / 0.001)

    def test_bell_for_a_slow_burst(self):
        """Rule (b): each response that takes longer than a millisecond rings."""
        f = self.start(threads=1)
        f.get()
        os.kill(f.worker.process.pid, signal.SIGSTOP)
        idents = [f.send("GET", "/sleep", query="0.005") for _ in range(5)]
        f.worker.rings()
        os.kill(f.worker.process.pid, signal.SIGCONT)
        for ident in idents:
            f.response(ident)
        f.worker.wait_for_rings(5)

    def test_full_data_socket(self):
        """Rule (c): the worker rings, waits for room, and goes on."""
        f = self.start()
        f.auto_grant = False
        idents = [f.send("GET", "/big", query=str(200_192)) for _ in range(8)]
        self.assertTrue(f.worker.wait_for_ring())
        for ident in idents:
            self.assertEqual(len(f.response(ident).body), 200_192)

    def test_credit(self):
        f = self.start()
        f.auto_grant = False
        ident = f.send("GET", "/big", query=str(1 << 20))
        response = f.responses[ident]
        f.until(lambda: len(response.body) == CREDIT)
        time.sleep(0.05)
        f.pump(0.05)
        self.assertEqual(len(response.body), CREDIT)
        f.tell(3, ident, 1000)
        f.until(lambda: len(response.body) == CREDIT + 1000)
        time.sleep(0.02)
        f.pump(0.02)
        self.assertEqual(len(response.body), CREDIT + 1000)
        f.auto_grant = True
        f.tell(3, ident, 100_000)
        self.assertEqual(len(f.response(ident).body), 1 << 20)

    def test_application_stops_yielding_without_credit(self):
        f = self.start()
        f.auto_grant = False
        ident = f.send("GET", "/endless")
        f.until(lambda: len(f.responses[ident].body) == CREDIT)
        time.sleep(0.1)
        f.pump(0.05)
        self.assertEqual(len(f.responses[ident].body), CREDIT)
        # Unsent parts of its block are given up, too.
        f.tell(2, ident)
        self.assertEqual(f.response(ident).end, "abort")
        made = json.loads(f.get("/calls").body)[0]["endless"]
        self.assertLessEqual(made, CREDIT // 10_000 + 2)

    def test_disconnect_before_the_head_still_ends_once(self):
        f = self.start()
        ident = f.send("GET", "/sleep", query="0.1")
        f.until(lambda: f.worker.marks() == [ident])
        f.tell(2, ident)
        self.assertIn(f.response(ident).end, ("end", "abort"))
        time.sleep(0.05)
        f.pump(0.05)
        self.assertEqual(f.get().body, b"hello")

    def test_disconnect_before_a_stream(self):
        f = self.start()
        f.auto_grant = False
        ident = f.send("GET", "/endless_later")
        f.until(lambda: f.worker.marks() == [ident])
        f.tell(2, ident)
        self.assertEqual(f.response(ident).end, "abort")
        self.assertLessEqual(len(f.responses[ident].body), 10_000)

    def test_late_grants_and_disconnects_are_ignored(self):
        f = self.start()
        ident = f.send()
        f.response(ident)
        for _ in range(3):
            f.tell(3, ident, 10)
            f.tell(2, ident)
            f.tell(2, b"unknown!")
        f.tell(4)
        self.assertEqual(f.get().body, b"hello")

    def test_data_sockets_are_emptied_while_idle(self):
        f = self.start()
        for _ in range(3000):
            while True:
                try:
                    f.worker.data[0].send(
                        front.marshal.dumps((3, b"unknown!", 1), 2), front.DONTWAIT
                    )
                    break
                except BlockingIOError:
                    time.sleep(0.001)
        self.assertEqual(f.get().body, b"hello")

    def test_quit_while_idle(self):
        f = self.start()
        f.get()
        f.worker.quit()
        self.assertEqual(f.worker.wait(), 0)
        self.assertEqual(f.stderr(), "")

    def test_quit_finishes_what_runs(self):
        f = self.start()
        running = [f.send("GET", "/sleep", query="0.3") for _ in range(self.threads)]
        f.until(lambda: len(f.worker.marks()) == self.threads)
        f.worker.quit()
        for ident in running:
            self.assertEqual(f.response(ident).body, b"slept")
        self.assertEqual(f.worker.wait(), 0)

    def test_quit_is_heard_while_there_is_always_a_request(self):
        f = self.start()
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                try:
                    f.near.send(front.marshal.dumps(self.request(f), 2), front.DONTWAIT)
                except BlockingIOError:
                    time.sleep(0.001)
                except OSError:
                    return

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                f.worker.data[0].recv(1 << 20)
            f.worker.quit()
            end = time.monotonic() + front.PATIENCE
            while f.worker.process.poll() is None and time.monotonic() < end:
                try:
                    f.worker.data[0].recv(1 << 20, front.DONTWAIT)
                except (BlockingIOError, ConnectionError):
                    pass
            self.assertEqual(f.worker.process.poll(), 0)
        finally:
            stop.set()
            thread.join()

    @staticmethod
    def request(f):
        values = front.environ("GET", "/", [], "", "1.1", None)
        return (0, 0, f.new_id(), values, b"", time.monotonic() + 2 * front.PATIENCE)

    def test_end_of_control_is_the_end(self):
        f = self.start()
        f.get()
        f.worker.control.close()
        self.assertIsNotNone(f.worker.wait())

    def test_everything_closed_is_the_end(self):
        f = self.start()
        f.get()
        f.near.close()
        f.worker.data[0].close()
        f.worker.control.close()
        self.assertIsNotNone(f.worker.wait())
        self.assertEqual(f.stderr(), "")

    def test_coring_ends_while_a_response_waits_for_credit(self):
        f = self.start()
        f.auto_grant = False
        ident = f.send("GET", "/endless")
        f.until(lambda: len(f.responses[ident].body) == CREDIT)
        f.worker.control.close()
        f.worker.wait()

    def test_a_core_that_ends_does_not_end_the_worker(self):
        f = self.start(cores=2)
        f.get(core=1)
        f.worker.data[1].close()
        f.worker.data[1], other = socket.socketpair()
        self.addCleanup(other.close)
        self.assertEqual(f.get(core=0).body, b"hello")
        # No core takes the response to this one.
        f.near.send(
            front.marshal.dumps(
                (
                    0,
                    1,
                    b"lost----",
                    front.environ("GET", "/", [], "", "1.1", None),
                    b"",
                    time.monotonic() + 2 * front.PATIENCE,
                ),
                2,
            )
        )
        self.assertEqual(f.get(core=0).body, b"hello")

    def test_the_signal_to_reopen_logs_does_not_end_the_worker(self):
        # Not together with the others: faulthandler's stack has no room for five signals.
        f = self.start()
        f.worker.process.send_signal(signal.SIGUSR1)
        self.assertEqual(f.get().body, b"hello")

    def test_signals_for_the_group_do_not_end_the_worker(self):
        f = self.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            f.worker.process.send_signal(number)
        self.assertEqual(f.get().body, b"hello")

    def test_killed_worker_leaves_its_mark_and_the_others_go_on(self):
        f = self.start(workers=2, threads=1)
        slow = f.send("GET", "/sleep", query="60")
        f.until(lambda: any(worker.marks() == [slow] for worker in f.workers))
        victim = next(worker for worker in f.workers if worker.marks())
        queued = [f.send() for _ in range(20)]
        victim.process.kill()
        victim.process.wait()
        self.assertEqual(victim.marks(), [slow])
        for ident in queued:
            self.assertEqual(f.response(ident).body, b"hello")

    def test_finished_responses_survive_a_kill(self):
        f = self.start()
        f.send()
        self.assertTrue(f.worker.wait_for_ring())
        f.worker.process.kill()
        f.worker.process.wait()
        f.until(lambda: f.responses[f.new_id_of(1)].end == "end")

    # Forked children.

    def test_a_child_that_returns_does_not_serve(self):
        f = self.start()
        for how, code in (("return", b"0"), ("exit", b"7"), ("raise", b"1"), ("write", b"0")):
            with self.subTest(how):
                response = f.get("/fork", query=how)
                self.assertEqual((response.body, response.end), (code, "end"))
        self.assertIn("in the child", f.stderr())
        self.assertEqual(f.get().body, b"hello")
        f.until(lambda: f.worker.marks() == [])

    def test_a_grandchild_keeps_its_descriptors(self):
        f = self.start()
        self.assertEqual(f.get("/grandchild").body, b"x" * 8)
        self.assertEqual(f.stderr(), "")

    def test_signals_end_children(self):
        f = self.start()
        for _ in range(20):
            self.assertEqual(f.get("/terminate").body, b"15")
        f.worker.process.send_signal(signal.SIGTERM)
        self.assertEqual(f.get().body, b"hello")

    def test_children_do_not_inherit_the_link(self):
        f = self.start()
        self.assertEqual(f.get("/descriptors").body, b"[0, 1, 2, 3]\n")

    def test_multiprocessing_from_a_view(self):
        f = self.start()
        for method in ("fork", "spawn", "forkserver"):
            with self.subTest(method):
                self.assertEqual(f.get("/spawn", query=method).body, b"120")

    # Fragilities of shared descriptions.

    def shared_fds(self, f, kind):
        """The numbers of a worker's descriptors: they are those of this process."""
        pid = f.worker.process.pid
        inode = os.fstat({"shared": f.far, "data": f.worker.data[0]}[kind].fileno()).st_ino
        links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        return next(fd for fd, link in links.items() if link == f"socket:[{inode}]")

    def test_flags_of_the_shared_description(self):
        """Another process may set O_NONBLOCK, or clear it: nothing changes."""
        f = self.start()
        for _ in range(2):
            f.far.setblocking(False)
            self.assertEqual(f.get().body, b"hello")
            f.far.settimeout(0.01)
            time.sleep(0.05)
            self.assertEqual(f.get().body, b"hello")
            f.far.setblocking(True)
            self.assertEqual(f.get().body, b"hello")
        cpu = sum(f.worker_times())
        f.far.setblocking(False)
        time.sleep(0.3)
        self.assertLess(sum(f.worker_times()) - cpu, 0.1)

    def test_flags_set_by_the_application(self):
        f = self.start()
        fd = self.shared_fds(f, "shared")
        for how in ("timeout", "nonblocking", "blocking"):
            self.assertEqual(f.get("/shut", query=f"{how}={fd}").body, b"done")
            self.assertEqual(f.get().body, b"hello")

    def test_shutdown_of_the_shared_end(self):
        """One process shuts it for all: each worker tells the supervisor, and ends."""
        f = self.start(workers=2)
        fd = self.shared_fds(f, "shared")
        self.assertEqual(f.get("/shut", query=f"shutdown={fd}").body, b"done")
        with self.assertRaises(BrokenPipeError):
            while True:
                f.near.send(b"")
                time.sleep(0.01)
        for worker in f.workers:
            self.assertEqual(worker.wait(), 0)
            self.assertEqual(worker.control.recv(4096), b"shut")

    def test_shutdown_with_requests_that_run(self):
        f = self.start(threads=max(self.threads, 1))
        running = f.send("GET", "/sleep", query="0.3")
        f.until(lambda: f.worker.marks() == [running])
        f.far.shutdown(socket.SHUT_RDWR)
        self.assertEqual(f.response(running).body, b"slept")
        self.assertEqual(f.worker.wait(), 0)

    def test_a_closed_descriptor_ends_the_worker(self):
        f = self.start()
        fd = self.shared_fds(f, "shared")
        f.send("GET", "/shut", query=f"close={fd}")
        end = time.monotonic() + front.PATIENCE
        while f.worker.process.poll() is None and time.monotonic() < end:
            # A thread that waits notices at the next request.
            time.sleep(0.05)
            f.send()
        self.assertEqual(f.worker.wait(), 1)
        self.assertIn("does the application close descriptors", f.stderr())


class Sync(Both, unittest.TestCase):
    pass


class Gthread(Both, unittest.TestCase):
    worker_class = "gthread"
    threads = 4

    def test_threads_run_at_the_same_time(self):
        f = self.start(threads=8)
        for _ in range(3):
            idents = [f.send("GET", "/threads", query="8") for _ in range(8)]
            names = {f.response(ident).body for ident in idents}
            self.assertEqual(len(names), 8)

    def test_default_is_eight_threads(self):
        f = self.start(worker_class="auto", threads=0)
        self.assertEqual(f.worker.loaded[1:3], ["gthread", "8"])

    def test_one_receives_at_a_time(self):
        """While every thread runs a request, what arrives stays in the socket for other workers."""
        f = self.start(threads=2)
        go = self.gate()
        running = [f.send("GET", "/stepwise", query=str(go)) for _ in range(2)]
        f.until(lambda: len(f.worker.marks()) == 2)
        ident = f.send()
        time.sleep(0.05)
        self.assertTrue(front.select.select([f.far], [], [], 0)[0])
        go.touch()
        for one in [*running, ident]:
            f.response(one)

    def test_a_slow_request_holds_up_nobody(self):
        f = self.start(threads=4)
        for _ in range(50):
            f.get()
        go = self.gate()
        slow = f.send("GET", "/stepwise", query=str(go))
        for _ in range(100):
            self.assertEqual(f.get().body, b"hello")
        self.assertIsNone(f.responses[slow].end)
        go.touch()
        f.response(slow)

    def test_slow_requests_use_all_threads(self):
        f = self.start(threads=8)
        began = time.monotonic()
        for _ in range(2):
            for ident in [f.send("GET", "/sleep", query="0.3") for _ in range(32)]:
                self.assertEqual(f.response(ident).body, b"slept")
        # One after the other would take 19 s.
        self.assertLess(time.monotonic() - began, 12)

    def test_many_streams_wait_for_credit(self):
        """Whichever thread reads a grant, the right one goes on."""
        f = self.start(threads=8)
        f.auto_grant = False
        idents = [f.send("GET", "/big", query=str(1 << 20)) for _ in range(8)]
        f.until(lambda: all(len(f.responses[i].body) == CREDIT for i in idents))
        f.auto_grant = True
        for ident in reversed(idents):
            f.tell(3, ident, CREDIT)
        for ident in idents:
            self.assertEqual(len(f.response(ident).body), 1 << 20)
        self.assertEqual(f.get().body, b"hello")

    def test_grants_are_read_while_others_are_served(self):
        f = self.start(threads=2)
        f.auto_grant = False
        ident = f.send("GET", "/big", query=str(CREDIT + 65_536))
        f.until(lambda: len(f.responses[ident].body) == CREDIT)
        for _ in range(20):
            f.get()
        f.tell(3, ident, 65_536)
        self.assertEqual(len(f.response(ident).body), CREDIT + 65_536)

    def test_end_of_control_while_all_threads_run(self):
        f = self.start(threads=2)
        for _ in range(2):
            f.send("GET", "/sleep", query="20")
        f.until(lambda: len(f.worker.marks()) == 2)
        f.worker.control.close()
        f.worker.wait()

    def test_an_idle_worker_does_nothing(self):
        f = self.start(threads=8)
        for _ in range(20):
            f.get()
        time.sleep(0.1)
        before = sum(f.worker_times())
        time.sleep(0.5)
        self.assertLess(sum(f.worker_times()) - before, 0.05)

    def test_a_stalled_worker_takes_little_processor_time(self):
        """All threads run long requests, and the turn to receive is on offer."""
        f = self.start(threads=2)
        for _ in range(2):
            f.send("GET", "/sleep", query="1")
        f.until(lambda: len(f.worker.marks()) == 2)
        time.sleep(0.1)
        before = sum(f.worker_times())
        time.sleep(0.5)
        self.assertLess(sum(f.worker_times()) - before, 0.05)


class SeveralWorkers(Case, unittest.TestCase):
    def test_whichever_is_free_takes_the_next(self):
        f = self.start(workers=2)
        go = self.gate()
        slow = f.send("GET", "/stepwise", query=str(go))
        f.until(lambda: any(worker.marks() for worker in f.workers))
        pids = {f.get("/pid").body for _ in range(50)}
        self.assertEqual(len(pids), 1)
        go.touch()
        f.response(slow)

    def test_a_thread_that_keeps_the_interpreter_lock_holds_up_nobody(self):
        f = self.start(workers=2, worker_class="gthread", threads=4)
        for _ in range(20):
            f.get()
        slow = f.send("GET", "/hog", query="100")
        f.until(lambda: any(worker.marks() for worker in f.workers))
        # A thread that is about to look for a request, and lacks the lock afterwards, would take
        # the next one: the system call does not need the lock.
        f.until(lambda: all(worker.sleeps() for worker in f.workers))
        for _ in range(100):
            self.assertEqual(f.get().body, b"hello")
        self.assertIsNone(f.responses[slow].end)

    def test_multiprocess_is_truthful(self):
        f = self.start(workers=2)
        values = json.loads(f.get("/environ").body)[1]
        self.assertEqual(values["wsgi.multiprocess"], "True")


if __name__ == "__main__":
    unittest.main()
