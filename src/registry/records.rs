//! What the registry holds, and what it can be asked and told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// Whether a device may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceStatus {
    Active,
    Blocked,
}

/// How a device came into the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisteredBy {
    /// By its first call, under an anchor with automatic registration.
    Auto,
    Bulk,
    Manual,
}

/// A device as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    pub device: DeviceId,
    pub status: DeviceStatus,
    pub registered_by: RegisteredBy,
    pub registered_at: UnixSeconds,
    /// When the status was last set.
    pub changed_at: UnixSeconds,
    /// The end-entity certificate of the registration, not necessarily the present one.
    pub leaf_sha256: Option<[u8; 32]>,
    /// The anchor that the registration's chain ended in.
    pub anchor_sha256: Option<[u8; 32]>,
    pub device_type: Option<String>,
    pub name: Option<String>,
    /// SHA-256 of each end-entity certificate that is pinned to the device, in their order.
    pub pins: Vec<[u8; 32]>,
}

/// A device to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub registered_by: RegisteredBy,
    pub at: UnixSeconds,
    pub leaf_sha256: Option<[u8; 32]>,
    pub anchor_sha256: Option<[u8; 32]>,
    pub device_type: Option<String>,
    pub name: Option<String>,
}

/// What a registration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// As stored: a device that was known and blocked stays blocked.
    pub status: DeviceStatus,
    /// This call added the device; of several calls at once, one did.
    pub created: bool,
}

/// Whether chains may end in an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorStatus {
    Enabled,
    Disabled,
}

/// An uploaded anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorRecord {
    /// Of the DER.
    pub sha256: [u8; 32],
    pub der: Vec<u8>,
    pub name: String,
    pub status: AnchorStatus,
    pub auto_registration: bool,
    /// The text form of the rule that says where the device id stands; `cn` by default.
    pub identity: String,
    pub added_at: UnixSeconds,
    pub changed_at: UnixSeconds,
    pub possession: Possession,
}

/// Whether somebody has shown to hold an anchor's private key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Possession {
    pub confirmed: bool,
    /// The code that is to be signed.
    pub code: Option<String>,
    /// The end of the code's use.
    pub usable_until: UnixSeconds,
}

/// What happens on the way to a confirmed possession.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PossessionStep {
    /// A code to be signed, in place of any other. What was confirmed stays so.
    NewCode { code: String, usable_until: UnixSeconds },
    /// The anchor's key has signed the code.
    Signed,
    /// An operator vouches for it by hand.
    Vouched,
}

/// What the registry adds to a tenant's configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantState {
    /// In the order of their digests.
    pub anchors: Vec<Arc<AnchorRecord>>,
    /// Serial number (hex in upper case, no leading zeros) and date of revocation.
    pub revocations: Arc<BTreeMap<String, UnixSeconds>>,
    /// By category and key.
    pub options: BTreeMap<(String, String), String>,
}

/// A signing key that every node has.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub kid: String,
    /// `ES256` or `RS256`.
    pub algorithm: String,
    /// The encrypted private key in base64; opaque here.
    pub sealed: String,
    pub published_at: UnixSeconds,
    pub sign_from: UnixSeconds,
}

/// Sealed as it is, the key belongs in no log.
impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRow")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .field("published_at", &self.published_at)
            .field("sign_from", &self.sign_from)
            .finish_non_exhaustive()
    }
}

/// One change that somebody made. Kept for [`AUDIT_KEPT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Grows with time; the next page starts before the last one's.
    pub id: i64,
    pub at: UnixSeconds,
    /// Name, and address where there is one.
    pub actor: String,
    /// `None`: the change concerns the edge as a whole.
    pub tenant: Option<TenantId>,
    /// What was done, such as `device.block`.
    pub action: String,
    /// To what: a device id, a digest, a key.
    pub target: String,
    pub detail: String,
}

/// Who asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub peer: Option<IpAddr>,
}

impl Actor {
    /// The edge itself, as when it rotates keys.
    pub fn edge() -> Actor {
        Actor { name: "portcullis".to_owned(), peer: None }
    }
}

