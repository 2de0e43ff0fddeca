# Read by every launcher beside it; not to be called. Runs dist/<name>.mjs under Node.js and turns its answer into an exit code.
#
# PostgreSQL takes each exit of a restore_command from 1 to 125 for "the WAL ends here" and opens the database; an exit of an
# archive_command above 125 kills its archiver. A shell that cannot fork ends with 2, Node.js with 1 over an uncaught error, 0 over
# a promise that never settles, 13, 134 or 137: all of these mean something else to PostgreSQL. So nothing is passed on that was not
# said in the private codes 90 (done), 91 (proved absent), 92 (help shown) or the table's 2-9 and 70, and until one of them was said
# the EXIT trap, set by the launcher before anything else, ends with $failed (H3).
#
# In:  $home    the folder of the launchers
#      $failed  the exit code of a failure that has none of its own

say() { printf '%s: %s\n' "$name" "$*" >&2; }

finish() { trap - EXIT; exit "$1"; }

# launch NAME COMMAND [ARGUMENT ...]: NAME of the bundle; COMMAND decides what an answer means. Does not return.
launch() {
  bundle=$home/../dist/$1.mjs name=$2
  shift 2
  if [ ! -f "$bundle" ]; then
    say "error: \"$bundle\" is missing"
    say 'hint: The installation is incomplete: unpack the package again, or run "npm ci" in its folder.'
    fail 3
  fi
  if [ -x "$home/../node/bin/node" ]; then node=$home/../node/bin/node
  elif [ -n "${WALT_NODE:-}" ]; then node=$WALT_NODE
  else node=$(command -v node) || node=
  fi
  if [ -z "$node" ] || [ ! -x "$node" ]; then
    say "error: Node.js was not found${node:+ at \"$node\"}"
    say 'hint: Set WALT_NODE to the path of node: PostgreSQL does not have the PATH of your shell.'
    fail 3
  fi
  child='' stopped=''
  trap 'stop TERM' TERM
  trap 'stop INT' INT
  exec 3<&0
  "$node" "$bundle" "$@" <&3 3<&- & # in the background, since a shell that waits for a foreground child hears no signal
  child=$!
  [ -z "$stopped" ] || stop "$stopped"
  wait "$child"
  status=$?
  case $status in
    90) answered_done "$@" ;;
    91) finish 1 ;;
    92) finish 0 ;;
    [2-9] | 70) fail "$status" ;;
  esac
  say "error: Node.js ended with $status before it had an answer$(meaning "$status")"
  say "hint: Look at the lines above and at the kernel's log. $node is $("$node" --version 2>&1 | head -n 1), 20.19 or later is needed."
  fail 70
}

meaning() {
  case $1 in
    0 | 13) printf ': its work never came to an end' ;;
    1) printf ': an uncaught error, or a bundle that is not whole' ;;
    126 | 127) printf ': it could not be started' ;;
    134) printf ': it ran out of memory or crashed' ;;
    137) printf ': it was killed, perhaps for want of memory' ;;
  esac
}

# What a failure with this code ends with: restore_command has its own rule.
fail() { finish "$1"; }

# What "done" ends with: restore_command has its own rule.
answered_done() { finish 0; }

# Passes the signal on, waits for the end of the clean-up, and dies by the same signal.
stop() {
  stopped=$1
  [ -n "$child" ] || return 0
  kill -s "$1" "$child" 2>/dev/null
  wait "$child"
  trap - "$1" EXIT
  kill -s "$1" $$
  exit "$failed"
}
