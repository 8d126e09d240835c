//! Where the admin API listens and who may use it.

use std::fmt;
use std::net::SocketAddr;

use crate::names::TenantId;

/// The admin port.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminSettings {
    pub bind: SocketAddr,
    /// None: the API refuses everybody; metrics and health are served all the same.
    pub credentials: Vec<Credential>,
    /// `None`: cleartext, for an address that only the machine itself reaches.
    pub tls: Option<AdminTls>,
    /// Host names, lower case, that a request may be addressed to beside IP addresses and
    /// `localhost`.
    pub hosts: Vec<String>,
}

/// TLS on the admin port. PEM, checked when the port is opened.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminTls {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
    /// Whose client certificates are asked for; a client may show none, and then has a token or
    /// the probes alone. `None`: bearer tokens alone.
    pub client_ca: Option<Vec<u8>>,
}

/// One principal of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Stands in the audit log.
    pub name: String,
    pub secret: CredentialSecret,
    pub role: Role,
    /// The one tenant that it may see; `None`: all, and the edge itself.
    pub tenant: Option<TenantId>,
}

/// How a principal proves itself.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialSecret {
    /// SHA-256 of a bearer token.
    Token([u8; 32]),
    /// The common name of a client certificate that [`AdminTls::client_ca`] has issued.
    CommonName(String),
}

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Read.
    Viewer,
    /// Read and change.
    Operator,
}

impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSettings")
            .field("bind", &self.bind)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls.is_some())
            .field("hosts", &self.hosts)
            .finish()
    }
}

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A short token could be found from its hash.
            CredentialSecret::Token(_) => f.write_str("Token"),
            CredentialSecret::CommonName(name) => f.debug_tuple("CommonName").field(name).finish(),
        }
    }
}
