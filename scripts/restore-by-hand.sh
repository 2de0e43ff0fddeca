#!/bin/sh
# Restores a full base backup and its WAL from a folder that holds the archive, without WAL-T: with age, zstd, tar and a POSIX shell alone.
# Each part of a backup is a tar archive in zstd in age, each WAL file is zstd in age, and where nothing was encrypted age is left out.
set -eu
LC_ALL=C
export LC_ALL
umask 077

usage='usage: restore-by-hand.sh ARCHIVE/SYSTEM_IDENTIFIER BACKUP_ID TARGET [IDENTITY_FILE] [OLD=NEW ...]
       restore-by-hand.sh --wal ARCHIVE/SYSTEM_IDENTIFIER %f %p [IDENTITY_FILE]

The first restores the files of a full backup into TARGET, which is empty or absent, and tells how to go on.
IDENTITY_FILE is what age decrypts with; OLD=NEW puts the tablespace that was at OLD to NEW.
The second is a restore_command: it delivers one WAL file.'

# PostgreSQL takes every code up to 125 for "there is no more WAL", and would open the database without the rest: so a failure is beyond it.
failure=200

die() {
  printf 'restore-by-hand: error: %s\n' "$1" >&2
  [ -z "${2-}" ] || printf 'restore-by-hand: hint: %s\n' "$2" >&2
  exit "$failure"
}

absolute() {
  [ -d "$1" ] || die "there is no folder \"$1\""
  (cd "$1" && pwd)
}

is_empty() {
  [ ! -e "$1" ] || { [ -d "$1" ] && [ -z "$(ls -A "$1")" ]; }
}

# The content of the object in file $1. A shell sees only how the last command of a pipe ended: "$failed" tells of the others.
decode() {
  if dd if="$1" bs=21 count=1 2>/dev/null | grep -q '^age-encryption.org/v1'; then
    [ -n "$identity" ] || die "\"$1\" is encrypted" 'Give the file that holds the identity (AGE-SECRET-KEY-1...).'
    { age --decrypt -i "$identity" "$1" || : >"$failed"; } | { zstd -dcq || : >"$failed"; }
  else
    zstd -dcq <"$1" || : >"$failed"
  fi
}

# restore_command: exit 0 when the file is delivered, 1 when the archive ends before it, above 125 for everything else.
deliver_wal() {
  archive=$1 name=$2 path=$3 identity=${4-}
  failed="$path.failed"
  [ -d "$archive/wal" ] || die "there is no folder \"$archive/wal\"" 'Is the archive mounted?'
  timeline=${name%"${name#????????}"}
  case $name in
  *.history) object="$archive/wal/history/$name" ;;
  *) object="$archive/wal/$timeline/${name%"${name#????????????????}"}/$name" ;;
  esac
  if [ ! -e "$object" ]; then
    expect_end "$timeline" "$name"
    exit 1
  fi
  rm -f "$failed"
  decode "$object" >"$path.part"
  if [ -e "$failed" ]; then
    rm -f "$failed" "$path.part"
    die "\"$object\" could not be decoded"
  fi
  mv "$path.part" "$path"
}

# Where later WAL of timeline $1 is archived, file $2 is not beyond the end, but missing.
expect_end() {
  case $2 in *.*) return ;; esac
  last=
  for last in "$archive/wal/$1"/*/*; do :; done # in order: the last is the newest
  last=${last##*/}
  last=${last%%.*}
  if expr "x$last" \> "x$2" >/dev/null; then
    die "\"$2\" is missing in the middle of the archive: \"$last\" is there" \
      'Find it in another copy. Without it recovery ends here, and all later transactions are lost.'
  fi
}

# The place of a tablespace that was at $1.
place_of() {
  place=$1
  for mapping in $mappings; do
    eval "mapping=\$map_$mapping"
    [ "${mapping%%=*}" != "$1" ] || place=${mapping#*=}
  done
  case $place in
  /*) printf '%s\n' "$place" ;;
  *) die "\"$place\" is not an absolute path" ;;
  esac
}

# Sets last_part. The last one holds pg_control and the labels: it is looked for when all are there.
check_parts() {
  number=0
  for last_part in "$archive/part/$backup"/*; do
    [ -f "$last_part" ] || die "backup $backup has no parts in \"$archive/part\""
    number=$((number + 1))
    [ "${last_part##*/}" = "$(printf '%07d' "$number")" ] || die "part $number of backup $backup is missing" \
      "\"$last_part\" is what comes in its place. Bring it back from another copy of the archive."
  done
}

