//! TLS towards the platform, which is a real nginx here.

use crate::pki::{Minted, Template};
use crate::world::World;

use super::nginx::Nginx;

/// nginx that shows a certificate for `platform.internal` and requires one of the edge's CA.
struct Platform {
    nginx: Nginx,
    ca: Minted,
    edge_ca: Minted,
}

impl Platform {
    fn start(listen: &str) -> Platform {
        let ca = Template::ca("platform CA").self_signed();
        let edge_ca = Template::ca("edge CA").self_signed();
        let server = Template::server(&["platform.internal"]).signed_by(&ca);
        let block = "ssl_certificate server.pem;\nssl_certificate_key server.key;\n\
                     ssl_verify_client on;\nssl_client_certificate edge-ca.pem;\n\
                     location / { return 200 \
                     \"$server_protocol|$ssl_client_s_dn|$ssl_server_name|$http_x_ssl_cert_chain\"; }";
        let files = [
            ("server.pem", server.pem().into_bytes()),
            ("server.key", server.key.pem()),
            ("edge-ca.pem", edge_ca.pem().into_bytes()),
        ];
        Platform { nginx: Nginx::start(listen, block, &files), ca, edge_ca }
    }

    /// A world that reaches it, with these keys of `tls`.
    fn world(&self, tls: &str) -> World {
        World::with(|world, config| {
            let edge = Template::device("the-edge").signed_by(&self.edge_ca);
            world.write("platform-ca.pem", self.ca.pem());
            world.write("edge.pem", edge.pem());
            world.write_key("edge.key", &edge.key);
            let other = Template::ca("platform CA").self_signed();
            world.write("other-ca.pem", other.pem());
            let stranger = Template::device("the-edge").signed_by(&other);
            world.write("stranger.pem", stranger.pem());
            world.write_key("stranger.key", &stranger.key);
            config.platform = format!(
                "http: [\"{}\"]\ntls: {{ {tls} }}\nhealth: {{ interval: 1h, unhealthy_after: 100 }}",
                self.nginx.address()
            );
        })
    }
}

const CERTIFICATE: &str = "certificate: { chain: edge.pem, key: edge.key }";

#[test]
fn the_edge_shows_its_own_certificate_and_checks_the_platforms() {
    let platform = Platform::start("ssl");
    let world = platform
        .world(&format!("server_name: platform.internal, ca_file: platform-ca.pem, {CERTIFICATE}"));
    let text = world.acme_client().get("/").unwrap().text();
    let parts: Vec<&str> = text.split('|').collect();
    assert_eq!(parts[..3], ["HTTP/1.1", "CN=the-edge", "platform.internal"], "{text}");
    assert_eq!(parts[3].matches("BEGIN CERTIFICATE").count(), 3);
}

#[test]
fn http2_is_spoken_inside_tls_where_both_want_it() {
    for (listen, expected) in [("ssl http2", "HTTP/2.0"), ("ssl", "HTTP/1.1")] {
        let platform = Platform::start(listen);
        let world = platform.world(&format!(
            "server_name: platform.internal, ca_file: platform-ca.pem, http2: true, {CERTIFICATE}"
        ));
        let text = world.acme_client().get("/").unwrap().text();
        assert!(text.starts_with(&format!("{expected}|CN=the-edge|")), "{listen}: {text}");
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 3);
    }
}

#[test]
fn a_platform_of_another_ca_or_name_is_a_bad_gateway() {
    let platform = Platform::start("ssl");
    for tls in [
        "server_name: platform.internal, ca_file: other-ca.pem",
        "server_name: other.internal, ca_file: platform-ca.pem",
        "server_name: platform.internal",
    ] {
        let world = platform.world(&format!("{tls}, {CERTIFICATE}"));
        let response = world.acme_client().get("/").unwrap();
        assert_eq!(response.status, 502, "{tls}");
        assert_eq!(response.json()["error"], "general/badGateway", "{tls}");
    }
}

#[test]
fn a_platform_that_refuses_the_edges_certificate_serves_nothing() {
    let platform = Platform::start("ssl");
    let ca = "server_name: platform.internal, ca_file: platform-ca.pem";
    for tls in
        [ca.to_owned(), format!("{ca}, certificate: {{ chain: stranger.pem, key: stranger.key }}")]
    {
        let response = platform.world(&tls).acme_client().get("/").unwrap();
        // nginx's own page: it accepts the handshake and then refuses the request.
        assert_eq!(response.status, 400, "{tls}: {response:?}");
        assert!(!response.text().contains("CN="), "{response:?}");
    }
}
