"""The child process that runs code a model wrote. It imports nothing of this project, so that it can be started alone.

It reads one JSON object from standard input, gives everything up (`_confine`) and only then runs the program. Its only answer
is a word on the pipe that standard output was. Layout of the system's structures: man pages landlock(7), seccomp(2), capset(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import stat
import struct
import sys

_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
_DENY, _NO_SUCH, _ALLOW, _KILL = 0x00050001, 0x00050026, 0x7FFF0000, 0x80000000  # EPERM, ENOSYS
_THREAD = 0x00010000
_NEWEST = 450
"""System calls above this number, which did not exist when this was written, do not exist for the program either."""

# By machine: the architecture's number in the kernel's audit, clone, clone3, and what is refused.
# fmt: off
_CALLS = {
    "x86_64": (0xC000003E, 56, 435, (
        41, 53, 425, 426, 427,  # socket, socketpair, io_uring
        57, 58, 59, 322,  # fork, vfork, execve, execveat
        62, 129, 200, 234, 297, 424, 434, 438,  # kill and its kin, process handles
        101, 310, 311, 312, 160, 302, 141, 142, 144, 203, 251, 314,  # ptrace, other processes' memory, limits and priorities
        76, 90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280,  # truncate, modes, owners and times, which Landlock leaves alone
        188, 189, 190, 197, 198, 199,  # extended attributes
        29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 240, 241, 319,  # memory and queues that outlive a process
        272, 308, 155, 161, 165, 166, 428, 429, 430, 442, 321, 323, 298, 248, 249, 250,  # namespaces, mounts, bpf, keys
    )),
    "aarch64": (0xC00000B7, 220, 435, (
        198, 199, 425, 426, 427,
        221, 281,
        129, 138, 130, 131, 240, 424, 434, 438,
        117, 270, 271, 272, 164, 261, 140, 118, 119, 122, 30, 274,
        45, 52, 53, 54, 55, 88,
        5, 6, 7, 14, 15, 16,
        194, 195, 196, 190, 191, 193, 186, 187, 188, 189, 180, 181, 279,
        97, 268, 41, 51, 40, 39, 428, 429, 430, 442, 280, 282, 241, 217, 218, 219,
    )),
}
# fmt: on


def _main() -> None:
    asked = json.load(sys.stdin)
    answer = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1, 2):
        os.dup2(null, place)
    os.close(null)
    _confine(asked["seconds"], asked["bytes"], asked["readable"])
    word = b"failed"
    try:
        exec(compile(asked["program"], "program", "exec"), {"__name__": "program"})
        word = b"passed"
    except MemoryError:
        word = b"memory"
    except BaseException:
        pass
    os.write(answer, word)
    os._exit(0)  # threads that the program started do not hold it up


def _confine(seconds: int, size: int, readable: list[str]) -> None:
    """Limits on time and memory, no file but the `readable` ones, no process, no network. All or an exception."""
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    _done(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _give_up_privileges(libc)
    _close_files(libc, readable)
    _close_calls(libc)


def _done(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _give_up_privileges(libc: ctypes.CDLL) -> None:
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
    _done(libc.syscall(number, header, nothing), "capset")


def _close_files(libc: ctypes.CDLL, readable: list[str]) -> None:
    """Landlock: files and folders below `readable` may be read, and nothing else be done with any file."""
    version = _done(libc.syscall(444, None, 0, 1), "Landlock")
    handled = (1 << 13) - 1  # execute, write, read, list, remove, make …: all rights of the first version
    handled |= (1 << 13 if version > 1 else 0) | (1 << 14 if version > 2 else 0) | (1 << 15 if version > 4 else 0)
    rules = _done(libc.syscall(444, struct.pack("Q", handled), 8, 0), "Landlock")
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = (1 << 2 | 1 << 3) if stat.S_ISDIR(os.fstat(place).st_mode) else 1 << 2  # read files, list folders
        _done(libc.syscall(445, rules, 1, struct.pack("=Qi", rights, place), 0), "Landlock")
        os.close(place)
    _done(libc.syscall(446, rules, 0), "Landlock")
    os.close(rules)


def _close_calls(libc: ctypes.CDLL) -> None:
    """seccomp: the calls of `_CALLS` fail, and so does every new process; threads may be started."""
    machine, clone, clone3, refused = _CALLS[platform.machine()]
    load, equal, above, test, give = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [
        (load, 0, 0, 4),
        (equal, 1, 0, machine),
        (give, 0, 0, _KILL),
        (load, 0, 0, 0),
        (above, 0, 1, _NEWEST + 1),  # the second set of numbers of x86_64 is above it too
        (give, 0, 0, _NO_SUCH),
        (equal, 0, 1, clone3),  # the system's library then takes clone, whose flags can be read
        (give, 0, 0, _NO_SUCH),
        (equal, 0, 4, clone),
        (load, 0, 0, 16),
        (test, 1, 0, _THREAD),
        (give, 0, 0, _DENY),
        (give, 0, 0, _ALLOW),
    ]
    for number in refused:
        code += [(equal, 0, 1, number), (give, 0, 0, _DENY)]
    code.append((give, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    whole = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    _done(libc.prctl(_SECCOMP, _FILTER, whole, 0, 0), "seccomp")


if __name__ == "__main__":
    _main()
