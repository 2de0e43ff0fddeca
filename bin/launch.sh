# shellcheck shell=sh disable=SC2154 # $self, $home and $failed are the launcher's
# Read by every launcher beside it; not to be called. Runs dist/<name>.mjs under Node.js and turns its answer into an exit code.
#
# PostgreSQL takes each exit of a restore_command from 1 to 125 for "the WAL ends here" and opens the database; an exit of an
# archive_command above 125 kills its archiver. A shell that cannot fork ends with 2, Node.js with 1 over an uncaught error, 0 over
# an empty bundle, 13, 134 or 137: all of these mean something else to PostgreSQL. So nothing is passed on that was not said in the
# private codes 90 (done), 91 (proved absent), 92 (help shown) or the table's 2-9 and 70, and until one of them was said the EXIT
# trap, set by the launcher before anything else, ends with $failed (H3).
#
# In:  $self    the launcher, as it was called, and without links to the file itself
#      $home    its folder without any link above it, asked for once: where an upgrade switches a link while a command starts, the launcher's
#               rest, the runtime, the bundle and what the bundle loads later are all of one version
#      $failed  70, for failures that have no code of their own; or 200, for all of them
# What an older launcher gives must do: an upgrade may fall between its first lines and this file.

# launch NAME [ARGUMENT ...]: does not return.
launch() {
  name=$1 bundle=$home/../dist/$1.mjs node=${WALT_NODE:-} heap=''
  shift
  if [ -z "$node" ]; then # a package has its own runtime, a checkout takes the one in PATH
    node=$home/../node/bin/node
    [ -x "$node" ] || node=node
  fi
  if [ "$name" = wal-t ]; then
    export WAL_T_BIN="${self%/*}" # for the lines that it gives for PostgreSQL's configuration: right after the next upgrade, too
    export UV_THREADPOOL_SIZE="${UV_THREADPOOL_SIZE:-16}" # zstd's threads: asked for when Node.js starts
    heap=--max-semi-space-size=2 # MiB: many small files make much garbage, and each thread would let it grow to the eightfold
    # of many threads glibc keeps what they have freed, each for itself: one heap is enough for all. Pieces of up to 4 MiB, a window, come from it and are
    # used again, since memory that the kernel has just given costs a third of decompressing into it; larger ones go back at once
    export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}" MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-4259840}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-67108864}"
  fi
  # MiB, held before anything is collected: of a backlog hardly anything lives longer than its segment, and there is one thread alone
  [ "$name" != wal-push ] || heap=--initial-old-space-size=64
  [ -s "$bundle" ] || refuse "\"$bundle\" is missing" \
    'The installation is incomplete: unpack the package again, or run "npm ci" in its folder.'
  case $node in */*) [ -x "$node" ] ;; *) command -v "$node" >/dev/null ;; esac ||
    refuse "Node.js was not found as \"$node\"" \
      'Set WALT_NODE to the path of node: PostgreSQL does not have the PATH of your shell.'

  child='' stopped=''
  trap 'stop TERM' TERM
  trap 'stop INT' INT
  { true 3<&0; } 2>/dev/null || exec </dev/null # a closed one cannot be passed on
  exec 3<&0
  # In the background, since a shell that waits for a foreground child hears no signal. For a moment the child is a copy of this
  # shell, and a signal that it catches as such is lost. A new shell cannot catch any: it says so to `stop`, else to nobody.
  trap '' USR1
  WALT_LAUNCHER=$$ /bin/sh -c 'kill -s USR1 "$WALT_LAUNCHER" 2>/dev/null; exec "$@"' "$name" "$node" ${heap:+"$heap"} "$bundle" "$@" <&3 3<&- &
  child=$!
  [ -z "$stopped" ] || stop "$stopped"
  wait "$child" 2>/dev/null # some shells say themselves by what signal it died
  status=$?
  trap - TERM INT

  case $status in
    18[0-7]) status=$((status - 178)) ;; # a system call hangs, and only a signal could end it: 52 for 2 … 59 for 9
    188) status=90 ;;                    # the same, where what was asked for is done
  esac
  case $status in
    90) if is_done; then finish 0; fi ;;
    91) finish 1 ;;
    92) finish 0 ;;
    [2-9] | 70) fail "$status" ;;
  esac
  case $status in
    0 | 13) reason='its work never came to an end' ;;
    1) reason='an uncaught error, or a bundle that is not whole' ;;
    90) reason='the file is not where it was asked for, though it was delivered' ;;
    126 | 127) reason='it could not be started' ;;
    134) reason='it ran out of memory or crashed' ;;
    137) reason='it was killed, perhaps for want of memory' ;;
    *) reason='no answer of WAL-T' ;;
  esac
  say "error: Node.js ended with $status: $reason"
  say "hint: Look at the lines above and at the kernel's log. $node is $("$node" --version 2>&1 | head -n 1; exit 0), 20.19 or later is needed."
  fail 70
}

# May "done" be believed? wal-fetch has its own rule.
is_done() { true; }

# Passes the signal on, waits for the end of the clean-up, and dies by the same signal.
stop() {
  stopped=$1
  [ -n "$child" ] || return 0
  trap '' TERM INT
  trap pass_on USR1
  pass_on
  wait "$child" 2>/dev/null # the shell would note "Terminated" in the log
  status=$?
  wait "$child" 2>/dev/null # USR1 comes at most once, and ends the first
  # to be ended is how a sidecar's work is done; PostgreSQL's commands die by the signal, as it expects
  case $name,$status,$? in wal-t,90,* | wal-t,*,90) finish 0 ;; esac
  trap - "$1" EXIT
  kill -s "$1" $$
  exit "$failed"
}

# The first that comes is the one that is told; a child that is only being started still ignores INT.
pass_on() {
  kill -s "$stopped" "$child" 2>/dev/null
  kill -s TERM "$child" 2>/dev/null
}

# refuse MESSAGE HINT: nothing can be run.
refuse() {
  say "error: $1"
  say "hint: $2"
  fail 3
}

fail() {
  if [ "$failed" = 70 ]; then finish "$1"; fi
  finish "$failed"
}

finish() {
  trap - EXIT
  if is_orphan; then exit 0; fi
  exit "$1"
}

# PostgreSQL calls a command through a shell, and some shells stay. When that one is killed nobody waits for this launcher any more, and
# where PostgreSQL is PID 1 it becomes the parent and takes any end but 0 or 1 for a crash, over which it restarts (H5).
is_orphan() { { read -r _ _ _ parent _ </proc/$$/stat; } 2>/dev/null && [ "$parent" != "$PPID" ]; }

say() { printf '%s: %s\n' "$name" "$*" >&2; }
