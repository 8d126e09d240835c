//! Every pin, in memory.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::PinOwner;
use crate::names::{DeviceId, TenantId};

/// Whose a pinned certificate is. Rarely more than one tenant's.
enum Owners {
    One(TenantId, DeviceId),
    Several(HashMap<TenantId, DeviceId>),
}

/// By the certificate's SHA-256. A pin takes about 110 bytes and its device id.
#[derive(Default)]
pub(super) struct Pins(RwLock<HashMap<[u8; 32], Owners>>);

impl Pins {
    pub(super) fn any(&self) -> bool {
        !self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn get(&self, tenant: &TenantId, leaf_sha256: &[u8; 32]) -> Option<DeviceId> {
        let pins = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match pins.get(leaf_sha256)? {
            Owners::One(owner, device) => (owner == tenant).then(|| device.clone()),
            Owners::Several(owners) => owners.get(tenant).cloned(),
        }
    }

    pub(super) fn owner(&self, leaf_sha256: &[u8; 32]) -> PinOwner {
        let pins = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match pins.get(leaf_sha256) {
            None => PinOwner::Nobody,
            Some(Owners::One(tenant, device)) => PinOwner::One(tenant.clone(), device.clone()),
            Some(Owners::Several(_)) => PinOwner::Several,
        }
    }

    /// Takes in news: `None` where a pin is gone. `whole`: what is not among them is gone too.
    pub(super) fn take(&self, news: HashMap<(TenantId, [u8; 32]), Option<DeviceId>>, whole: bool) {
        if news.is_empty() && !whole {
            return;
        }
        // A whole set is made aside: readers wait for no more than the exchange.
        let mut aside = HashMap::new();
        if whole {
            news.into_iter().for_each(|(pin, device)| put(&mut aside, pin, device));
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = aside;
            return;
        }
        let mut pins = self.0.write().unwrap_or_else(PoisonError::into_inner);
        news.into_iter().for_each(|(pin, device)| put(&mut pins, pin, device));
    }
}

fn put(
    pins: &mut HashMap<[u8; 32], Owners>,
    (tenant, leaf_sha256): (TenantId, [u8; 32]),
    device: Option<DeviceId>,
) {
    let mut owners = match pins.remove(&leaf_sha256) {
        None => HashMap::new(),
        Some(Owners::One(tenant, device)) => HashMap::from([(tenant, device)]),
        Some(Owners::Several(owners)) => owners,
    };
    match device {
        Some(device) => owners.insert(tenant, device),
        None => owners.remove(&tenant),
    };
    let owners = match owners.len() {
        0 => return,
        1 => match owners.into_iter().next() {
            Some((tenant, device)) => Owners::One(tenant, device),
            None => return,
        },
        _ => Owners::Several(owners),
    };
    pins.insert(leaf_sha256, owners);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_may_be_pinned_in_several_tenants_and_leaves_them_one_by_one() {
        let pins = Pins::default();
        let tenant = |text| TenantId::parse(text).unwrap();
        let device = |text: &str| DeviceId::parse(text).unwrap();
        let leaf = [7; 32];
        let set = |name, to: Option<&str>| {
            pins.take(HashMap::from([((tenant(name), leaf), to.map(device))]), false);
        };
        assert_eq!(pins.owner(&leaf), PinOwner::Nobody);
        set("a", Some("x"));
        assert_eq!(pins.owner(&leaf), PinOwner::One(tenant("a"), device("x")));
        assert_eq!(pins.get(&tenant("b"), &leaf), None);
        set("b", Some("y"));
        assert_eq!(pins.owner(&leaf), PinOwner::Several);
        assert_eq!(pins.get(&tenant("a"), &leaf), Some(device("x")));
        assert_eq!(pins.get(&tenant("b"), &leaf), Some(device("y")));
        set("a", None);
        assert_eq!(pins.owner(&leaf), PinOwner::One(tenant("b"), device("y")));
        pins.take(HashMap::new(), true);
        assert_eq!(pins.owner(&leaf), PinOwner::Nobody);
    }
}
