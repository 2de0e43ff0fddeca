# shellcheck shell=sh disable=SC2154,SC3013 # $cluster is the launcher's; -nt is POSIX's since 2024, and a shell without it says no
# Read by wal-push and wal-fetch; not to be called. What an earlier call did ahead of PostgreSQL (src/cluster/ahead.ts) is taken here,
# without Node.js, but only where it was done for this very start of the server, with these settings, as they were given (H4, H9).
# Builtins alone, and any doubt means no: then Node.js does the work again.

# is_bound FOLDER WORDS: does FOLDER's file "bound" say just that? WORDS: what else it must say.
is_bound() {
  [ -f "$1/bound" ] || return 1
  { read -r pid && read -r _ && read -r started; } <"$cluster/postmaster.pid" || return 1
  config=${WALT_CONFIG:-/etc/wal-t.env}
  for newer in "$config" "${AWS_CONFIG_FILE:-${HOME-}/.aws/config}" "${AWS_SHARED_CREDENTIALS_FILE:-${HOME-}/.aws/credentials}"; do
    [ ! "$newer" -nt "$1/bound" ] || return 1
  done
  # the same lines as in src/place.ts
  given="$pid $started
$2
${WALT_CONFIG-}
${WALT_REPO-}
${WALT_PGDATA-}
${WALT_SYSTEM_IDENTIFIER-}
${WALT_AGE_RECIPIENTS_FILE-}
${WALT_AUTH_KEY_FILE-}
${WALT_S3_FORCE_PATH_STYLE-}
${WALG_FILE_PREFIX-}
${WALG_S3_PREFIX-}
${AWS_ENDPOINT_URL_S3-}
${AWS_ENDPOINT_URL-}
${AWS_ENDPOINT-}
${AWS_REGION-}
${AWS_DEFAULT_REGION-}
${AWS_PROFILE-}
${AWS_CONFIG_FILE-}
${AWS_SHARED_CREDENTIALS_FILE-}
${AWS_ACCESS_KEY_ID-}
${AWS_S3_FORCE_PATH_STYLE-}
${HOME-}
"
  if [ -e "$config" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      case $line in # names a file that Node.js reads instead: its time counts, too
        *AWS_CONFIG_FILE*=* | *AWS_SHARED_CREDENTIALS_FILE*=*)
          newer=${line#*=} newer=${newer#"${newer%%[![:space:]]*}"} newer=${newer%"${newer##*[![:space:]]}"}
          case $newer in \"*\" | \'*\') newer=${newer#?} newer=${newer%?} ;; esac
          [ ! "$newer" -nt "$1/bound" ] || return 1
          ;;
      esac
      case $line in
        *WALT_REPO* | *WALT_PGDATA* | *WALT_SYSTEM_IDENTIFIER* | *WALT_AGE_RECIPIENTS_FILE* | *WALT_AUTH_KEY_FILE* | *PREFIX* | *ENDPOINT* | \
          *REGION* | *PROFILE* | *CONFIG_FILE* | *CREDENTIALS_FILE* | *AWS_ACCESS_KEY_ID* | *FORCE_PATH_STYLE*)
          given=$given$line'
' ;;
      esac
    done <"$config" || return 1
  fi
  bound=''
  while IFS= read -r line; do
    bound=$bound$line'
'
  done <"$1/bound" || return 1
  [ "$bound" = "$given" ]
}
