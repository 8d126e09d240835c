#!/bin/bash
# Registers a million devices by one upload of CSV, and says what that takes.
#
#   PORTCULLIS_BIN=target/release/portcullis benches/import.sh [--postgres]
#
# The edge keeps them in SQLite, or in a PostgreSQL that is started for it (Debian's binaries;
# durable commits, as in production). ROWS: how many devices, 1000000 by default. Prints the
# seconds of the upload, its rows in a second, and the peak of resident memory (VmHWM) of the
# edge and of the client, and what the registry takes on the disk.
set -euo pipefail

BIN=${PORTCULLIS_BIN:-portcullis}
ROWS=${ROWS:-1000000}
ENGINE=sqlite
case "${1:-}" in
--postgres) ENGINE=postgres ;;
'') ;;
*) printf 'usage: PORTCULLIS_BIN=… %s [--postgres]\n' "$0" >&2 && exit 2 ;;
esac

DIR=$(mktemp -d)
EDGE= SERVER=
finish() {
    if [ -n "$EDGE" ]; then kill "$EDGE" 2>/dev/null && wait "$EDGE" || true; fi
    if [ -n "$SERVER" ]; then kill -INT "$SERVER" 2>/dev/null && wait "$SERVER" || true; fi
    rm -rf "$DIR"
}
trap finish EXIT

fail() {
    printf '%s\n' "$1" >&2
    [ ! -f "$DIR/edge.log" ] || tail -n 20 "$DIR/edge.log" >&2
    exit 1
}

# Waits up to a minute until a command succeeds.
until_so() {
    local tries=600
    until "${@:2}" >/dev/null 2>&1; do
        [ $((tries -= 1)) -gt 0 ] || fail "not so within a minute: $1"
        sleep 0.1
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# $1: a process. What it held in memory at most so far, in MiB.
peak() { awk '/^VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }

start_postgres() {
    local as=() port
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -x "$bin/initdb" ] || fail 'PostgreSQL is not installed: apt-get install postgresql'
    port=$(free_port)
    mkdir "$DIR/pg"
    if [ "$(id -u)" = 0 ]; then
        # It refuses to run as root.
        as=(setpriv --reuid=postgres --regid=postgres --clear-groups --)
        chown postgres:postgres "$DIR/pg"
        chmod 711 "$DIR"
    fi
    cd "$DIR/pg"
    "${as[@]}" "$bin/initdb" --auth=trust --username=postgres --encoding=UTF8 -D "$DIR/pg/data" >/dev/null
    "${as[@]}" "$bin/postgres" -D "$DIR/pg/data" -k "$DIR/pg" -p "$port" \
        -c listen_addresses=127.0.0.1 >/dev/null 2>"$DIR/pg.log" &
    SERVER=$!
    cd - >/dev/null
    until_so 'PostgreSQL runs' "$bin/pg_isready" -h 127.0.0.1 -p "$port"
    URL="postgres://postgres@127.0.0.1:$port/postgres?sslmode=disable"
    size() { "$bin/psql" -qAt "$URL" -c 'SELECT pg_database_size(current_database()) / 1048576.0'; }
}

URL="sqlite:$DIR/registry.db"
size() { cat "$DIR"/registry.db* | wc -c | awk '{ printf "%.1f", $1 / 1048576 }'; }
[ "$ENGINE" = sqlite ] || start_postgres

# An edge of one tenant that needs no devices here.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -subj /CN=import.example.com -addext subjectAltName=DNS:import.example.com \
    -keyout "$DIR/server.key" -out "$DIR/server.pem" 2>/dev/null
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$DIR/token.key"
openssl rand -hex 24 >"$DIR/admin.token"
chmod 600 "$DIR"/*.key "$DIR/admin.token"
ADMIN=$(free_port)
cat >"$DIR/portcullis.yaml" <<C
listeners: { https: [{ bind: "127.0.0.1:0" }] }
admin: { bind: "127.0.0.1:$ADMIN", token_file: admin.token }
registry: { url: "$URL" }
log: { format: text, level: info, requests: false }
tokens: { signing_keys: [{ kid: k1, file: token.key }] }
upstreams: { none: { http: ["127.0.0.1:9"] } }
tenants:
  - id: acme
    server_names: [import.example.com]
    certificate: { chain: server.pem, key: server.key }
    trusted_certificates: [{ file: server.pem }]
    upstream: none
C
"$BIN" run --config "$DIR/portcullis.yaml" 2>"$DIR/edge.log" &
EDGE=$!
until_so 'the edge serves' curl -fsS "http://127.0.0.1:$ADMIN/healthz"
before=$(peak "$EDGE")

awk -v rows="$ROWS" 'BEGIN {
    print "ID,AUTH_TYPE,TENANT,TYPE,NAME"
    for (n = 0; n < rows; n++) printf "device-%08d,CERTIFICATES,acme,sensor,Sensor %d\n", n, n
}' >"$DIR/devices.csv"

# -T streams; --data-binary would read the file into memory first.
started=$(date +%s%N)
curl -sS -X POST -T "$DIR/devices.csv" -H 'Content-Type: text/csv' -H 'Expect:' \
    -H "Authorization: Bearer $(cat "$DIR/admin.token")" -o "$DIR/answer.json" -w '%{http_code}\n' \
    "http://127.0.0.1:$ADMIN/devicecontrol/bulkNewDeviceRequests" >"$DIR/status" &
client=$! client_peak=0
# The last look before it ends is its peak: memory of a process only counts while it lives.
while now=$(peak "$client" 2>/dev/null) && [ -n "$now" ]; do
    client_peak=$now
    sleep 0.02
done
wait "$client" || fail 'the upload failed'
ended=$(date +%s%N)
[ "$(cat "$DIR/status")" = 201 ] || fail "answered $(cat "$DIR/status"): $(head -c 500 "$DIR/answer.json")"
created=$(sed -nE 's/.*"numberOfCreated":([0-9]+).*/\1/p' "$DIR/answer.json")
[ "$created" = "$ROWS" ] || fail "of $ROWS rows $created were registered"

awk -v engine="$ENGINE" -v rows="$ROWS" -v ns=$((ended - started)) -v before="$before" \
    -v edge="$(peak "$EDGE")" -v client="$client_peak" -v disk="$(size)" 'BEGIN {
    seconds = ns / 1e9
    printf "engine          %s\n", engine
    printf "rows            %d\n", rows
    printf "seconds         %.2f\n", seconds
    printf "rows/s          %.0f\n", rows / seconds
    printf "edge peak RSS   %.1f MiB (%.1f before the upload)\n", edge, before
    printf "client peak RSS %.1f MiB\n", client
    printf "on the disk     %.1f MiB\n", disk
}'