# Keeps the last part, a small one, beside, and prints the lines of its tablespace_map, if it has one: the links, of which there are none in it.
tablespace_map() {
  decode "$last_part" >"$kept"
  expect_decoded "$last_part"
  tar -tf "$kept" | grep -qx 'global/pg_control' || die "the last part of backup $backup is missing" \
    'Bring it back from another copy of the archive.'
  if tar -tf "$kept" | grep -qx 'tablespace_map'; then
    tar -xOf "$kept" tablespace_map
  fi
}

expect_decoded() {
  [ ! -e "$failed" ] || die "\"$1\" could not be decoded" \
    "Bring it back from another copy of the archive, or take another backup. Remove \"$target\": it is not complete."
}

check_tablespaces() {
  printf '%s\n' "$map" | while IFS= read -r line; do
    [ -n "$line" ] || continue
    case $line in *\\*) die "the path of a tablespace holds a backslash: ${line#* }" 'Unpack and move it by hand.' ;; esac
    place=$(place_of "${line#* }")
    is_empty "$place" || die "the tablespace's place \"$place\" is not empty" "Send it elsewhere: \"${line#* }=/another/folder\"."
  done
  for mapping in $mappings; do
    eval "mapping=\$map_$mapping"
    printf '%s\n' "$map" | sed 's/^[0-9]* //' | grep -Fqx "${mapping%%=*}" || die "the backup has no tablespace at \"${mapping%%=*}\""
  done
}

# Moves what was unpacked into pg_tblspc/<oid> to the tablespace's place and links it. A place that is there, such as a mounted disk, is filled.
place_tablespaces() {
  printf '%s\n' "$map" | while IFS= read -r line; do
    [ -n "$line" ] || continue
    unpacked="$target/pg_tblspc/${line%% *}"
    place=$(place_of "${line#* }")
    if [ -d "$place" ]; then
      mv "$unpacked"/* "$place/"
      rmdir "$unpacked"
    else
      mkdir -p "${place%/*}/"
      mv "$unpacked" "$place"
    fi
    ln -s "$place" "$unpacked"
  done
}

# pg_control, which makes a cluster of all this, comes when everything else is at its place. tablespace_map does not come at all: from it
# PostgreSQL would make the links anew, to the old places.
restore() {
  for part in "$archive/part/$backup"/*; do
    [ "$part" != "$last_part" ] || continue
    decode "$part" | tar -xpf - -C "$target" || : >"$failed"
    expect_decoded "$part"
  done
  place_tablespaces
  tar -xpf "$kept" -C "$target" --exclude tablespace_map --exclude global/pg_control
  tar -xpf "$kept" -C "$target" global/pg_control
}

tell_how_to_go_on() {
  case $0 in */*) self=$(absolute "${0%/*}")/${0##*/} ;; *) self=$(command -v "$0") ;; esac
  echo "The files of backup $backup are in \"$target\". To recover with all archived WAL:
1. Configuration files that were outside the data directory are in wal-t-config/: put them where they belong.
2. Give all to the user that PostgreSQL runs as, unless it is so already.
3. Write these lines into \"$target/postgresql.auto.conf\":
archive_mode = 'off'
restore_command = '\"$self\" --wal \"$archive\" \"%f\" \"%p\"${identity:+ \"$identity\"}'
4. Make an empty file \"$target/recovery.signal\", and start PostgreSQL.
   While archive_mode is off nothing of the new server is archived: turn it on when it has taken the old one's place."
}

if [ "${1-}" = --wal ]; then
  [ $# -ge 4 ] || die "$usage"
  shift
  deliver_wal "$@"
  exit 0
fi

failure=1
[ $# -ge 3 ] || die "$usage"
archive=$(absolute "$1") backup=$2 target=$3 identity='' mappings='' count=0
shift 3
for word in "$@"; do
  case $word in
  *=*)
    count=$((count + 1))
    eval "map_$count=\$word"
    mappings="$mappings $count"
    ;;
  *) identity=$(absolute "$(dirname "$word")")/$(basename "$word") ;;
  esac
done
[ -z "$identity" ] || [ -r "$identity" ] || die "could not read \"$identity\""
case $backup in *-full-*) ;; *) die "\"$backup\" is no full backup" 'Increments need WAL-T; a full backup and its WAL do not.' ;; esac
check_parts
[ -e "$archive/lease/$backup/closed" ] || die "backup $backup was never confirmed: it may lack parts or WAL" \
  "Choose another; or, if you are sure of it, make the file \"$archive/lease/$backup/closed\"."
is_empty "$target" || die "\"$target\" is not empty" 'Give an empty folder, or one that does not exist yet.'
mkdir -p "$target"
target=$(absolute "$target")
failed="$target/.failed" kept="$target/.last-part"
trap 'rm -f "$failed" "$kept"' EXIT
map=$(tablespace_map)
check_tablespaces
restore
tell_how_to_go_on
