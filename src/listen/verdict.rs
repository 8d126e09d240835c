//! Verdicts on presented chains: at once where they are cached or cheap, else on the blocking
//! pool.

use std::sync::Arc;

use crate::gate::Resolved;
use crate::refusal::{Refusal, Refused};
use crate::tenant::Tenant;
use crate::trust::Verdict;

use super::peer_chain::PeerChain;
use super::{Edge, Generation};

/// The verdict on a presented chain, from the cache, at once, or from the blocking pool.
pub async fn verdict_of(edge: &Arc<Edge>, tenant: &Arc<Tenant>, chain: &PeerChain) -> Verdict {
    let ders = chain.ders();
    if let Some(verdict) = edge.gate.quick_verdict(tenant, &ders, &[]) {
        return verdict;
    }
    let owned: Vec<Vec<u8>> = ders.into_iter().map(<[u8]>::to_vec).collect();
    verdict_off_worker(edge, tenant, owned, Vec::new()).await
}

/// Which tenant a chain without SNI belongs to, and the verdict on it there.
pub async fn resolved(
    edge: &Arc<Edge>,
    generation: &Arc<Generation>,
    chain: &PeerChain,
) -> Result<Resolved, Refused> {
    let ders = chain.ders();
    if let Some(resolved) = edge.gate.quick_resolve(&generation.directory, &ders) {
        return resolved;
    }
    let owned: Vec<Vec<u8>> = ders.into_iter().map(<[u8]>::to_vec).collect();
    let (for_gate, generation) = (edge.clone(), generation.clone());
    off_worker(edge, move || {
        let chain: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
        for_gate.gate.resolve(&generation.directory, &chain)
    })
    .await
    .and_then(|resolved| resolved)
}

/// The verdict on a long chain, or on one completed by a header.
pub async fn verdict_off_worker(
    edge: &Arc<Edge>,
    tenant: &Arc<Tenant>,
    chain: Vec<Vec<u8>>,
    extra: Vec<Vec<u8>>,
) -> Verdict {
    let (for_gate, tenant) = (edge.clone(), tenant.clone());
    off_worker(edge, move || {
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let extra: Vec<&[u8]> = extra.iter().map(Vec::as_slice).collect();
        for_gate.gate.verdict(&tenant, &chain, &extra)
    })
    .await
    .unwrap_or_else(Verdict::Refused)
}

/// Runs the verifier where blocking is allowed.
async fn off_worker<T: Send + 'static>(
    edge: &Arc<Edge>,
    verify: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    // A few at a time: hostile chains must not take the cores from good ones. The wait for a
    // turn counts against the handshake's or the request's deadline.
    let Ok(_turn) = edge.verifications.acquire().await else {
        return Err(Refused::new(Refusal::Overloaded, "the edge is stopping"));
    };
    tokio::task::spawn_blocking(verify)
        .await
        .map_err(|_| Refused::new(Refusal::CertificateMalformed, "the verifier did not answer"))
}
