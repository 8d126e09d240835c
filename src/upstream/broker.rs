//! What an MQTT broker is told about a device, and how a device may call itself.

use std::fmt;
use std::net::SocketAddr;

use crate::names::{DeviceId, TenantId};

/// How client ids name devices. The first pattern that a client id fits says which device it
/// belongs to, whoever asks: no two devices can have one client id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIds {
    Patterns(Vec<ClientIdPattern>),
    /// They name nobody; the broker sees another id, which holds the device.
    Any,
}

/// `<text>{device}<text>`, with a star at the end where anything may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdPattern {
    before: Box<str>,
    after: Box<str>,
    open: bool,
}

/// A text with placeholders for what is known of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Value(Placeholder),
}

/// What a [`Template`] may stand in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    Tenant,
    Device,
    /// As the client sent it.
    ClientId,
    /// The device's current token.
    Token,
    /// SHA-256 of the end-entity certificate, lower-case hexadecimal.
    Fingerprint,
    /// The user name that the client sent, or nothing.
    UserName,
    /// The password that the client sent, or nothing.
    Password,
}

/// How a broker learns who a device is. Each part can be had beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerForward {
    pub client_ids: ClientIds,
    /// The client id that the broker sees.
    pub client_id: Template,
    /// For devices with a certificate, whatever they send. `None`: none is sent.
    pub user_name: Option<Template>,
    pub password: Option<Template>,
    /// MQTT 5.0: names and values. What clients send under these names is dropped.
    pub user_properties: Vec<(Box<str>, Template)>,
    /// A PROXY protocol header, version 2, in front of each connection.
    pub proxy_protocol: bool,
}

/// Why a pattern or template cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateFault(&'static str);

/// What templates are filled from.
pub struct Client<'c> {
    pub tenant: &'c TenantId,
    /// `None`: no certificate.
    pub device: Option<&'c DeviceId>,
    pub leaf_sha256: Option<&'c [u8; 32]>,
    pub client_id: &'c str,
    pub user_name: &'c str,
    pub password: &'c [u8],
    /// Fetched only where a template asks for it.
    pub token: &'c str,
}

impl Default for BrokerForward {
    fn default() -> BrokerForward {
        BrokerForward {
            client_ids: ClientIds::default(),
            client_id: Template(vec![Part::Value(Placeholder::ClientId)]),
            user_name: None,
            password: None,
            user_properties: Vec::new(),
            proxy_protocol: false,
        }
    }
}

impl Default for ClientIds {
    /// As the platform's devices call themselves: `<device>`, `d:<device>`,
    /// `d:<device>:<template>`.
    fn default() -> ClientIds {
        let pattern = |before: &str, after: &str, open| ClientIdPattern {
            before: before.into(),
            after: after.into(),
            open,
        };
        ClientIds::Patterns(vec![
            pattern("", "", false),
            pattern("d:", "", false),
            pattern("d:", ":", true),
        ])
    }
}

impl ClientIds {
    /// The device that a client id names.
    pub fn device<'i>(&self, client_id: &'i str) -> Option<&'i str> {
        match self {
            ClientIds::Patterns(patterns) => {
                patterns.iter().find_map(|pattern| pattern.device(client_id))
            }
            ClientIds::Any => None,
        }
    }

    /// Whether a client id may hold `/`: where the pattern that it fits holds one.
    pub fn takes_slash(&self, client_id: &str) -> bool {
        let fits = |pattern: &&ClientIdPattern| pattern.device(client_id).is_some();
        match self {
            ClientIds::Patterns(patterns) => {
                patterns.iter().find(fits).is_some_and(ClientIdPattern::has_slash)
            }
            ClientIds::Any => true,
        }
    }
}

impl ClientIdPattern {
    /// # Errors
    /// Where the pattern has no `{device}`, or does not say where that ends.
    pub fn parse(text: &str) -> Result<ClientIdPattern, TemplateFault> {
        let (text, open) = match text.strip_suffix('*') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (before, after) = text
            .split_once("{device}")
            .ok_or(TemplateFault("a client id pattern holds `{device}`"))?;
        if [before, after].iter().any(|text| text.contains(['{', '}', '*', '+', '#'])) {
            return Err(TemplateFault(
                "beside `{device}` a client id pattern holds text, and a star at its end",
            ));
        }
        if before.chars().next_back().is_some_and(in_device_id)
            || after.chars().next().is_some_and(in_device_id)
            || (open && after.is_empty())
        {
            return Err(TemplateFault(
                "what stands beside `{device}` must begin with a character that no device id has, \
                 such as `:` or `/`",
            ));
        }
        Ok(ClientIdPattern { before: before.into(), after: after.into(), open })
    }

