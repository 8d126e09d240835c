//! What is written down of each change.

use std::fmt::Write as _;

use super::text::to_hex;
use super::{AnchorRecord, Change, DeviceOutcome, DeviceStatus, Outcome, PossessionStep};
use crate::names::TenantId;

/// The most octets of a detail and of a target: with actor and tenant a row stays below 8 KiB.
const DETAIL: usize = 6 * 1024;
const TARGET: usize = 1024;
/// Of one text within a list.
const LISTED: usize = 512;

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
                list(&mut detail, DETAIL, anchors.iter().map(described));
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
            Change::SetPossession { tenant, sha256, step } => {
                detail = match step {
                    PossessionStep::NewCode { usable_until, .. } => {
                        format!("step=new_code usable_until={usable_until}")
                    }
                    PossessionStep::Signed => "step=signed confirmed=true".to_owned(),
                    PossessionStep::Vouched => "step=vouched_by_hand confirmed=true".to_owned(),
                };
                (Some(tenant), "anchor.possession", to_hex(sha256))
            }
            Change::AddRevocations { tenant, serials } => {
                let first = serials.first().map(|(serial, _)| serial.clone());
                detail = format!("count={}", serials.len());
                list(&mut detail, DETAIL, serials.iter().map(|(serial, _)| serial.clone()));
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
                let mut target = String::new();
                list(&mut target, TARGET, kids.iter().cloned());
                (None, "signing_key.delete", target)
            }
        };
        detail.truncate(detail.trim_end().len());
        Entry { tenant, action, target: cut(target, TARGET), detail: cut(detail, DETAIL) }
    }
}

fn described(anchor: &AnchorRecord) -> String {
    format!(
        "sha256={} auto_registration={} identity={}",
        to_hex(&anchor.sha256),
        anchor.auto_registration,
        cut(format!("{:?}", anchor.identity), LISTED)
    )
}

/// Adds as many as there is room for within `most` octets, and how many more there are.
fn list(text: &mut String, most: usize, items: impl ExactSizeIterator<Item = String>) {
    const MORE: usize = " and 10000 more".len();
    let mut left = items.len();
    for item in items {
        if text.len() + 1 + item.len() + MORE > most {
            let _ = write!(text, " and {left} more");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&item);
        left -= 1;
    }
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_how_many_more_there_are_and_never_passes_its_bound() {
        for count in [0, 1, 9, 60, 5_000, 10_000] {
            let mut text = format!("count={count}");
            list(&mut text, 1024, (0..count).map(|number| format!("{number:0>20}")));
            assert!(text.len() <= 1024, "{}", text.len());
            let listed = text.split(' ').filter(|word| word.len() == 20).count();
            match text.split_once(" and ") {
                None => assert_eq!(listed, count),
                Some((_, more)) => assert_eq!(more, format!("{} more", count - listed)),
            }
        }
    }

    #[test]
    fn what_is_cut_stays_text_and_within_its_bound() {
        assert_eq!(cut("ab".into(), 2), "ab");
        let long = cut("é".repeat(1000), 100);
        assert!(long.len() <= 100 && long.ends_with('…'), "{long}");
    }
}
