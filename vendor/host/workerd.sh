#!/bin/sh
# Started by wrangler in place of workerd (MINIFLARE_WORKERD_PATH): adds the options that wrangler does not pass on.
#   VANTAGE_SNAPSHOT      save: write a memory snapshot after the Worker's top level has run; load: start from it
#   VANTAGE_SNAPSHOT_DIR  the folder of that snapshot
set -eu
here=$(dirname "$(readlink -f "$0")")
# npm installs only the package of this machine: workerd-linux-64, workerd-linux-arm64, workerd-darwin-arm64, ...
workerd=$(ls -d "$here"/node_modules/@cloudflare/workerd-*/bin/workerd 2>/dev/null | head -n 1)
if [ -z "$workerd" ]; then
  echo "no workerd under $here/node_modules: run \`make install\`" >&2
  exit 1
fi
command=$1
shift
case "${VANTAGE_SNAPSHOT:-}" in
  save) set -- --python-save-snapshot --python-snapshot-dir="$VANTAGE_SNAPSHOT_DIR" "$@" ;;
  load) set -- --python-load-snapshot=snapshot.bin --python-snapshot-dir="$VANTAGE_SNAPSHOT_DIR" "$@" ;;
esac
exec "$workerd" "$command" --pyodide-bundle-disk-cache-dir="$here/.pyodide" "$@"