    fn has_slash(&self) -> bool {
        self.before.contains('/') || self.after.contains('/')
    }

    fn device<'i>(&self, client_id: &'i str) -> Option<&'i str> {
        let rest = client_id.strip_prefix(&*self.before)?;
        let end = rest.find(|c| !in_device_id(c)).unwrap_or(rest.len());
        let (device, rest) = rest.split_at(end);
        let fits = match self.open {
            true => rest.starts_with(&*self.after),
            false => rest == &*self.after,
        };
        (fits && !device.is_empty()).then_some(device)
    }
}

/// As [`DeviceId`] has them.
fn in_device_id(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '=')
}

impl Template {
    /// # Errors
    /// Where a brace is open, or names no placeholder of `allowed`.
    pub fn parse(text: &str, allowed: &[Placeholder]) -> Result<Template, TemplateFault> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or(TemplateFault("a `{` without its `}`"))?;
            let value = Placeholder::ALL
                .into_iter()
                .find(|placeholder| placeholder.name() == name && allowed.contains(placeholder))
                .ok_or(TemplateFault("a placeholder that this template does not have"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(Part::Value(value));
            rest = after;
        }
        if rest.contains('}') {
            return Err(TemplateFault("a `}` without its `{`"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Template(parts))
    }

    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&Part::Value(placeholder))
    }

    fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Whether no two values of `placeholder`, a tenant or a device, can give the same text,
    /// whatever clients call themselves: it stands before the client id, and so does all that
    /// stands before it, each with a character behind it that no name has; or it stands last,
    /// with such a character before it.
    pub fn separates(&self, placeholder: Placeholder) -> bool {
        let ends = |value: Placeholder, c: Option<char>| c.is_some_and(|c| !value.may_hold(c));
        for pair in self.0.windows(2) {
            match pair {
                [Part::Text(_), _] => {}
                [Part::Value(Placeholder::ClientId), _] => break,
                [Part::Value(found), Part::Text(next)] if ends(*found, next.chars().next()) => {
                    if *found == placeholder {
                        return true;
                    }
                }
                _ => break,
            }
        }
        match self.0.as_slice() {
            [.., Part::Text(before), last] => {
                *last == Part::Value(placeholder)
                    && ends(placeholder, before.chars().next_back())
                    && self.uses(Placeholder::ClientId)
            }
            _ => false,
        }
    }

    pub fn fill(&self, client: &Client<'_>) -> Vec<u8> {
        let mut filled = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Part::Value(value) => value.fill(client, &mut filled),
            }
        }
        filled
    }
}

impl Placeholder {
    pub const ALL: [Placeholder; 7] = [
        Placeholder::Tenant,
        Placeholder::Device,
        Placeholder::ClientId,
        Placeholder::Token,
        Placeholder::Fingerprint,
        Placeholder::UserName,
        Placeholder::Password,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Placeholder::Tenant => "tenant",
            Placeholder::Device => "device",
            Placeholder::ClientId => "client_id",
            Placeholder::Token => "token",
            Placeholder::Fingerprint => "fingerprint",
            Placeholder::UserName => "user_name",
            Placeholder::Password => "password",
        }
    }

    /// Whether a value may hold this character.
    fn may_hold(self, c: char) -> bool {
        match self {
            Placeholder::Tenant => matches!(c, 'a'..='z' | '0'..='9' | '-' | '_'),
            Placeholder::Device => in_device_id(c),
            _ => true,
        }
    }

    fn fill(self, client: &Client<'_>, filled: &mut Vec<u8>) {
        match self {
            Placeholder::Tenant => filled.extend_from_slice(client.tenant.as_str().as_bytes()),
            Placeholder::Device => {
                let device = client.device.map_or("", DeviceId::as_str);
                filled.extend_from_slice(device.as_bytes());
            }
            Placeholder::ClientId => filled.extend_from_slice(client.client_id.as_bytes()),
            Placeholder::Token => filled.extend_from_slice(client.token.as_bytes()),
            Placeholder::Fingerprint => {
                for byte in client.leaf_sha256.into_iter().flatten() {
                    filled.extend_from_slice(format!("{byte:02x}").as_bytes());
                }
            }
            Placeholder::UserName => filled.extend_from_slice(client.user_name.as_bytes()),
            Placeholder::Password => filled.extend_from_slice(client.password),
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.name())
    }
}

impl BrokerForward {
    /// Whether the broker is told the device's token, which must be there before the broker is
    /// asked.
    pub fn uses_token(&self) -> bool {
        let templates = self.user_name.iter().chain(&self.password);
        let properties = self.user_properties.iter().map(|(_, template)| template);
        templates.chain(properties).any(|template| template.uses(Placeholder::Token))
    }

