//! A tenant's devices, and the certificates pinned to them.

use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha256;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, NO_SUCH_DEVICE, Words, answer, created, no_content, no_such_device};
use super::body::{JSON_BYTES, json};
use super::certificates::certificate_of;
use super::error::ApiError;
use super::text::{self, ReadOnly, hex, parse_sha256};
use crate::names::{DeviceId, TenantId};
use crate::registry::{
    Change, DeviceQuery, DeviceRecord, DeviceStatus, MAX_PAGE, Outcome, RegisteredBy,
};

const WORDS: Words = Words::missing(NO_SUCH_DEVICE);
const USUAL_PAGE: u32 = 100;
/// The longest device id.
const MAX_PREFIX: usize = 128;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    id: String,
    status: &'static str,
    registered_by: &'static str,
    registered_at: String,
    changed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaf_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anchor_sha256: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    device_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    pins: Vec<String>,
}

#[derive(Serialize)]
struct List {
    devices: Vec<View>,
    #[serde(rename = "self")]
    this: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<String>,
    limit: Option<u32>,
    status: Option<Status>,
    prefix: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Active,
    Blocked,
}

impl From<Status> for DeviceStatus {
    fn from(status: Status) -> DeviceStatus {
        match status {
            Status::Active => DeviceStatus::Active,
            Status::Blocked => DeviceStatus::Blocked,
        }
    }
}

/// A whole object that was read before may be sent back.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Update {
    status: Status,
    #[serde(default, rename = "id")]
    _id: ReadOnly,
    #[serde(default, rename = "registeredBy")]
    _registered_by: ReadOnly,
    #[serde(default, rename = "registeredAt")]
    _registered_at: ReadOnly,
    #[serde(default, rename = "changedAt")]
    _changed_at: ReadOnly,
    #[serde(default, rename = "leafSha256")]
    _leaf: ReadOnly,
    #[serde(default, rename = "anchorSha256")]
    _anchor: ReadOnly,
    #[serde(default, rename = "type")]
    _type: ReadOnly,
    #[serde(default, rename = "name")]
    _name: ReadOnly,
    #[serde(default, rename = "pins")]
    _pins: ReadOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pin {
    cert_in_pem_format: Option<String>,
    sha256: Option<String>,
    credentials_id: Option<String>,
}

/// `GET …/devices`.
pub async fn list(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let query: ListQuery = ask.query()?;
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request("limit is 1 to 1000."));
    }
    let after = query.after.as_deref().map(DeviceId::parse).transpose();
    let after = after.map_err(|fault| ApiError::bad_request(format!("after: {fault}.")))?;
    if query.prefix.as_ref().is_some_and(|prefix| prefix.len() > MAX_PREFIX) {
        return Err(ApiError::bad_request("prefix has at most 128 characters."));
    }
    // What no device id starts with is on no page, and is not put to the store.
    let prefix = query.prefix.filter(|prefix| !prefix.is_empty());
    let none = prefix.as_deref().is_some_and(|prefix| DeviceId::parse(prefix).is_err());
    let found = match none {
        true => Vec::new(),
        false => {
            let status = query.status.map(DeviceStatus::from);
            let asked = DeviceQuery { tenant, after, limit, status, id_prefix: prefix.clone() };
            ask.registry().devices(asked).await?
        }
    };
    let link = |after: Option<&str>| {
        let mut link = format!("{}?limit={limit}", ask.path());
        let status = query.status.map(|status| status_name(status.into()));
        let parts = [("after", after), ("status", status)];
        for (name, value) in parts.into_iter().chain([("prefix", prefix.as_deref())]) {
            if let Some(value) = value {
                link.push_str(&format!("&{name}={}", in_query(value)));
            }
        }
        link
    };
    let full = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| full).map(|last| link(Some(last.device.as_str())));
    let this = link(query.after.as_deref());
    let devices = found.into_iter().map(View::from).collect();
    Ok(answer(StatusCode::OK, &List { devices, this, next }))
}

/// `GET …/devices/{device}`.
pub async fn read(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let device = ask.device()?;
    Ok(answer(StatusCode::OK, &stored(&ask, &tenant, &device).await?))
}

/// Blocks or unblocks: `PUT …/devices/{device}`.
pub async fn update(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let device = ask.device()?;
    let update: Update = json(request, JSON_BYTES).await?;
    let what = match update.status {
        Status::Active => "device.unblock",
        Status::Blocked => "device.block",
    };
    let change = Change::SetDeviceStatus {
        tenant: tenant.clone(),
        device: device.clone(),
        status: update.status.into(),
    };
    ask.apply(what, &target(&tenant, &device), change, WORDS).await?;
    Ok(answer(StatusCode::OK, &stored(&ask, &tenant, &device).await?))
}

/// `DELETE …/devices/{device}`.
pub async fn delete(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let device = ask.device()?;
    let target = target(&tenant, &device);
    ask.apply("device.delete", &target, Change::DeleteDevice { tenant, device }, WORDS).await?;
    Ok(no_content())
}

