//! The admin API on a whole edge: what it does to devices, whom it obeys, and what it never
//! does.

mod access;
mod anchors;
mod by_certificate;
mod description;
mod devices;
mod identities;
mod pins;
mod port;
mod records;
mod revocations;

use openssl::ssl::{SslSession, SslVersion};
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::pki::{Minted, Template};
use crate::tls::sessions::offering;
use crate::world::{Api, Client, Connection, Failure, World, anchors};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];
const ACME: &str = "/tenant/tenants/acme";
const UNKNOWN_CA: Failure = Failure::Alert(48);
/// A CA's certificate as a device's, where no pin says that it is one.
const NOT_AN_END_ENTITY: Failure = Failure::Alert(43);
const LIFESPAN: &str = "/tenant/tenants/acme/options/oauth.internal/device-token.lifespan.seconds";

/// A CA that no file names, with a device that sends its whole chain.
struct Newcomer {
    root: Minted,
    issuing: Minted,
    device: Minted,
}

impl Newcomer {
    fn new() -> Newcomer {
        let root = Template::ca("Newcomer root").self_signed();
        let issuing = Template::ca("Newcomer issuing").signed_by(&root);
        let device = Template::device("newcomer-1").signed_by(&issuing);
        Newcomer { root, issuing, device }
    }

    fn client(&self, world: &World) -> Client {
        world.client("acme.example.com").identity(&[&self.device, &self.issuing])
    }
}

/// How the edge refuses a ticket's handshake, or the request after it.
#[track_caller]
fn refusal(client: &Client, session: &SslSession) -> Failure {
    offering(client.clone(), session).get("/").expect_err("the edge lets it in")
}

/// One GET on an open connection.
#[track_caller]
fn status(connection: &mut Connection) -> u16 {
    connection.get("/").unwrap().status
}

fn claims(token: &str) -> Value {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// A self-signed certificate as a device makes one for itself.
fn self_signed(name: &str) -> Minted {
    Template::blank(name).basic_constraints(true, None).self_signed()
}

fn serial(certificate: &Minted) -> String {
    let certificate = X509::from_der(&certificate.der).unwrap();
    certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string()
}

/// Has a tenant prove that it holds the key of an uploaded CA.
#[track_caller]
pub fn prove(api: &Api, tenant: &str, fingerprint: &str, ca: &Minted) -> u16 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let path = format!("{}-pop/{fingerprint}", anchors(tenant));
    let asked = api.ask("POST", &format!("{path}/verification-code"), Value::Null);
    assert_eq!(asked.status, 200, "{asked:?}");
    let code = asked.json()["proofOfPossessionUnsignedVerificationCode"].clone();
    let signed = STANDARD.encode(ca.key.sign(code.as_str().unwrap().as_bytes()));
    let body = json!({ "proofOfPossessionSignedVerificationCode": signed });
    api.ask("POST", &format!("{path}/pop"), body).status
}
