//! The engine behind the registry: one schema, one text of SQL and one set of tests for
//! SQLite and PostgreSQL.

use async_trait::async_trait;

use super::error::Place;
use super::feed::Feed;
use super::{
    Actor, AuditQuery, AuditRecord, Change, DeviceQuery, DeviceRecord, Outcome, Registered,
    Registration, StoreFault,
};
use crate::clock::UnixSeconds;
use crate::names::{DeviceId, TenantId};

/// What registrations came to.
pub struct Registrations {
    /// One for each, in their order.
    pub outcomes: Vec<Registered>,
    /// Nothing else has been written since the last [`Store::follow`]: memory need not ask.
    pub in_step: bool,
}

/// Owned by one thread, which calls one method at a time and drops none half-way.
#[async_trait(?Send)]
pub trait Store: Send {
    /// What an operator knows the store by.
    fn place(&self) -> &Place;

    /// Adds the devices that are not there; the others stay as they are. All or none; when
    /// it returns, they are durable.
    ///
    /// Gives the status that each device has after it. A wrong `Active` would let a blocked
    /// device in.
    async fn register(&mut self, devices: &[Registration]) -> Result<Registrations, StoreFault>;

    /// Makes the change, with its row of the audit trail, or leaves everything as it is.
    /// When it returns, what it made is durable.
    async fn apply(
        &mut self,
        actor: &Actor,
        at: UnixSeconds,
        change: &Change,
    ) -> Result<Outcome, StoreFault>;

    /// What has been written since the last call, by whomever; everything with the first
    /// one, and where the store cannot tell. `None`: nothing.
    async fn follow(&mut self) -> Result<Option<Feed>, StoreFault>;

    /// Writes something that no device depends on; durable when it returns.
    async fn probe(&mut self) -> Result<(), StoreFault>;

    async fn close(self: Box<Self>);
}

/// The same store, only read, over a connection of its own. Owned by one thread, which calls
/// one method at a time and may drop it half-way: the next one works all the same.
#[async_trait(?Send)]
pub trait Answers: Send {
    /// What an operator knows the store by.
    fn place(&self) -> &Place;

    async fn devices(&mut self, query: &DeviceQuery) -> Result<Vec<DeviceRecord>, StoreFault>;

    async fn device(
        &mut self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<DeviceRecord>, StoreFault>;

    async fn device_count(&mut self, tenant: &TenantId) -> Result<u64, StoreFault>;

    async fn audit(&mut self, query: &AuditQuery) -> Result<Vec<AuditRecord>, StoreFault>;

    async fn close(self: Box<Self>);
}