/// Pins a certificate, and registers the device where it is not there: `POST …/pins`.
pub async fn pin(ask: Ask, request: Request) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let device = DeviceId::parse(ask.param("device"))
        .map_err(|fault| ApiError::unprocessable(format!("The device id: {fault}.")))?;
    let pin: Pin = json(request, JSON_BYTES).await?;
    let leaf_sha256 = pin.sha256().map_err(ApiError::unprocessable)?;
    let change =
        Change::PinCertificate { tenant: tenant.clone(), device: device.clone(), leaf_sha256 };
    let words = Words {
        missing: NO_SUCH_DEVICE,
        taken: |_| ApiError::conflict("This certificate is pinned to another device."),
    };
    let outcome = ask.apply("device.pin", &target(&tenant, &device), change, words).await?;
    let view = stored(&ask, &tenant, &device).await?;
    match outcome {
        Outcome::Existed => Ok(answer(StatusCode::OK, &view)),
        _ => Ok(created(&format!("{}/{}", ask.path(), hex(&leaf_sha256)), &view)),
    }
}

/// `DELETE …/pins/{sha256}`.
pub async fn unpin(ask: Ask) -> Result<Response, ApiError> {
    let tenant = ask.tenant()?;
    let device = ask.device()?;
    let missing = "The device has no such pin.";
    let leaf_sha256 =
        parse_sha256(ask.param("sha256")).ok_or_else(|| ApiError::not_found(missing))?;
    let target = target(&tenant, &device);
    let change = Change::UnpinCertificate { tenant, device, leaf_sha256 };
    ask.apply("device.unpin", &target, change, Words::missing(missing)).await?;
    Ok(no_content())
}

/// The platform's single registration, which certificate devices do not have.
pub async fn register_one(_ask: Ask) -> Result<Response, ApiError> {
    Err(ApiError::unprocessable(
        "Devices with certificates are not registered one by one here. They register themselves on \
         their first call where their trusted certificate has autoRegistrationEnabled, or in bulk \
         by POST to /devicecontrol/bulkNewDeviceRequests.",
    ))
}

async fn stored(ask: &Ask, tenant: &TenantId, device: &DeviceId) -> Result<View, ApiError> {
    let record = ask.registry().device(tenant, device).await?;
    record.map(View::from).ok_or_else(no_such_device)
}

fn target(tenant: &TenantId, device: &DeviceId) -> String {
    format!("{tenant}/{device}")
}

fn status_name(status: DeviceStatus) -> &'static str {
    match status {
        DeviceStatus::Active => "ACTIVE",
        DeviceStatus::Blocked => "BLOCKED",
    }
}

/// A device id, or what it starts with, in a query: only these of its characters mean
/// something there.
fn in_query(text: &str) -> String {
    text.replace('%', "%25").replace('=', "%3D").replace('+', "%2B").replace('&', "%26")
}

/// What ThingsBoard calls a certificate: SHA3-256 of the base64 of its DER, in hex. Empty where
/// it cannot be computed.
fn credentials_id(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha3_256(), text.as_bytes());
    digest.map(|digest| hex(&digest)).unwrap_or_default()
}

impl From<DeviceRecord> for View {
    fn from(record: DeviceRecord) -> View {
        View {
            id: record.device.to_string(),
            status: status_name(record.status),
            registered_by: match record.registered_by {
                RegisteredBy::Auto => "AUTO",
                RegisteredBy::Bulk => "BULK",
                RegisteredBy::Manual => "MANUAL",
            },
            registered_at: text::time(record.registered_at),
            changed_at: text::time(record.changed_at),
            leaf_sha256: record.leaf_sha256.map(|digest| hex(&digest)),
            anchor_sha256: record.anchor_sha256.map(|digest| hex(&digest)),
            device_type: record.device_type,
            name: record.name,
            pins: record.pins.iter().map(|pin| hex(pin)).collect(),
        }
    }
}

impl Pin {
    fn sha256(&self) -> Result<[u8; 32], String> {
        match (&self.cert_in_pem_format, &self.sha256, &self.credentials_id) {
            (Some(text), None, id) => {
                let der = certificate_of(text)?;
                match id {
                    Some(id) if !id.eq_ignore_ascii_case(&credentials_id(&der)) => {
                        Err("credentialsId is that of another certificate.".to_owned())
                    }
                    _ => Ok(sha256(&der)),
                }
            }
            (None, Some(_), Some(_)) => {
                Err("Send sha256 without credentialsId: one cannot be held against the other."
                    .to_owned())
            }
            (None, Some(text), None) => parse_sha256(text)
                .ok_or_else(|| "sha256 is 64 hex digits: SHA-256 of the certificate's DER.".into()),
            (Some(_), Some(_), _) => {
                Err("Send the certificate or its sha256, not both.".to_owned())
            }
            (None, None, Some(_)) => Err(
                "From credentialsId alone (SHA3-256 of the certificate's base64) the certificate \
                 cannot be found: send certInPemFormat or sha256 as well."
                    .to_owned(),
            ),
            (None, None, None) => {
                Err("Send certInPemFormat, or sha256 of the certificate's DER.".to_owned())
            }
        }
    }
}
