//! The admin port as the file describes it, and the files that it names.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use boring::sha::sha256;

use super::decode::Decoder;
use super::fault::{Fault, Located, Source, quoted};
use super::files::certificate_fault;
use super::files::{File, Files, in_file, open};
use super::node::Node;
use super::upstream_model::CertificateModel;
use super::values::{FileRef, is_label};
use crate::admin_settings::{AdminSettings, AdminTls, Credential, CredentialSecret, Role};
use crate::names::{ServerName, TenantId};
use crate::server_certificate::ServerCertificate;
use crate::trust::read_pem;

/// Characters of a token, as from `openssl rand -hex 16`.
const LEAST_TOKEN: usize = 32;
const MOST_TOKEN: usize = 512;
const MAX_CREDENTIALS: usize = 10_000;
const MAX_CLIENT_CAS: usize = 100;

pub struct AdminModel {
    pub bind: SocketAddr,
    pub token_file: Option<FileRef>,
    pub credentials: Vec<CredentialModel>,
    pub tls: Option<AdminTlsModel>,
    pub hosts: Vec<String>,
}

pub struct CredentialModel {
    pub name: Located<String>,
    pub secret: SecretModel,
    pub role: Role,
    pub tenant: Option<Located<TenantId>>,
}

pub enum SecretModel {
    TokenFile(FileRef),
    CommonName(Located<String>),
}

pub struct AdminTlsModel {
    pub certificate: CertificateModel,
    pub client_ca: Option<FileRef>,
}

impl Default for AdminModel {
    fn default() -> AdminModel {
        AdminModel {
            bind: (Ipv4Addr::LOCALHOST, 9090).into(),
            token_file: None,
            credentials: Vec::new(),
            tls: None,
            hosts: Vec::new(),
        }
    }
}

impl AdminModel {
    pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<AdminModel> {
        let default = AdminModel::default();
        let mut fields = d.mapping(node)?;
        let bind = fields.or(d, "bind", default.bind, Decoder::socket_address);
        let token_file = fields.optional(d, "token_file", Decoder::file);
        let credentials = fields.optional(d, "credentials", |d, node| d.list(node, credential));
        // A port whose `tls` is faulty is not a port without TLS.
        let tls = fields.or_if_absent(d, "tls", None, |d, node| tls(d, node).map(Some));
        let hosts = fields.optional(d, "hosts", |d, node| {
            d.list(node, |d, node| {
                let name = d.parsed(node, "such as `edge.example.com`", ServerName::parse_unicode);
                name.map(|name| name.as_str().to_owned())
            })
        });
        fields.finish(d);
        Some(AdminModel {
            bind,
            token_file,
            credentials: credentials.unwrap_or_default(),
            tls: tls?,
            hosts: hosts.unwrap_or_default(),
        })
    }
}

fn credential(d: &mut Decoder<'_>, node: &Node) -> Option<CredentialModel> {
    let mut fields = d.mapping(node)?;
    let name = fields.required(d, "name", "name: night-shift", |d, node| {
        let name = d.text(node)?;
        if !is_label(name) {
            d.fault(node.at, "not a name", "1 to 63 of `A-Z a-z 0-9 - _ .`");
            return None;
        }
        Some(Located { value: name.to_owned(), at: node.at })
    });
    let token_file = fields.optional(d, "token_file", Decoder::file);
    let common_name = fields.optional(d, "common_name", |d, node| {
        d.line(node, 64).map(|value| Located { value: value.to_owned(), at: node.at })
    });
    let role = fields.required(d, "role", "role: viewer", |d, node| {
        d.choice(node, &[("viewer", Role::Viewer), ("operator", Role::Operator)])
    });
    let tenant = fields.or_if_absent(d, "tenant", None, |d, node| {
        let value = d.parsed(node, "the `id` of a tenant", TenantId::parse)?;
        Some(Some(Located { value, at: node.at }))
    });
    let given = fields.key("token_file").is_some() || fields.key("common_name").is_some();
    fields.finish(d);
    let secret = match (token_file, common_name) {
        (Some(file), None) => Some(SecretModel::TokenFile(file)),
        (None, Some(name)) => Some(SecretModel::CommonName(name)),
        (Some(_), Some(_)) => {
            d.fault(
                node.at,
                "two ways to prove one principal",
                "write `token_file` or `common_name`",
            );
            None
        }
        (None, None) => {
            if !given {
                d.fault(
                    node.at,
                    "a principal needs a way to prove itself",
                    "write `token_file: …`, or `common_name: …` of its client certificate",
                );
            }
            None
        }
    };
    Some(CredentialModel { name: name?, secret: secret?, role: role?, tenant: tenant? })
}

