//! What is written down of each change.

use std::fmt::Write as _;

use super::text::to_hex;
use super::{Change, DeviceOutcome, DeviceStatus, Outcome};
use crate::names::TenantId;

/// What the audit trail says of a change. No secret and no certificate is repeated.
pub(super) struct Entry<'c> {
    pub(super) tenant: Option<&'c TenantId>,
    pub(super) action: &'static str,
    pub(super) target: String,
    pub(super) detail: String,
}

impl<'c> Entry<'c> {
    pub(super) fn of(change: &'c Change, outcome: &Outcome) -> Entry<'c> {
        let mut detail = String::new();
        let (tenant, action, target) = match change {
            Change::RegisterDevices { tenant, devices } => {
                let created = match outcome {
                    Outcome::Devices(outcomes) => {
                        outcomes.iter().filter(|one| **one == DeviceOutcome::Created).count()
                    }
                    _ => 0,
                };
                detail = format!("created={created} existed={}", devices.len() - created);
                (Some(tenant), "devices.register", String::new())
            }
            Change::SetDeviceStatus { tenant, device, status } => {
                let action = match status {
                    DeviceStatus::Active => "device.unblock",
                    DeviceStatus::Blocked => "device.block",
                };
                (Some(tenant), action, device.to_string())
            }
            Change::DeleteDevice { tenant, device } => {
                (Some(tenant), "device.delete", device.to_string())
            }
            Change::PinCertificate { tenant, device, leaf_sha256 } => {
                detail = format!("sha256={}", to_hex(leaf_sha256));
                (Some(tenant), "device.pin", device.to_string())
            }
            Change::UnpinCertificate { tenant, device, leaf_sha256 } => {
                detail = format!("sha256={}", to_hex(leaf_sha256));
                (Some(tenant), "device.unpin", device.to_string())
            }
            Change::AddAnchors { tenant, anchors } => {
                let first = anchors.first().map(|anchor| to_hex(&anchor.sha256));
                detail = format!("count={}", anchors.len());
                (Some(tenant), "anchor.add", first.unwrap_or_default())
            }
            Change::UpdateAnchor { tenant, sha256, name, status, auto_registration, identity } => {
                // Writing to a String cannot fail.
                if let Some(name) = name {
                    let _ = write!(detail, "name={name:?} ");
                }
                if let Some(status) = status {
                    let _ = write!(detail, "status={} ", status.as_str());
                }
                if let Some(auto_registration) = auto_registration {
                    let _ = write!(detail, "auto_registration={auto_registration} ");
                }
                if let Some(identity) = identity {
                    let _ = write!(detail, "identity={identity:?} ");
                }
                (Some(tenant), "anchor.update", to_hex(sha256))
            }
            Change::DeleteAnchor { tenant, sha256 } => {
                (Some(tenant), "anchor.delete", to_hex(sha256))
            }
            Change::SetPossession { tenant, sha256, possession } => {
                detail = format!("confirmed={}", possession.confirmed);
                (Some(tenant), "anchor.possession", to_hex(sha256))
            }
            Change::AddRevocations { tenant, serials } => {
                let first = serials.first().map(|(serial, _)| serial.clone());
                detail = format!("count={}", serials.len());
                (Some(tenant), "revocations.add", first.unwrap_or_default())
            }
            Change::SetOption { tenant, category, key, value } => {
                let action = if value.is_some() { "option.set" } else { "option.delete" };
                if let Some(value) = value {
                    detail = format!("value={value:?}");
                }
                (Some(tenant), action, format!("{category}/{key}"))
            }
            Change::AddSigningKey { row, .. } => {
                detail = format!("algorithm={} sign_from={}", row.algorithm, row.sign_from);
                (None, "signing_key.add", row.kid.clone())
            }
            Change::DeleteSigningKeys { kids } => {
                detail = format!("count={}", kids.len());
                (None, "signing_key.delete", kids.join(" "))
            }
        };
        detail.truncate(detail.trim_end().len());
        Entry { tenant, action, target, detail }
    }
}
