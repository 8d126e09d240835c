#!/bin/bash
# The edge as the comparison harness starts it (verbs: info, conf, run, reload; variables
# B_*: see the harness's lib.sh, which $BENCH_LIB names). One worker: the harness pins the
# process to one core.
#
#   PORTCULLIS_BIN=target/release/portcullis BENCH_ADAPTERS=benches/edge \
#     run.sh --peers portcullis,nginx,haproxy,envoy \
#     --modes handshake,resume,request,token,idle,mqtt-connect,mqtt-pub0,mqtt-pub1,mqtt-idle
#
# The dialect is the one that the harness's upstream reads of all that the edge speaks, with
# the whole chain as Envoy sends it.
#
# Variant `portcullis:fresh`: a token cache of one entry, so that every token is signed anew.
. "$BENCH_LIB"
BIN=${PORTCULLIS_BIN:-portcullis}

conf() {
    # The product refuses keys that others can read.
    install -m 600 "$B_PKI/server.key" "$B_DIR/server.key"
    install -m 600 "$B_PKI/token.key" "$B_DIR/token.key"
    local cache=65536
    [ "${B_VARIANT:-}" != fresh ] || cache=1
    local mqtts= brokers=
    if [ -n "${B_MQTTS:-}" ]; then
        mqtts=", mqtts: [{ bind: \"127.0.0.1:$B_MQTTS\" }]"
        brokers="mqtt: [\"$B_UP_MQTT\"], "
    fi
    cat <<C
workers: 1
listeners: { https: [{ bind: "127.0.0.1:$B_HTTPS" }]$mqtts }
admin: { bind: "127.0.0.1:$((B_HTTPS + 8))" }
registry: { url: "sqlite:$B_DIR/portcullis.db" }
limits: { connections: 20000, connections_per_address: 20000, handshakes_per_address: 512, idle_timeout: 1h, token_cache: $cache }
log: { format: text, level: error, requests: false }
tokens: { signing_keys: [{ kid: bench, file: $B_DIR/token.key }] }
upstreams: { app: { http: ["$B_UP_HTTP"], ${brokers}timeouts: { idle: 1h } } }
tenants:
C
    local t
    for t in $(tenants); do
        echo "  - id: $t
    server_names: [$t.$SNI_SUFFIX]
    certificate: { chain: $B_PKI/server.pem, key: $B_DIR/server.key }
    trusted_certificates: [{ file: $B_PKI/tenants/$t/ca.pem, auto_registration: true }]
    upstream: app
    forward: { chain: x-forwarded-client-cert }
    mqtt: { client_ids: any, upstream_client_id: \"{tenant}/{device}/{client_id}\" }
    limits: { connections: 20000 }"
    done
}

case $1 in
info)
    echo "protocols: https mqtts"
    echo "version: $("$BIN" --version 2>/dev/null || echo "not installed")"
    ;;
conf) conf >"$B_DIR/config.yaml" ;;
run) exec "$BIN" run -c "$B_DIR/config.yaml" ;;
reload) kill -HUP "$B_PID" ;;
esac
