#!/bin/sh
# Run by the official PostgreSQL image when it has made a cluster, and never again: makes the repository if it is not there.
# A failure does not end the start, which would leave half a cluster: nothing is lost, WAL stays until it can be archived.
/opt/wal-t/bin/wal-t init ||
  echo 'wal-t: hint: Nothing is archived until this is mended and "wal-t init" was run in this container.' >&2
