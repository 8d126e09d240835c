//! The engine behind the registry: SQLite now, PostgreSQL later, with one schema and one
//! set of tests.

use async_trait::async_trait;

use super::StoreFault;
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

/// A row of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    pub device: DeviceId,
    pub status: DeviceStatus,
    pub registered_by: RegisteredBy,
    pub registered_at: UnixSeconds,
    /// When the status was last set.
    pub changed_at: UnixSeconds,
    /// The leaf of the registration, not necessarily the present one.
    pub leaf_sha256: Option<[u8; 32]>,
    /// The anchor that the registration's chain ended in.
    pub anchor_sha256: Option<[u8; 32]>,
}

/// A device to be added.
#[derive(Clone, Debug)]
pub struct Registration {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub registered_by: RegisteredBy,
    pub at: UnixSeconds,
    pub leaf_sha256: Option<[u8; 32]>,
    pub anchor_sha256: Option<[u8; 32]>,
}

/// A change of one row.
#[derive(Clone, Debug)]
pub enum Write {
    /// Adds the device as active; one that is there stays as it is.
    Register(Registration),
    /// Changes a device that is there; adds none.
    SetStatus { tenant: TenantId, device: DeviceId, status: DeviceStatus, at: UnixSeconds },
}

/// Owned by one thread, which calls one method at a time and drops none half-way.
#[async_trait]
pub trait Store: Send {
    /// What an operator knows the store by: a path, or an address without credentials.
    fn location(&self) -> &str;

    /// Applies all of the writes in their order, or none. When it returns, they are durable.
    ///
    /// Gives for each write the status that the device has after it; `None` where the
    /// device is not there. A wrong `Active` would let a blocked device in.
    async fn write(&mut self, writes: &[Write]) -> Result<Vec<Option<DeviceStatus>>, StoreFault>;

    /// Writes something that no device depends on; durable when it returns.
    async fn probe(&mut self) -> Result<(), StoreFault>;

    /// Up to `limit` devices of all tenants, in the engine's order of tenant and id, those
    /// after `after`.
    async fn page(
        &mut self,
        after: Option<&(TenantId, DeviceId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, DeviceId, DeviceStatus)>, StoreFault>;

    /// Up to `limit` devices of one tenant, in the engine's order of id, those after `after`.
    async fn list(
        &mut self,
        tenant: &TenantId,
        after: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreFault>;

    async fn close(self: Box<Self>);
}

impl Write {
    pub fn tenant(&self) -> &TenantId {
        match self {
            Write::Register(registration) => &registration.tenant,
            Write::SetStatus { tenant, .. } => tenant,
        }
    }

    pub fn device(&self) -> &DeviceId {
        match self {
            Write::Register(registration) => &registration.device,
            Write::SetStatus { device, .. } => device,
        }
    }
}

impl DeviceStatus {
    /// As the database holds it.
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceStatus::Active => "active",
            DeviceStatus::Blocked => "blocked",
        }
    }

    pub(super) fn parse(text: &str) -> Result<DeviceStatus, StoreFault> {
        match text {
            "active" => Ok(DeviceStatus::Active),
            "blocked" => Ok(DeviceStatus::Blocked),
            _ => Err(StoreFault::Row("an unknown status")),
        }
    }
}

impl RegisteredBy {
    /// As the database holds it.
    pub fn as_str(self) -> &'static str {
        match self {
            RegisteredBy::Auto => "auto",
            RegisteredBy::Bulk => "bulk",
            RegisteredBy::Manual => "manual",
        }
    }

    pub(super) fn parse(text: &str) -> Result<RegisteredBy, StoreFault> {
        match text {
            "auto" => Ok(RegisteredBy::Auto),
            "bulk" => Ok(RegisteredBy::Bulk),
            "manual" => Ok(RegisteredBy::Manual),
            _ => Err(StoreFault::Row("an unknown way of registration")),
        }
    }
}
