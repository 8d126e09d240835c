//! From a CONNECT to what the broker is told, or to a refusal.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::gate::{AuthenticatedDevice, ClientIdentity};
use crate::names::{DeviceId, ServerName};
use crate::refusal::{Refusal, Refused};
use crate::tenant::{ClientCertificateMode, Tenant, TokenSource};
use crate::upstream::{Client, ClientIds, Placeholder, ProxiedClient, proxy_header};

use super::super::connection::{Connection, Judged};
use super::super::decide::{is_still, judge, platform_name};
use super::super::request_id::RequestId;
use super::super::{Edge, relay};
use super::codes::{CLIENT_ID_NOT_VALID, Denied, NOT_AUTHORIZED};
use super::connect::Connect;
use super::topics::OwnTopic;

/// Who may go on to the broker.
pub struct Admitted {
    pub tenant: Arc<Tenant>,
    pub device: Option<DeviceId>,
    /// Without a certificate: the device that the client id names, and that there is not.
    pub named: Option<DeviceId>,
    /// Goes to the broker first: a PROXY header where one is due, and the CONNECT.
    pub opening: BytesMut,
    /// Whether `s/uat` is answered: a certificate, and tokens are on.
    pub tokens: bool,
}

/// Decides on a CONNECT.
pub async fn admit(
    edge: &Arc<Edge>,
    connection: &Connection,
    tls_version: &str,
    tcp: &TcpStream,
    connect: Connect,
) -> Result<Admitted, Denied> {
    let judged = judge(edge, connection).await?;
    let tenant = judged.tenant.clone();
    let forward = &tenant.broker_forward;
    let device = match &judged.identity {
        ClientIdentity::Verified(chain) => Some(edge.gate.authenticate(&tenant, chain).await?),
        ClientIdentity::Undecided => {
            return Err(Denied::from(Refused::new(
                Refusal::IssuerUnknown,
                "no path from the end-entity certificate to an anchor (over MQTT nothing can \
                 complete a chain)",
            )));
        }
        ClientIdentity::Anonymous
            if tenant.client_certificate == ClientCertificateMode::Required =>
        {
            return Err(Denied::from(Refused::new(
                Refusal::CertificateMissing,
                "this listener asks for no certificate and the tenant requires one",
            )));
        }
        ClientIdentity::Anonymous => None,
    };
    check_names(edge, &judged, device.as_ref(), &connect)?;
    if let Some(topic) = connect.will_topic()
        && OwnTopic::of(topic.as_bytes()).is_some()
    {
        return Err(Denied::packet(
            NOT_AUTHORIZED,
            "the will is for a topic of the token exchange",
        ));
    }
    let token = match &device {
        Some(device) if forward.uses_token() => token(edge, connection, &judged, device).await?,
        _ => String::new(),
    };
    let mut connect = connect;
    let client_id = connect.client_id().to_owned();
    let user_name = connect.user_name().unwrap_or_default().to_owned();
    let password = connect.password().unwrap_or_default().to_vec();
    let client = Client {
        tenant: &tenant.id,
        device: device.as_ref().map(AuthenticatedDevice::id),
        leaf_sha256: device.as_ref().map(AuthenticatedDevice::leaf_sha256),
        client_id: &client_id,
        user_name: &user_name,
        password: &password,
        token: &token,
    };
    if !client_id.is_empty() {
        connect.set_client_id(text(forward.client_id.fill(&client))?);
    }
    if device.is_some() {
        // Whatever the device claims: its certificate says who it is.
        let user_name = forward.user_name.as_ref().map(|template| template.fill(&client));
        let user_name = user_name.map(text).transpose()?;
        let password = forward.password.as_ref().map(|template| template.fill(&client));
        connect.set_credentials(user_name, password);
    }
    let mut properties = Vec::new();
    if device.is_some() {
        for (name, template) in &forward.user_properties {
            properties.push((name.to_string(), text(template.fill(&client))?));
        }
    }
    connect.set_user_properties(|name| forward.is_ours(name), properties.into_iter());
    let mut opening = BytesMut::new();
    if forward.proxy_protocol
        && let (Some(peer), Ok(local)) = (connection.peer(), tcp.local_addr())
    {
        let established = connection.established();
        let name = established.and_then(|established| established.server_name.as_ref());
        let leaf = established.and_then(|established| established.chain.leaf());
        opening.extend_from_slice(&proxy_header(&ProxiedClient {
            peer,
            local,
            server_name: name.map(ServerName::as_str),
            tls_version,
            device: device.as_ref().map(AuthenticatedDevice::id).zip(leaf),
        }));
    }
    opening.extend_from_slice(&connect.write()?);
    let tokens = tenant.tokens.is_some() && device.is_some();
    let device = device.map(|device| device.id().clone());
    let named = match device {
        Some(_) => None,
        None => forward.client_ids.device(&client_id).and_then(|id| DeviceId::parse(id).ok()),
    };
    Ok(Admitted { device, named, opening, tokens, tenant: tenant.clone() })
}

