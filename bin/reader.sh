# shellcheck shell=sh disable=SC3013 # -ef is POSIX's since 2024, and a shell without it says no
# Started by wal-fetch (src/cli/background.ts); not to be called. Runs a command that goes on when the call that has started it is over: what
# fetches ahead of PostgreSQL while it replays.
#
# PostgreSQL takes a child that it does not know, and that ends otherwise than with 0 or 1, for a crashed server process, over which it
# restarts (H5). As PID 1 of a container, or as a "subreaper", it becomes the parent of whatever has lost its own. So nothing is begun
# here that a PostgreSQL would have to bury, nor where that cannot be seen; and whatever becomes of the command, this ends with 0: PID 1
# may be a script that makes itself a PostgreSQL later.
#
#   sh reader.sh begin FOLDER COMMAND [WORD ...]    starts the next in the background, in the session that was made for it
#   sh reader.sh FOLDER PARENT COMMAND [WORD ...]   says its process id once PARENT is gone, and runs the command when descriptor 3 says so
trap 'exit 0' EXIT

# is_postgres PID: is that a PostgreSQL, or is there any doubt?
is_postgres() {
  read -r name <"/proc/$1/comm" || return 0
  case $name in *[Pp]ostgres* | *[Pp]ostmaster*) return 0 ;; esac
  read -r postmaster <postmaster.pid || return 0
  [ "$1" = "$postmaster" ] || [ "/proc/$1/exe" -ef "/proc/$postmaster/exe" ] # whatever its name is
} 2>/dev/null

if [ "$1" = begin ]; then
  folder=$2
  shift 2
  if is_postgres 1; then exit; fi
  /bin/sh "$0" "$folder" "$$" "$@" &
  exit
fi

child=''
stop() {
  trap '' TERM
  [ -z "$child" ] || kill -s TERM "$child" 2>/dev/null
  wait
  exit
}
trap stop TERM INT QUIT USR1 USR2 ALRM
trap '' HUP # its session has no terminal

folder=$1 parent=$2
shift 2
adopter=$parent tries=0
until [ "$adopter" != "$parent" ]; do
  { read -r _ _ _ adopter _ </proc/$$/stat; } 2>/dev/null || exit
  tries=$((tries + 1))
  if [ "$tries" -gt 100 ]; then sleep 0.01 || exit; fi
  [ "$tries" -lt 300 ] || exit
done
if is_postgres "$adopter"; then exit; fi

printf '%s\n' $$
read -r word <&3
[ "$word" = begin ] || exit
# Neither PostgreSQL's log, which its collector keeps open for as long as anybody may write into it, nor any other file of PostgreSQL's
exec </dev/null >/dev/null 2>>"$folder/said" 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-
WALT_LAUNCHER=$$ "$@" &
child=$!
wait "$child"
