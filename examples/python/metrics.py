#!/usr/bin/env python3
"""Metrics in shared memory, in Python: a worker writes them, and whoever may look into the worker reads them.

`python3 examples/python/metrics.py PROCESS DESCRIPTOR` shows those of a process. It needs no package. What is where, and why, is in
docs/utilization.md.
"""

import fcntl
import mmap
import os
import re
import stat
import struct
import sys
import threading

MAGIC, VERSION = b"acs-util", 1
HEADER, RECORD, LINE, LIMIT = 64, 256, 64, 1 << 20
COUNT = 24
KINDS = {"u32": (1, "I"), "u64": (2, "Q"), "i32": (3, "i"), "i64": (4, "q"), "f32": (5, "f"), "f64": (6, "d")}
NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,183}\Z")
# From linux/fcntl.h: older versions of Python have no name for it.
F_SEAL_FUTURE_WRITE = 0x10


class Metric:
    """A number that others see."""

    def __init__(self, place):
        self._place = place
        # In Python an addition is a load and a store, between which another thread may have its turn.
        self._lock = threading.Lock()

    @property
    def value(self):
        return self._place[0]

    def set(self, value):
        self._place[0] = value

    def add(self, amount=1):
        with self._lock:
            self._place[0] += amount


class Segment:
    """The memory in which a process has its metrics."""

    def __init__(self):
        self.descriptor = os.memfd_create("utilization", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # All that it may ever be is mapped before it is sealed: later nothing can be mapped for writing. Python maps no more than there
        # is, so it is that long for a moment.
        os.ftruncate(self.descriptor, LIMIT)
        self._memory = mmap.mmap(self.descriptor, LIMIT)
        os.ftruncate(self.descriptor, 0)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
        self._size = 0
        self._grow(max(4096, mmap.PAGESIZE))
        struct.pack_into("=IIIIQ", self._memory, len(MAGIC), VERSION, HEADER, RECORD, LINE, 0)
        self._count = memoryview(self._memory)[COUNT : COUNT + 8].cast("Q")
        self._memory[: len(MAGIC)] = MAGIC
        self._lock = threading.Lock()
        self._metrics = {}

    def metric(self, name, kind="u64"):
        """The metric of that name, which is made if there is none."""
        raw = name.encode()
        if not NAME.match(raw):
            raise ValueError(f"{name!r} is no name of a metric: letters from a to z, digits and _, at most 184, not first a digit")
        code, form = KINDS[kind]
        with self._lock:
            if name not in self._metrics:
                index = self._count[0]
                start = HEADER + index * RECORD
                if start + RECORD > LIMIT:
                    raise MemoryError(f"{name} is one metric too many: a segment has room for {index}")
                while start + RECORD > self._size:
                    self._grow(self._size * 2)
                struct.pack_into("=BB6x184s", self._memory, start + LINE, code, len(raw), raw)
                place = memoryview(self._memory)[start : start + struct.calcsize(form)].cast(form)
                self._metrics[name] = Metric(place), kind, start
                # Only what is counted is looked at, so the description comes first. A lock that is taken and given back keeps
                # also those processors to this order that have another idea of it.
                with threading.Lock():
                    pass
                self._count[0] = index + 1
            return self._metrics[name][0]

    def describe(self):
        """What a worker answers when it is asked for `utilization`. The descriptor would be enough."""
        with self._lock:
            schema = [[name, kind, start] for name, (_, kind, start) in self._metrics.items()]
        return {
            "process_id": os.getpid(),
            "descriptor": self.descriptor,
            "path": f"/proc/{os.getpid()}/fd/{self.descriptor}",
            "size": self._size,
            "version": VERSION,
            "schema": schema,
        }

    def _grow(self, size):
        # The memory, and not the length alone: where there is none left, that is known here, and not when it is written to.
        os.posix_fallocate(self.descriptor, 0, size)
        self._size = size


class View:
    """The metrics of another process. It need not be trusted."""

    def __init__(self, process_id, descriptor):
        # What is no file, such as a pipe, is not opened, which could wait for ever.
        place = os.open(f"/proc/{process_id}/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise ValueError("it is no file")
            self._file = open(f"/proc/self/fd/{place}", "rb")
        finally:
            os.close(place)
        try:
            # What is no file in memory has no seals.
            seals = fcntl.fcntl(self._file, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        # Memory on huge pages can be sealed, and still be missing when it is touched.
        if not seals & fcntl.F_SEAL_SHRINK or os.fstatvfs(self._file.fileno()).f_bsize != mmap.PAGESIZE:
            raise ValueError("it is no sealed memory of ordinary pages, and could be taken away while it is read")
        self._map()
        if len(self._memory) < HEADER or self._memory[: len(MAGIC)] != MAGIC:
            raise ValueError("it does not begin as a segment")
        if struct.unpack_from("=IIII", self._memory, len(MAGIC)) != (VERSION, HEADER, RECORD, LINE):
            raise ValueError("it has a layout of another version")

    def values(self):
        """Names, types and values, as they are now."""
        (count,) = struct.unpack_from("=Q", self._memory, COUNT)
        if HEADER + count * RECORD > len(self._memory):
            self._map()  # It has grown.
        for index in range(min(count, (len(self._memory) - HEADER) // RECORD)):
            start = HEADER + index * RECORD
            code, length = self._memory[start + LINE], self._memory[start + LINE + 1]
            name = self._memory[start + LINE + 8 : start + LINE + 8 + min(length, RECORD - LINE - 8)]
            kind = next((kind for kind in KINDS if KINDS[kind][0] == code), None)
            if kind and NAME.match(name):
                form = KINDS[kind][1]
                place = memoryview(self._memory)[start : start + struct.calcsize(form)].cast(form)
                yield name.decode(), kind, place[0]

    def _map(self):
        length = min(os.fstat(self._file.fileno()).st_size, LIMIT)
        self._memory = mmap.mmap(self._file.fileno(), length, prot=mmap.PROT_READ) if length else b""


def main(arguments):
    if len(arguments) != 2 or not all(argument.isdecimal() for argument in arguments):
        sys.exit(__doc__)
    try:
        for name, kind, value in View(*map(int, arguments)).values():
            print(name, kind, value)
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read it: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
