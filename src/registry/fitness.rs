//! What a change may hold: bounded, and nothing that one of the engines cannot keep.

use super::{
    Actor, AnchorRecord, Change, MAX_REGISTRATIONS, MAX_REVOCATIONS_A_CALL, MAX_SIGNING_KEYS,
    PossessionStep, Registration,
};
use crate::names::TenantId;

/// Of names, types, codes, options and the like.
const TEXT: usize = 4096;
/// Of a certificate or a sealed key.
const LONG: usize = 64 * 1024;
/// Of the certificates of one change.
const CERTIFICATES: usize = 8 * 1024 * 1024;
/// 20 octets (RFC 5280 §4.1.2.2) in hex.
const SERIAL: usize = 40;

/// Holds a change against the bounds.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(actor: &Actor, change: &Change) -> Result<(), &'static str> {
    name(&actor.name)?;
    match change {
        Change::RegisterDevices { tenant, devices } => registrations(tenant, devices),
        Change::SetDeviceStatus { .. }
        | Change::DeleteDevice { .. }
        | Change::PinCertificate { .. }
        | Change::UnpinCertificate { .. }
        | Change::DeleteAnchor { .. } => Ok(()),
        Change::AddAnchors { anchors, .. } => {
            let all: usize = anchors.iter().map(|anchor| anchor.der.len()).sum();
            if all > CERTIFICATES {
                return Err("the certificates of one change take more than 8 MiB");
            }
            anchors.iter().try_for_each(anchor)
        }
        Change::UpdateAnchor { name, identity, .. } => {
            [name, identity].into_iter().flatten().try_for_each(|part| text(part))
        }
        Change::SetPossession { step, .. } => match step {
            PossessionStep::NewCode { code, .. } => text(code),
            PossessionStep::Signed | PossessionStep::Vouched => Ok(()),
        },
        Change::AddRevocations { serials, .. } => {
            if serials.len() > MAX_REVOCATIONS_A_CALL {
                return Err("one change revokes at most 5000 serial numbers");
            }
            serials.iter().try_for_each(|(number, _)| serial(number))
        }
        Change::SetOption { category, key, value, .. } => {
            name(category)?;
            name(key)?;
            value.iter().try_for_each(|value| text(value))
        }
        Change::AddSigningKey { row, .. } => {
            name(&row.kid)?;
            name(&row.algorithm)?;
            long(row.sealed.as_bytes())?;
            nul(&row.sealed)
        }
        Change::DeleteSigningKeys { kids } => {
            if i64::try_from(kids.len()).is_ok_and(|count| count <= MAX_SIGNING_KEYS) {
                return kids.iter().try_for_each(|kid| name(kid));
            }
            Err("one change deletes at most 1000 keys")
        }
    }
}

fn registrations(tenant: &TenantId, devices: &[Registration]) -> Result<(), &'static str> {
    if devices.len() > MAX_REGISTRATIONS {
        return Err("one change registers at most 1000 devices");
    }
    for device in devices {
        if device.tenant != *tenant {
            return Err("one change registers devices of one tenant");
        }
        [&device.device_type, &device.name]
            .into_iter()
            .flatten()
            .try_for_each(|part| text(part))?;
    }
    Ok(())
}

fn anchor(anchor: &AnchorRecord) -> Result<(), &'static str> {
    long(&anchor.der)?;
    text(&anchor.name)?;
    text(&anchor.identity)?;
    anchor.possession.code.iter().try_for_each(|code| text(code))
}

fn serial(number: &str) -> Result<(), &'static str> {
    let hex = |digit: u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit);
    match number.as_bytes() {
        [] | [b'0', ..] => Err("a serial number stands without leading zeros, and is not 0"),
        digits if digits.len() > SERIAL => Err("a serial number has at most 20 octets"),
        digits if digits.iter().copied().all(hex) => Ok(()),
        _ => Err("a serial number stands in hex, in upper case"),
    }
}

fn text(text: &str) -> Result<(), &'static str> {
    if text.len() > TEXT {
        return Err("a text has more than 4096 octets");
    }
    nul(text)
}

/// PostgreSQL cannot keep it.
fn nul(text: &str) -> Result<(), &'static str> {
    if text.contains('\0') { Err("a text holds NUL") } else { Ok(()) }
}

/// Part of a row's key.
fn name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("a name is empty"),
        _ if name.len() > 256 => Err("a name has more than 256 octets"),
        _ if name.chars().any(char::is_control) => Err("a name holds a control character"),
        _ => Ok(()),
    }
}

fn long(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() > LONG { Err("a certificate or key has more than 64 KiB") } else { Ok(()) }
}
