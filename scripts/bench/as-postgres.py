"""Calls an archive_command or a restore_command as PostgreSQL does, one file after the other, and prints what that took as JSON.

In: one JSON object, see as-postgres.ts. Whatever a command leaves behind becomes our child and is waited for at the end: not its time,
but its CPU and its memory count.
"""
import ctypes
import json
import os
import resource
import sys
import time

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
plan = json.loads(sys.argv[1])
os.chdir(plan['folder'])
marks = 'pg_wal/archive_status'
calls, answered, controls = [], [], {name: [] for name in plan['controls']}


def timed(command):
    """Milliseconds; system(), as PostgreSQL has it: sh -c."""
    began = time.monotonic()
    status = os.waitstatus_to_exitcode(os.system(command))
    spent = (time.monotonic() - began) * 1000
    if status != 0:
        sys.exit(f'{command} ended with {status}')
    return spent


def started():
    """How often Node.js was started so far, where its starts are counted."""
    return os.path.getsize(plan['counter']) if 'counter' in plan else 0


def call(name, path):
    before = started()
    calls.append(timed(plan['command'].replace('%f', name).replace('%p', path)))
    answered.append(started() == before)
    for control, command in plan['controls'].items():
        controls[control].append(timed(command))


def waiting():
    """Histories first, then by name, so many at a time: pgarch.c."""
    names = [mark[: -len('.ready')] for mark in os.listdir(marks) if mark.endswith('.ready')]
    return sorted(names, key=lambda name: (not name.endswith('.history'), name))[:64]


if 'names' in plan:
    for name in plan['names']:
        call(name, 'pg_wal/RECOVERYXLOG')
        os.rename('pg_wal/RECOVERYXLOG', f'pg_wal/{name}')
else:
    while names := waiting():
        for name in names:
            call(name, f'pg_wal/{name}')
            os.rename(f'{marks}/{name}.ready', f'{marks}/{name}.done')
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    'wallMs': sum(calls),
    'cpuMs': (used.ru_utime + used.ru_stime) * 1000,
    'peakMiB': used.ru_maxrss / 1024,
    'longestMs': max(calls, default=0),
    'calls': calls,
    'answered': answered,
    'controls': controls,
}))
