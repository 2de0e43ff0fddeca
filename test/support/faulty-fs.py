"""
A FUSE file system that shows another folder, and misbehaves on demand: faulty-fs.py FOLDER MOUNTPOINT SECONDS.
SECONDS is how long the kernel may remember what it was told of a file.

Each line on stdin is a request, answered by one line on stdout: {"set": behaviour} replaces the behaviour, {"take": "calls"} gives the
calls since the last time. The end of stdin unmounts, so nothing outlives the test. What a behaviour may say: faulty-fs.ts.
"""
import errno
import json
import os
import subprocess
import sys
import threading
import time

try:
    import fusepy
except ImportError:
    import fuse as fusepy  # its name outside Debian

PASSIVE = ('getattr', 'statfs', 'flush', 'release', 'readlink', 'access', 'getxattr', 'opendir', 'releasedir')


class FaultyFs(fusepy.Operations):
    use_ns = True

    def __init__(self, root):
        self.root = root
        self.mutex = threading.Lock()
        self.behaviour = {}
        self.calls = []

    def __call__(self, op, *args):
        if op in ('init', 'destroy'):
            return 0
        if not hasattr(self, op):
            raise fusepy.FuseOSError(errno.ENOSYS)
        with self.mutex:
            if op not in PASSIVE:
                names = [text for text in args if isinstance(text, str)]
                self.calls.append(' '.join([op] + (names if op in ('link', 'rename', 'symlink') else names[:1])))
        self.wait(op)
        code = self.behaviour.get('fail', {}).get(op)
        if code is not None:
            raise fusepy.FuseOSError(getattr(errno, code))
        answer = getattr(self, op)(*args)
        if op in self.behaviour.get('lostReply', []):
            raise fusepy.FuseOSError(errno.EEXIST)
        return answer

    def wait(self, op):
        delays = self.behaviour.get('delayMs', {})
        time.sleep(delays.get(op, delays.get('*', 0)) / 1000)
        while '*' in self.behaviour.get('hang', []) or op in self.behaviour.get('hang', []):
            # as on NFS: a caller that is killed need not wait
            if fusepy._libfuse.fuse_interrupted():
                raise fusepy.FuseOSError(errno.EINTR)
            time.sleep(0.005)

    def path(self, path):
        return self.root + path

    def give(self, path):
        uid, gid, _ = fusepy.fuse_get_context()
        os.lchown(path, uid, gid)

    def getattr(self, path, fh=None):
        found = os.lstat(self.path(path))
        names = ('st_ino', 'st_mode', 'st_nlink', 'st_uid', 'st_gid', 'st_size', 'st_blocks')
        times = {f'st_{name}': getattr(found, f'st_{name}_ns') for name in ('atime', 'mtime', 'ctime')}
        return {**{name: getattr(found, name) for name in names}, **times}

    def statfs(self, path):
        found = os.statvfs(self.path(path))
        names = ('f_bavail', 'f_bfree', 'f_blocks', 'f_bsize', 'f_favail', 'f_ffree', 'f_files', 'f_frsize', 'f_namemax')
        return {name: getattr(found, name) for name in names}

    def readdir(self, path, fh):
        return ['.', '..'] + os.listdir(self.path(path))

    def readlink(self, path):
        return os.readlink(self.path(path))

    def mkdir(self, path, mode):
        os.mkdir(self.path(path), mode)
        self.give(self.path(path))

    def rmdir(self, path):
        os.rmdir(self.path(path))

    def unlink(self, path):
        os.unlink(self.path(path))

    def rename(self, old, new):
        os.rename(self.path(old), self.path(new))

    def link(self, target, source):
        os.link(self.path(source), self.path(target))

    def symlink(self, target, source):
        os.symlink(source, self.path(target))
        self.give(self.path(target))

    def chmod(self, path, mode):
        os.chmod(self.path(path), mode)

    def chown(self, path, uid, gid):
        os.lchown(self.path(path), uid, gid)

    def utimens(self, path, times=None):
        os.utime(self.path(path), ns=times)

    def truncate(self, path, length, fh=None):
        os.truncate(self.path(path), length)

    def open(self, path, flags):
        return os.open(self.path(path), flags)

    def create(self, path, mode, fi=None):
        fh = os.open(self.path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self.give(self.path(path))
        return fh

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        data = data[:self.behaviour.get('writeBytes', len(data))]
        with self.mutex:
            space = self.behaviour.get('spaceBytes')
            if space is not None:
                if space == 0:
                    raise fusepy.FuseOSError(errno.ENOSPC)
                data = data[:space]
                self.behaviour['spaceBytes'] = space - len(data)
        return os.pwrite(fh, data, offset)

    def flush(self, path, fh):
        return 0

    def release(self, path, fh):
        os.close(fh)

    def fsync(self, path, datasync, fh):
        return 0

    def fsyncdir(self, path, datasync, fh):
        return 0


def answer(fs, mountpoint):
    """Answers requests until stdin ends; then the mount goes, whoever still waits for an answer."""
    while not os.path.ismount(mountpoint):
        time.sleep(0.005)
    print('mounted', flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with fs.mutex:
            calls, told = fs.calls, []
            if 'set' in request:
                fs.behaviour = request['set']
            else:
                told, fs.calls = calls, []
        print(json.dumps(told), flush=True)
    fs.behaviour = {}
    subprocess.run(['umount', '-l', mountpoint], stderr=subprocess.DEVNULL)
    os._exit(0)


folder, mountpoint, cached = sys.argv[1:]
passthrough = FaultyFs(folder)
threading.Thread(target=answer, args=(passthrough, mountpoint), daemon=True).start()
fusepy.FUSE(passthrough, mountpoint, foreground=True, allow_other=True, use_ino=True, direct_io=True, big_writes=True,
            hard_remove=True, attr_timeout=cached, entry_timeout=cached, negative_timeout=0)
