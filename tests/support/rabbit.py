# SPDX-License-Identifier: MIT
"""Private RabbitMQ nodes for tests.

A node of its own for each run: free ports on loopback, its own HOME, cookie, database and epmd
under a temporary directory, nothing left behind. Works as root and as a normal user with nothing
but Debian's package rabbitmq-server; uses only the standard library.
"""

import base64
import ctypes
import glob
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

START_SECONDS = 60
STOP_SECONDS = 15
CLOSE_SECONDS = 2  # the management plugin takes 6 to stop, and the data is thrown away anyway
PR_SET_PDEATHSIG = 1
AMQP_HEADER = b"AMQP\x00\x00\x09\x01"

# Ports below the range from which the kernel picks those of outgoing connections: a port found
# free there is not snatched by another test's client before the node listens on it.
PORT_RANGE = range(11000, 30000)


class BrokerError(Exception):
    """The node did not do what it was asked to."""


def sbin_directory():
    """Where the real scripts are: the wrappers in /usr/sbin insist on the user rabbitmq."""
    found = sorted(glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"))
    if not found:
        raise BrokerError("no RabbitMQ here: install the package rabbitmq-server")
    return found[-1]


def free_ports(count):
    """That many different ports nobody listens on."""
    ports = []
    while len(ports) < count:
        port = random.choice(PORT_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def die_with_parent():
    """Runs in the child before exec: no node outlives the process that started it, even if killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_for_exit(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


class Broker:
    """One node. Use as a context manager, or call start() and close()."""

    user = "guest"
    password = "guest"

    def __init__(self, config="", plugins=("rabbitmq_management",), host="127.0.0.1", node="mqfs", prefix=(),
                 resend_seconds=180):
        self.host = host
        self.config = config
        self.plugins = plugins
        self.node = f"{node}@localhost"
        self.prefix = list(prefix)  # words before every command, as of `ip netns exec`
        # When a quorum queue dead-letters again what found its target full or away: RabbitMQ's default is 3 minutes.
        self.resend_seconds = resend_seconds
        self.process = None
        self.epmd = None
        self.home = tempfile.mkdtemp(prefix="mqfs-broker-")
        self._write_home()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()

    # -- life ---------------------------------------------------------------

    def start(self):
        """Starts the node and returns when it speaks AMQP."""
        for attempts_left in (2, 1, 0):
            # A node that comes back keeps its port, or no client would find it again.
            if not hasattr(self, "port") or attempts_left < 2:
                self._choose_ports()
            try:
                return self._start_once()
            except BrokerError:
                self._end_processes()
                if attempts_left == 0:
                    raise
        return None

    def stop(self, patience=STOP_SECONDS):
        """An orderly stop; what is durable stays for the next start()."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            if not wait_for_exit(self.process, patience):
                self.process.kill()
                self.process.wait()
            self.process = None
        self._end_epmd()

    def kill(self):
        """kill -9, as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self._end_epmd()

    def restart(self):
        self.stop()
        self.start()

    def pause(self):
        """SIGSTOP: the node neither answers nor hangs up."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)  # each of its threads

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        """Ends the node for good and removes all that was its."""
        self.stop(patience=CLOSE_SECONDS)
        for _ in range(20):  # the node's own helpers may still write a last line
            shutil.rmtree(self.home, ignore_errors=True)
            if not os.path.exists(self.home):
                return
            time.sleep(0.1)

    @property
    def pid(self):
        return self.process.pid

    # -- talking to it ------------------------------------------------------

    def url(self, vhost="/", user=None, password=None):
        name = "" if vhost == "/" else urllib.parse.quote(vhost, safe="")
        login = f"{user or self.user}:{password or self.password}"
        return f"amqp://{login}@{self.host}:{self.port}/{name}"

    @property
    def ctl_command(self):
        """rabbitmqctl for this node, as a line for sh -c."""
        environment = self._environment()
        names = ("HOME", "ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "RABBITMQ_CONF_ENV_FILE")
        words = [*self.prefix, "env", *(f"{name}={environment[name]}" for name in names)]
        words += [f"{sbin_directory()}/rabbitmqctl", "-q", "-n", self.node]
        return shlex.join(words)

    def ctl(self, *arguments, timeout=60):
        """Runs rabbitmqctl and gives its output."""
        result = subprocess.run(shlex.split(self.ctl_command) + list(arguments), check=False, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, cwd=self.home)
        if result.returncode:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)}: {result.stdout}")
        return result.stdout

    def api(self, method, path, body=None, timeout=30):
        """One call of the management HTTP API (some ten times faster than rabbitmqctl)."""
        request = urllib.request.Request(f"http://{self.host}:{self.management_port}/api/{path}", method=method)
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise BrokerError(f"{method} /api/{path}: {error.code} {error.read()[:500]!r}") from error
        return json.loads(text) if text else None

    def add_vhost(self, name):
        quoted = urllib.parse.quote(name, safe="")
        self.api("PUT", f"vhosts/{quoted}", {})
        self.set_permissions(name, self.user)

    def delete_vhost(self, name):
        self.api("DELETE", f"vhosts/{urllib.parse.quote(name, safe='')}")

    def add_user(self, name, password, tags=""):
        self.api("PUT", f"users/{name}", {"password": password, "tags": tags})

    def set_permissions(self, vhost, user, configure=".*", write=".*", read=".*"):
        quoted = urllib.parse.quote(vhost, safe="")
        self.api("PUT", f"permissions/{quoted}/{user}", {"configure": configure, "write": write, "read": read})

    def close_connections(self):
        self.ctl("close_all_connections", "--global", "test")

    def log(self):
        """The end of the node's log, for the message of a failure."""
        lines = []
        for path in sorted(glob.glob(f"{self.home}/log/*.log") + [f"{self.home}/output"]):
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    lines += file.read().splitlines()[-40:]
            except FileNotFoundError:
                continue
        return "\n".join(lines)

    # -- how ----------------------------------------------------------------

    def _write_home(self):
        cookie = os.path.join(self.home, ".erlang.cookie")
        with open(cookie, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(16).upper())
        os.chmod(cookie, 0o400)
        with open(os.path.join(self.home, "plugins"), "w", encoding="ascii") as file:
            file.write(f"[{','.join(self.plugins)}].\n")

    def _choose_ports(self):
        self.port, self.distribution_port, self.epmd_port, self.management_port = free_ports(4)

    def _write_config(self):
        lines = [f"listeners.tcp.1 = {self.host}:{self.port}", "num_acceptors.tcp = 4"]
        if "rabbitmq_management" in self.plugins:
            lines += [f"management.tcp.ip = {self.host}", f"management.tcp.port = {self.management_port}"]
        with open(os.path.join(self.home, "rabbitmq.conf"), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n" + self.config)

    def _environment(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        environment.update({
            "HOME": self.home,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{self.home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{self.home}/log",
            "RABBITMQ_PID_FILE": f"{self.home}/pid",
            "RABBITMQ_CONFIG_FILE": f"{self.home}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.home}/plugins",
            # Distribution on loopback only; idle schedulers sleep instead of spinning.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none "
                f"-rabbit dead_letter_worker_publisher_confirm_timeout {self.resend_seconds * 1000}",
            # The script becomes the node instead of waiting for it: our child's pid is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        })
        environment.pop("NOTIFY_SOCKET", None)
        return environment

    def _spawn(self, words, output):
        return subprocess.Popen([*self.prefix, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                cwd=self.home, env=self._environment(), start_new_session=True,
                                preexec_fn=die_with_parent)

    def _start_once(self):
        self._spawn_node()
        self._wait_for_node()

    def _spawn_node(self):
        self._write_config()
        with open(os.path.join(self.home, "output"), "ab") as output:
            self._start_epmd(output)
            self.process = self._spawn([f"{sbin_directory()}/rabbitmq-server"], output)

    def _wait_for_node(self):
        self._wait_for_port(self.process, self.port, "the node", greeting=True)
        if "rabbitmq_management" in self.plugins:
            self._wait_for_port(self.process, self.management_port, "the management API")

    def _start_epmd(self, output):
        self.epmd = self._spawn(["epmd"], output)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([*self.prefix, "epmd", "-names"], env=self._environment(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, check=False).returncode:
            if self.epmd.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"epmd does not answer:\n{self.log()}")
            time.sleep(0.05)

    def _wait_for_port(self, process, port, what, greeting=False):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise BrokerError(f"{what} ended with {process.returncode}:\n{self.log()}")
            if self._answers(port, greeting):
                return
            time.sleep(0.05)
        raise BrokerError(f"{what} does not listen after {START_SECONDS} s:\n{self.log()}")

    def _answers(self, port, greeting):
        try:
            with socket.create_connection((self.host, port), timeout=5) as connection:
                if not greeting:
                    return True
                connection.sendall(AMQP_HEADER)
                return connection.recv(1) == b"\x01"  # a method frame: connection.start
        except OSError:
            return False

    def _end_epmd(self):
        if self.epmd:
            self.epmd.kill()
            self.epmd.wait()
            self.epmd = None

    def _end_processes(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        self._end_epmd()
