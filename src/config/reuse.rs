//! What a compile can take over from earlier ones: things known by a hash of all that they
//! were made from, as long as somebody still uses them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use boring::sha::Sha256;

use crate::server_certificate::ServerCertificate;
use crate::tenant::{FileTrust, Tenant};
use crate::token::SigningKeys;
use crate::upstream::Pool;

/// Everything that can be taken over.
#[derive(Default)]
pub struct Reused {
    pub tenants: Reuse<Tenant>,
    pub pools: Reuse<Pool>,
    pub trust: Reuse<FileTrust>,
    pub certificates: Reuse<ServerCertificate>,
    pub keys: Reuse<SigningKeys>,
}

/// Something shared, and the print of all that it was made from.
pub type Printed<T> = (Arc<T>, [u8; 32]);

/// A hash over parts, each with its length in front.
pub struct Print(Sha256);

/// Things of one kind by their print. It keeps nothing alive, so a configuration that was
/// compiled and then not taken leaves nothing behind.
pub struct Reuse<T>(HashMap<[u8; 32], Weak<T>>);

impl Reused {
    pub fn prune(&mut self) {
        self.tenants.prune();
        self.pools.prune();
        self.trust.prune();
        self.certificates.prune();
        self.keys.prune();
    }
}

impl Print {
    /// `kind` keeps prints of different things apart.
    pub fn new(kind: &str) -> Print {
        let mut print = Print(Sha256::new());
        print.part(kind.as_bytes());
        print
    }

    pub fn part(&mut self, bytes: &[u8]) -> &mut Print {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finish()
    }
}

impl<T> Reuse<T> {
    pub fn get(&self, print: &[u8; 32]) -> Option<Arc<T>> {
        self.0.get(print).and_then(Weak::upgrade)
    }

    pub fn get_or_make<E>(
        &mut self,
        print: [u8; 32],
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(known) = self.get(&print) {
            return Ok(known);
        }
        let made = make()?;
        self.0.insert(print, Arc::downgrade(&made));
        Ok(made)
    }

    /// Forgets what nobody uses any more.
    pub fn prune(&mut self) {
        self.0.retain(|_, known| known.strong_count() > 0);
    }
}

impl<T> Default for Reuse<T> {
    fn default() -> Reuse<T> {
        Reuse(HashMap::new())
    }
}
