"""Judges programs, each in a process that can read and compute and nothing else. Linux only.

Not imported: `sandbox` runs this file as a script, with no environment, in a throw-away
folder, and writes a request a line to it. It forks for every program, which takes about
a millisecond where a new interpreter would take fifty. The fork gives up, for good:

- memory, CPU time, file size, open files, processes and core dumps (resource limits);
- every system call that is not listed below (seccomp): it cannot open a file for
  writing, delete, rename, make a socket, start a process or a thread, signal another
  process, or raise its limits again, root or not. A forbidden call fails with EPERM.

seccomp rather than namespaces, because it also holds where those are forbidden, as in
most containers. What is not defended: reading files that the user may read (nothing can
leave but a verdict of 100 characters), and a program that looks for the judge's token in
the frames above it, to pass without being right.

Sources: Linux man-pages seccomp(2), prctl(2), bpf in linux/filter.h.
"""

import ctypes
import json
import os
import platform
import select
import struct
import sys
import time

PASSED = "passed"
TIME = "time limit"
# Wall-clock seconds for each second of CPU time: for one that sleeps, and a busy machine.
PATIENCE = 4
LONGEST = 100  # bytes of a verdict

# Numbers from the kernel's asm/unistd_64.h and asm-generic/unistd.h.
_X86_64 = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7,
    "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20,
    "access": 21, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36, "alarm": 37,
    "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63, "getdents": 78,
    "getcwd": 79, "chdir": 80, "readlink": 89, "umask": 95, "gettimeofday": 96,
    "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131,
    "statfs": 137, "fstatfs": 138, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "dup3": 292, "pipe2": 293, "getrandom": 318,
    "membarrier": 324, "statx": 332, "faccessat2": 439,
}  # fmt: skip
_AARCH64 = {
    "getcwd": 17, "dup": 23, "dup3": 24, "statfs": 43, "fstatfs": 44, "faccessat": 48,
    "chdir": 49, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62, "read": 63,
    "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pselect6": 72, "ppoll": 73,
    "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94,
    "futex": 98, "nanosleep": 101, "getitimer": 102, "setitimer": 103,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
    "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
    "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigreturn": 139, "times": 153, "uname": 160, "getrlimit": 163,
    "getrusage": 165, "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173,
    "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178,
    "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
    "mprotect": 226, "madvise": 233, "getrandom": 278, "membarrier": 283,
    "statx": 291, "faccessat2": 439,
}  # fmt: skip
# Allowed with some arguments only, by the same names in both.
_CHECKED = {
    "x86_64": {"open": 2, "openat": 257, "ioctl": 16, "fcntl": 72, "kill": 62,
               "tgkill": 234, "prlimit64": 302},
    "aarch64": {"openat": 56, "ioctl": 29, "fcntl": 25, "kill": 129, "tgkill": 131,
                "prlimit64": 261},
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_IOCTLS = (0x5401, 0x5413, 0x5451)  # TCGETS, TIOCGWINSZ, FIOCLEX: what open() asks
_FCNTLS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_[GS]ETFD, F_GETFL, F_DUPFD_CLOEXEC

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # _REFUSE: EPERM
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


def main() -> None:
    sys.dont_write_bytecode = True
    packages = [path for path in sys.path if path.endswith("-packages")]
    sys.path = [path for path in sys.path if not path.endswith("-packages")]
    why = trial()
    print(json.dumps({"ready": not why, "why": why}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "numpy" in request["program"] and "numpy" not in sys.modules:
            _load_numpy(packages)
        print(json.dumps(judge(**request)), flush=True)


def _load_numpy(packages: list[str]) -> None:
    """Have numpy at hand in every fork, the one package that programs may use.

    What else is installed would make verdicts differ between machines. Here and not in
    the fork, where its OpenBLAS could not begin its threads.
    """
    own, sys.path = sys.path, [*sys.path, *packages]
    try:
        import numpy  # noqa: F401
    except ImportError:
        pass
    finally:
        sys.path = own


def trial() -> str:
    """Why this system cannot hold a program; empty when it can, as tried on a fork."""
    probe = "import socket\ntry: socket.socket()\nexcept PermissionError: pass\nelse: raise OSError"
    try:
        verdict = judge(probe, 5, 1 << 30)
    except OSError as error:
        return str(error)
    return "" if verdict == PASSED else f"a trial program ended with: {verdict}"


def judge(program: str, seconds: int, memory: int) -> str:
    """PASSED when the program runs to its end; else the name of what stopped it.

    Args:
        seconds: of CPU time.
        memory: bytes of address space.
    """
    ours, theirs = os.pipe()
    token = os.urandom(16).hex()
    pid = os.fork()
    if pid == 0:
        try:
            _run(program, theirs, token, seconds, memory)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        said = _heard(ours, time.monotonic() + PATIENCE * seconds)
    finally:
        os.close(ours)
        os.kill(pid, 9)
        _, status, usage = os.wait4(pid, 0)
    if said == token:
        return PASSED
    # The kernel counts in ticks, and may end one a little early.
    if said is None or usage.ru_utime + usage.ru_stime > seconds - 0.1:
        return TIME
    if said:
        return said if said.isidentifier() and said != PASSED else "not a verdict"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit {os.WEXITSTATUS(status)} before its tests were over"


def _heard(pipe: int, deadline: float) -> str | None:
    """The first bytes of what comes before the pipe is closed; None after the deadline."""
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            more = os.read(pipe, 4096)
            if not more:
                return said.decode("utf-8", "replace")
            said = (said + more)[:LONGEST]
    return None


def _run(program: str, verdict: int, token: str, seconds: int, memory: int) -> None:
    import resource

    os.environ.clear()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.dup2(verdict, 3)
    os.closerange(4, 256)
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (limit, limit))
    _confine()
    try:
        exec(compile(program, "<candidate>", "exec"), {"__name__": "__main__"})  # noqa: S102
        said = token
    except BaseException as error:  # noqa: BLE001  SystemExit too: its tests were not over
        said = type(error).__name__
    os.write(3, said.encode()[:LONGEST])
    os._exit(0)


def _confine() -> None:
    """Give up all system calls but those listed, for this process and for good."""
    rules = _filter(platform.machine(), os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *r) for r in rules))
    prog = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(rules), ctypes.addressof(code))
    )
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    for args in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(prog), 0, 0),
    ):
        if prctl(*args):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")