/// What somebody wants changed. Times are the registry's own clock's where none is given.
#[derive(Clone, Debug)]
pub enum Change {
    /// At most [`MAX_REGISTRATIONS`], all of `tenant`. Those that are there stay as they are.
    /// `Limit`, and none is added, where the tenant would have more than [`MAX_DEVICES`].
    RegisterDevices { tenant: TenantId, devices: Vec<Registration> },
    /// `NotFound` where the device is not registered.
    SetDeviceStatus { tenant: TenantId, device: DeviceId, status: DeviceStatus },
    /// With its pins. `NotFound` where the device is not registered.
    DeleteDevice { tenant: TenantId, device: DeviceId },
    /// Registers the device (`Manual`) where it is not there. `Existed` where the device has
    /// the pin; `Conflict` where another device of the tenant has it; `Limit` at
    /// [`MAX_PINS`], or where a new device would be one more than [`MAX_DEVICES`].
    PinCertificate { tenant: TenantId, device: DeviceId, leaf_sha256: [u8; 32] },
    /// `NotFound` where the device does not have the pin.
    UnpinCertificate { tenant: TenantId, device: DeviceId, leaf_sha256: [u8; 32] },
    /// All or none: `Conflict` with the index of the first that the tenant has already, or
    /// that stands twice; `Limit` past [`MAX_ANCHORS`] of the tenant.
    AddAnchors { tenant: TenantId, anchors: Vec<AnchorRecord> },
    /// `None` leaves a field as it is. `NotFound` where the tenant does not have the anchor.
    UpdateAnchor {
        tenant: TenantId,
        sha256: [u8; 32],
        name: Option<String>,
        status: Option<AnchorStatus>,
        auto_registration: Option<bool>,
        identity: Option<String>,
    },
    /// `NotFound` where the tenant does not have the anchor.
    DeleteAnchor { tenant: TenantId, sha256: [u8; 32] },
    /// `NotFound` where the tenant does not have the anchor.
    SetPossession { tenant: TenantId, sha256: [u8; 32], step: PossessionStep },
    /// A serial that is there gets the new date. `Limit`
    /// where the tenant would have more than [`MAX_REVOCATIONS`].
    AddRevocations { tenant: TenantId, serials: Vec<(String, UnixSeconds)> },
    /// `value`: `None` deletes, `NotFound` where nothing was there. `Limit` past
    /// [`MAX_OPTIONS`] of the tenant.
    SetOption { tenant: TenantId, category: String, key: String, value: Option<String> },
    /// `Existed` where a key of that algorithm was published at or after
    /// `unless_published_since`: of two nodes that rotate at once, one wins. `Conflict` where
    /// the `kid` is there already; `Limit` past [`MAX_SIGNING_KEYS`].
    AddSigningKey { row: KeyRow, unless_published_since: UnixSeconds },
    /// Those that are there; `NotFound` where none is. At most [`MAX_SIGNING_KEYS`].
    DeleteSigningKeys { kids: Vec<String> },
}

/// What a change came to. Only `Done` and `Devices` have changed anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NotFound,
    /// `index`: of the part that is in the way; 0 where there is one part only.
    Conflict {
        index: usize,
    },
    Existed,
    /// What there is too much of, for whoever asked.
    Limit(&'static str),
    /// One for each registration, in their order.
    Devices(Vec<DeviceOutcome>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOutcome {
    Created,
    Existed,
}

/// Whose pin a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinOwner {
    Nobody,
    One(TenantId, DeviceId),
    /// Devices of several tenants.
    Several,
}

/// A page of one tenant's devices, in the order of their ids.
#[derive(Clone, Debug)]
pub struct DeviceQuery {
    pub tenant: TenantId,
    /// The page starts behind this one.
    pub after: Option<DeviceId>,
    /// At most [`MAX_PAGE`].
    pub limit: u32,
    pub status: Option<DeviceStatus>,
    /// How the id starts, to the letter: nothing in it is a wildcard.
    pub id_prefix: Option<String>,
}

/// A page of the audit trail, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// `None`: every tenant, and the edge as a whole.
    pub tenant: Option<TenantId>,
    /// The page starts behind this one.
    pub before: Option<i64>,
    /// At most [`MAX_PAGE`].
    pub limit: u32,
}

/// The most rows that one question gives.
pub const MAX_PAGE: u32 = 1000;
/// The most devices of one [`Change::RegisterDevices`].
pub const MAX_REGISTRATIONS: usize = 1000;
/// The most devices that changes may leave a tenant with. First calls under an anchor with
/// automatic registration are not bounded by it.
pub const MAX_DEVICES: u64 = 10_000_000;
/// How long the audit trail reaches back, in seconds: 400 days.
pub const AUDIT_KEPT: i64 = 400 * 24 * 60 * 60;
/// The most pins of a device.
pub const MAX_PINS: i64 = 16;
/// The most anchors of a tenant.
pub const MAX_ANCHORS: i64 = 10_000;
/// The most serials of one [`Change::AddRevocations`].
pub const MAX_REVOCATIONS_A_CALL: usize = 5_000;
/// The most revoked serials of a tenant.
pub const MAX_REVOCATIONS: i64 = 100_000;
/// The most options of a tenant.
pub const MAX_OPTIONS: i64 = 1000;
/// The most signing keys.
pub const MAX_SIGNING_KEYS: i64 = 1000;
