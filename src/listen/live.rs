//! Requests that were let through and go on (a WebSocket, a long poll, a download) outlast what
//! they were judged by: they are judged again, and end where they would be refused now.

use std::sync::Arc;

use crate::gate::ClientIdentity;
use crate::refusal::{Refusal, Refused};
use crate::tenant::{ClientCertificateMode, Tenant};

use super::Edge;
use super::connection::{Connection, Ending, Terms};
use super::decide::judge;

/// Connections that are judged before others get the thread.
const AT_A_STRETCH: usize = 64;
/// Of sessions that are connected in an old way, the part that ends at one time.
const OUTDATED_PART: usize = 10;

/// After so many rounds everything is judged, whether anything is known to have changed or not.
const ROUNDS: u32 = 15;

/// Judges connections that have something at the upstream, and ends those whose device is
/// refused. One that waits between requests is judged with its next one, so that the device is
/// told why.
///
/// While nothing has changed only newcomers are judged: what an idle fleet costs does not grow
/// with every look at it.
#[derive(Default)]
pub struct Rounds {
    rounds: u32,
    generation: u64,
    registry: u64,
    /// The first end of a chain's validity among those that were judged.
    valid_until: i64,
    /// Some sessions are connected in an old way.
    outdated: bool,
}

impl Rounds {
    pub async fn judge(&mut self, edge: &Arc<Edge>) {
        let (generation, registry) = (edge.generation_number(), edge.gate.registry().moved());
        let all = self.rounds == 0
            || self.outdated
            || (generation, registry) != (self.generation, self.registry)
            || edge.gate.clock().now() > self.valid_until;
        (self.generation, self.registry) = (generation, registry);
        self.rounds = (self.rounds + 1) % ROUNDS;
        if all {
            self.valid_until = i64::MAX;
        }
        let mut outdated = Vec::new();
        for (n, connection) in edge.connections.forwarding(all).into_iter().enumerate() {
            match still_admitted(edge, &connection).await {
                Ok((tenant, valid_until)) => {
                    self.valid_until = self.valid_until.min(valid_until);
                    if connection.terms().is_some_and(|terms| is_outdated(terms, &tenant)) {
                        outdated.push(connection);
                    }
                }
                // No verdict for want of time; the next round brings one.
                Err(refused) if refused.refusal == Refusal::Overloaded => self.rounds = 0,
                Err(refused) => edge.connections.end(&connection, Ending::Refused(refused)),
            }
            // Deadlines are looked at in between.
            if n % AT_A_STRETCH == AT_A_STRETCH - 1 {
                tokio::task::yield_now().await;
            }
        }
        // A tenth of those that are left, each time: brokers and devices take it in their stride.
        self.outdated = !outdated.is_empty();
        let now = outdated.len().div_ceil(OUTDATED_PART);
        for connection in outdated.into_iter().take(now) {
            edge.connections.end(&connection, Ending::Moved);
        }
    }
}

/// The tenant as it is now, and until when the device's chain is valid.
async fn still_admitted(
    edge: &Arc<Edge>,
    connection: &Connection,
) -> Result<(Arc<Tenant>, i64), Refused> {
    let judged = judge(edge, connection).await?;
    let tenant = &judged.tenant;
    let refuse = |refusal, reason| Err(Refused::new(refusal, reason));
    let terms = connection.terms();
    let valid_until = match &judged.identity {
        ClientIdentity::Verified(chain) => {
            edge.gate.still_admits(tenant, chain)?;
            // The broker was told another name.
            if terms.is_some_and(|terms| terms.device.as_ref() != Some(chain.device())) {
                return refuse(Refusal::Misdirected, "the certificate names another device now");
            }
            chain.valid_until()
        }
        ClientIdentity::Anonymous
            if tenant.client_certificate == ClientCertificateMode::Required =>
        {
            return refuse(Refusal::CertificateMissing, "the tenant requires a certificate now");
        }
        ClientIdentity::Anonymous => {
            let named = terms.and_then(|terms| terms.named.as_ref());
            if named.is_some_and(|id| edge.gate.registry().status(&tenant.id, id).is_some()) {
                return refuse(
                    Refusal::Misdirected,
                    "the client id of a session without a certificate is a registered device's now",
                );
            }
            i64::MAX
        }
        // It was verified when its request went through, by certificates that came with it.
        ClientIdentity::Undecided => {
            return refuse(
                Refusal::ChainIncomplete,
                "the trust changed, and the chain that a header had completed no longer counts",
            );
        }
    };
    Ok((tenant.clone(), valid_until))
}

/// Whether the tenant's devices would be connected in another way now.
fn is_outdated(terms: &Terms, tenant: &Tenant) -> bool {
    let broker = tenant.broker.as_ref();
    let there = broker.is_some_and(|pool| pool.settings().servers.contains(&terms.broker));
    !there || *terms.forward != *tenant.broker_forward
}