/// A client id belongs to the device that its certificate names, and nobody else takes it.
fn check_names(
    edge: &Edge,
    judged: &Judged,
    device: Option<&AuthenticatedDevice>,
    connect: &Connect,
) -> Result<(), Denied> {
    let tenant = &judged.tenant;
    let id = connect.client_id();
    let misdirected = |reason| Err(Denied::from(Refused::new(Refusal::Misdirected, reason)));
    let forward = &tenant.broker_forward;
    if odd(id) {
        let reason = "the client id holds `+`, `#` or a control character";
        return Err(Denied::packet(CLIENT_ID_NOT_VALID, reason));
    }
    if id.contains('/') && !forward.client_ids.takes_slash(id) {
        let reason = "the client id holds a `/` that no pattern of mqtt.client_ids has";
        return Err(Denied::packet(CLIENT_ID_NOT_VALID, reason));
    }
    if connect.user_name().is_some_and(odd) {
        let reason = "the user name holds `+`, `#` or a control character";
        return Err(Denied::packet(NOT_AUTHORIZED, reason));
    }
    let in_user_name =
        forward.user_name.as_ref().is_some_and(|template| template.uses(Placeholder::Password));
    if device.is_some() && in_user_name {
        let password = String::from_utf8_lossy(connect.password().unwrap_or_default());
        if odd(&password) {
            let reason = "the password, which the broker gets as the user name, holds `+`, `#` or \
                          a control character";
            return Err(Denied::packet(NOT_AUTHORIZED, reason));
        }
    }
    let named = forward.client_ids.device(id);
    match (device, named) {
        (Some(_), _) if tenant.broker_forward.client_ids == ClientIds::Any => Ok(()),
        (Some(device), Some(named)) if named == device.id().as_str() => Ok(()),
        (Some(_), _) if id.is_empty() => misdirected("the client id is empty"),
        (Some(_), Some(_)) => misdirected("the client id names another device"),
        (Some(_), None) => misdirected("the client id fits no pattern of mqtt.client_ids"),
        (None, Some(named)) => match DeviceId::parse(named) {
            Ok(named) if edge.gate.knows(tenant, &named)? => misdirected(
                "a client without a certificate uses the client id of a registered device",
            ),
            _ => Ok(()),
        },
        (None, None) => Ok(()),
    }
}

/// What means more than itself where brokers put client ids and user names into the topic
/// patterns of their access rules (CVE-2017-7650).
///
/// A user name may hold `/`: those of the platform are `<tenant>/<user>`.
fn odd(text: &str) -> bool {
    text.contains(['+', '#']) || text.chars().any(char::is_control)
}

/// Only a password is anything else than a text, and a template may put it into one.
fn text(bytes: Vec<u8>) -> Result<String, Denied> {
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Denied::packet(
            NOT_AUTHORIZED,
            "a password that is not UTF-8, or holds NUL, in a text for the broker",
        )),
    }
}

/// The device's current token, by the same rules as over HTTPS.
pub async fn token(
    edge: &Arc<Edge>,
    connection: &Connection,
    judged: &Arc<Judged>,
    device: &AuthenticatedDevice,
) -> Result<String, Refused> {
    let tenant = &judged.tenant;
    match tenant.token_source {
        TokenSource::Edge => Ok(edge.gate.token(tenant, device)?.token.jwt().to_owned()),
        TokenSource::Platform => {
            let (name, metrics) = (platform_name(connection, tenant), &edge.metrics);
            let id = RequestId::new().text();
            let relay = &edge.relay;
            let body = relay.token(device, connection, judged, name, id.as_str(), metrics).await?;
            is_still(edge, connection, device).await?;
            relay::jwt(&body).ok_or_else(|| {
                Refused::new(Refusal::UpstreamUnavailable, "the platform's answer has no token")
            })
        }
    }
}

/// The token that a device asks for in its session: who it is, is asked anew.
pub async fn requested_token(
    edge: Arc<Edge>,
    connection: Arc<Connection>,
) -> Result<String, Refused> {
    let judged = judge(&edge, &connection).await?;
    let ClientIdentity::Verified(chain) = &judged.identity else {
        return Err(Refused::new(
            Refusal::CertificateMissing,
            "a token request without a client certificate",
        ));
    };
    let device = edge.gate.authenticate(&judged.tenant, chain).await?;
    if connection.terms().is_some_and(|terms| terms.device.as_ref() != Some(device.id())) {
        return Err(Refused::new(
            Refusal::Misdirected,
            "the certificate names another device now than the session's",
        ));
    }
    token(&edge, &connection, &judged, &device).await
}