def _filter(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, steps if true, steps if false, operand) of the filter."""
    if machine not in _MACHINES:
        raise OSError(f"no list of system calls for {machine}")
    arch, plain = _MACHINES[machine]
    refuse, allow = (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)
    rules = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL)]
    rules.append((_LOAD, 0, 0, 0))  # the call's number
    for number in plain.values():
        rules += [(_EQUAL, 0, 1, number), allow]

    def when(number: int, *checks: tuple[int, int, int, int]) -> None:
        rules.extend([(_EQUAL, 0, len(checks) + 1, number), *checks, refuse])

    def one_of(argument: int, values: tuple[int, ...]) -> list[tuple]:
        load = (_LOAD, 0, 0, 16 + 8 * argument)
        return [load, *(rule for v in values for rule in ((_EQUAL, 0, 1, v), allow))]

    for name, number in _CHECKED[machine].items():
        match name:
            case "open" | "openat":
                flags = 16 + 8 * (1 if name == "open" else 2)
                when(number, (_LOAD, 0, 0, flags), (_ANY_BIT, 1, 0, _WRITING), allow)
            case "ioctl":
                when(number, *one_of(1, _IOCTLS))
            case "fcntl":
                when(number, *one_of(1, _FCNTLS))
            case "kill" | "tgkill":
                when(number, *one_of(0, (pid,)))
            case (
                "prlimit64"
            ):  # reading limits: both halves of the new ones' address are 0
                low, high = (_LOAD, 0, 0, 32), (_LOAD, 0, 0, 36)
                zero = (_EQUAL, 0, 3, 0), (_EQUAL, 0, 1, 0)
                when(number, low, zero[0], high, zero[1], allow)
    return [*rules, refuse]


if __name__ == "__main__":
    main()