    /// Whether a broker that believes what it is told can tell a device from a client without
    /// a certificate, whose user name and password are its own.
    pub fn proves(&self) -> bool {
        let Some(user_name) = &self.user_name else { return true };
        let token = |template: &Template| template.uses(Placeholder::Token);
        // A text that is the same for all names nobody; its password is the edge's own secret.
        let account =
            user_name.is_constant() && self.password.as_ref().is_some_and(Template::is_constant);
        self.proxy_protocol
            || account
            || token(user_name)
            || self.password.as_ref().is_some_and(token)
    }

    /// Whether a broker of several tenants can tell one tenant's device by its user name from
    /// another's of the same name.
    pub fn names_tenants(&self) -> bool {
        let Some(user_name) = &self.user_name else { return true };
        user_name.is_constant()
            || user_name.uses(Placeholder::Token)
            || user_name.uses(Placeholder::Tenant)
    }

    /// Whether a user property is one that only the edge may set. In any case of its letters,
    /// for brokers that fold it.
    pub fn is_ours(&self, property: &str) -> bool {
        self.user_properties.iter().any(|(name, _)| name.eq_ignore_ascii_case(property))
    }
}

/// Who is behind a connection to the broker, for the PROXY protocol.
pub struct ProxiedClient<'c> {
    pub peer: SocketAddr,
    /// The address of the listener that the client came to.
    pub local: SocketAddr,
    pub server_name: Option<&'c str>,
    /// Such as `TLSv1.3`.
    pub tls_version: &'c str,
    /// The verified device and its end-entity certificate, DER.
    pub device: Option<(&'c DeviceId, &'c [u8])>,
}

const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_VERSION: u8 = 0x21;
const SUBTYPE_SSL_CN: u8 = 0x22;
const SUBTYPE_SSL_CLIENT_CERT: u8 = 0x28;
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;
const VERSION_2_PROXY: u8 = 0x21;
/// Of the header after its first 16 bytes.
const MAX_LENGTH: usize = 65_535;

/// A PROXY protocol header, version 2, with the TLVs of TLS (HAProxy's specification, §2.2.6).
/// The common name is the device id, which the edge has checked.
pub fn proxy_header(client: &ProxiedClient<'_>) -> Vec<u8> {
    let (family, addresses) = addresses(client.peer, client.local);
    let mut authority = Vec::new();
    if let Some(name) = client.server_name {
        tlv(&mut authority, TYPE_AUTHORITY, name.as_bytes());
    }
    let mut ssl = ssl(client, true);
    if addresses.len() + authority.len() + 3 + ssl.len() > MAX_LENGTH {
        // A certificate that does not fit: the name that it was verified for does.
        ssl = self::ssl(client, false);
    }
    let mut body = addresses;
    body.extend_from_slice(&authority);
    tlv(&mut body, TYPE_SSL, &ssl);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[VERSION_2_PROXY, family]);
    header.extend_from_slice(&(body.len() as u16).to_be_bytes());
    header.extend_from_slice(&body);
    header
}

fn ssl(client: &ProxiedClient<'_>, with_certificate: bool) -> Vec<u8> {
    let shown = if client.device.is_some() { CLIENT_CERT_CONN | CLIENT_CERT_SESS } else { 0 };
    let mut ssl = vec![CLIENT_SSL | shown];
    // Zero: the certificate is verified. Without one there is nothing that was.
    ssl.extend_from_slice(&u32::from(client.device.is_none()).to_be_bytes());
    tlv(&mut ssl, SUBTYPE_SSL_VERSION, client.tls_version.as_bytes());
    if let Some((device, certificate)) = client.device {
        tlv(&mut ssl, SUBTYPE_SSL_CN, device.as_str().as_bytes());
        if with_certificate {
            tlv(&mut ssl, SUBTYPE_SSL_CLIENT_CERT, certificate);
        }
    }
    ssl
}

/// Longer values than a TLV can say are left out.
fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Ok(length) = u16::try_from(value.len()) {
        out.push(kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Family and transport, and both ends. One of IPv4 beside one of IPv6 is mapped.
fn addresses(peer: SocketAddr, local: SocketAddr) -> (u8, Vec<u8>) {
    let mut out = Vec::with_capacity(36);
    let family = match (peer, local) {
        (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
            out.extend_from_slice(&peer.ip().octets());
            out.extend_from_slice(&local.ip().octets());
            0x11
        }
        _ => {
            for address in [peer, local] {
                let ip = match address {
                    SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
                    SocketAddr::V6(address) => *address.ip(),
                };
                out.extend_from_slice(&ip.octets());
            }
            0x21
        }
    };
    out.extend_from_slice(&peer.port().to_be_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
    (family, out)
}

#[cfg(test)]
mod tests;