fn tls(d: &mut Decoder<'_>, node: &Node) -> Option<AdminTlsModel> {
    let mut fields = d.mapping(node)?;
    let certificate = fields.required(
        d,
        "certificate",
        "certificate: { chain: admin.pem, key: admin.key }",
        CertificateModel::decode,
    );
    let client_ca = fields.or_if_absent(d, "client_ca", None, |d, node| d.file(node).map(Some));
    fields.finish(d);
    Some(AdminTlsModel { certificate: certificate?, client_ca: client_ca? })
}

/// What a fault is reported in is left out: it refuses the whole configuration.
pub fn compile(
    source: &Source,
    model: &AdminModel,
    files: &mut Files,
    faults: &mut Vec<Fault>,
) -> AdminSettings {
    let mut credentials = Vec::new();
    if let Some(file) = &model.token_file {
        credentials.extend(token(source, file, files, faults).map(|token| Credential {
            name: "admin".to_owned(),
            secret: token,
            role: Role::Operator,
            tenant: None,
        }));
    }
    if let Some(one_more) = model.credentials.get(MAX_CREDENTIALS) {
        let message = format!("more than {MAX_CREDENTIALS} credentials");
        faults.push(Fault::at(source, one_more.name.at, message));
    }
    for principal in model.credentials.iter().take(MAX_CREDENTIALS) {
        let secret = match &principal.secret {
            SecretModel::TokenFile(file) => token(source, file, files, faults),
            SecretModel::CommonName(name) => {
                if model.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
                    let message = "a client certificate without a CA that could have issued it";
                    let help = "write `admin.tls.client_ca: …`";
                    faults.push(Fault::at(source, name.at, message).help(help));
                }
                Some(CredentialSecret::CommonName(name.value.clone()))
            }
        };
        let Some(secret) = secret else { continue };
        if let Some(same) = credentials.iter().find(|known: &&Credential| known.secret == secret) {
            let message = format!(
                "{} proves itself as {} does",
                quoted(&principal.name.value),
                quoted(&same.name)
            );
            let help = "give each principal a token, or a certificate, of its own";
            faults.push(Fault::at(source, principal.name.at, message).help(help));
        }
        if credentials.iter().any(|known| known.name == principal.name.value) {
            let message = format!("the name {} is given twice", quoted(&principal.name.value));
            let help = "the audit log tells principals apart by their names (`token_file` alone is `admin`)";
            faults.push(Fault::at(source, principal.name.at, message).help(help));
        }
        credentials.push(Credential {
            name: principal.name.value.clone(),
            secret,
            role: principal.role,
            tenant: principal.tenant.as_ref().map(|tenant| tenant.value.clone()),
        });
    }
    let tls = match &model.tls {
        None => None,
        Some(tls) => {
            let chain = &tls.certificate.chain;
            let key = &tls.certificate.key;
            let chain = open(source, chain, files.read(&chain.path), faults);
            let key = open(source, key, files.read_secret(&key.path), faults);
            let ca =
                tls.client_ca.as_ref().map(|ca| open(source, ca, files.read(&ca.path), faults));
            let ca = ca.map_or(Some(None), |ca| ca.map(Some));
            let bytes = |file: Arc<File>| file.bytes.clone();
            if let (Some(chain), Some(key)) = (&chain, &key)
                && let Err(reason) = ServerCertificate::from_pem(&chain.bytes, &key.bytes)
            {
                faults.push(certificate_fault(source, &tls.certificate, &reason));
            }
            if let (Some(Some(ca)), Some(named)) = (&ca, &tls.client_ca)
                && let Err(reason) = read_pem(&ca.bytes, MAX_CLIENT_CAS)
            {
                faults.push(in_file(source, named, &reason));
            }
            match (chain, key, ca) {
                (Some(chain), Some(key), Some(ca)) => Some(AdminTls {
                    chain: bytes(chain),
                    key: bytes(key),
                    client_ca: ca.map(bytes),
                }),
                _ => None,
            }
        }
    };
    AdminSettings { bind: model.bind, credentials, tls, hosts: model.hosts.clone() }
}

/// A bearer token: one line, of which only the hash is kept.
fn token(
    source: &Source,
    named: &FileRef,
    files: &mut Files,
    faults: &mut Vec<Fault>,
) -> Option<CredentialSecret> {
    let file = open(source, named, files.read_secret(&named.path), faults)?;
    let token = file.bytes.trim_ascii();
    let plain = token.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b));
    if !(LEAST_TOKEN..=MOST_TOKEN).contains(&token.len()) || !plain {
        let reason = format!(
            "not a token: {LEAST_TOKEN} to {MOST_TOKEN} of A-Z a-z 0-9 - . _ ~ + / = in one line (RFC 6750 §2.1)"
        );
        let fault = in_file(source, named, &reason);
        faults.push(fault.help("make one with `openssl rand -hex 32`"));
        return None;
    }
    Some(CredentialSecret::Token(sha256(token)))
}
