#!/bin/bash
# nginx as the yardstick for a cached token: the same mutual TLS, and to every request one
# answer that stands in its configuration, with the headers and of the size that the edge's
# token answer has for the harness' devices (BODY). Started by the same harness as the edge:
#
#   PORTCULLIS_BIN=target/release/portcullis BENCH_ADAPTERS=benches/edge \
#     run.sh --peers portcullis,nginx-static --modes token
. "$BENCH_LIB"
NGINX=${NGINX_BIN:-nginx}
BODY=521

conf() {
    local t token
    token=$(head -c $((BODY - 18)) /dev/zero | tr '\0' x)
    cat <<C
user root; worker_processes 1; daemon off; pid $B_DIR/nginx.pid; error_log $B_DIR/error.log crit;
worker_rlimit_nofile 20000;
events { worker_connections 16000; }
http {
  access_log off; server_tokens off;
  client_body_temp_path $B_DIR/b; proxy_temp_path $B_DIR/p; fastcgi_temp_path $B_DIR/f;
  uwsgi_temp_path $B_DIR/u; scgi_temp_path $B_DIR/s;
  keepalive_timeout 1h; keepalive_requests 100000000; client_header_timeout 1h;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers $CIPHERS12; ssl_ecdh_curve X25519:prime256v1;
  ssl_session_cache shared:tls:20m; ssl_session_timeout 1h; ssl_buffer_size 4k;
  ssl_certificate $B_PKI/server.pem; ssl_certificate_key $B_PKI/server.key; ssl_verify_depth 3;
C
    echo "  server { listen 127.0.0.1:$B_HTTPS ssl http2 default_server backlog=4096; ssl_reject_handshake on; }"
    for t in $(tenants); do
        cat <<C
  server {
    listen 127.0.0.1:$B_HTTPS ssl http2; server_name $t.$SNI_SUFFIX;
    ssl_client_certificate $B_PKI/tenants/$t/ca.pem; ssl_verify_client on;
    location / {
      default_type "application/vnd.com.nsn.cumulocity.managedobject+json; charset=UTF-8; ver=0.9";
      add_header Cache-Control no-store;
      return 200 '{"accessToken":"$token"}';
    }
  }
C
    done
    echo "}"
}

case $1 in
info)
    echo "protocols: https"
    echo "version: $("$NGINX" -v 2>&1 | sed -n 's/^nginx version: nginx.//p'), $(openssl_version)"
    ;;
conf) conf >"$B_DIR/nginx.conf" ;;
run) exec "$NGINX" -p "$B_DIR" -c "$B_DIR/nginx.conf" ;;
reload) kill -HUP "$B_PID" ;;
esac
