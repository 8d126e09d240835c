//! An upstream's model and files → `Pool`.

use super::fault::{Fault, Source, quoted};
use super::files::{Files, open};
use super::reuse::{Print, Printed, Reuse};
use super::upstream_model::UpstreamModel;
use crate::metrics::Metrics;
use crate::upstream::{HealthSettings, Pool, PoolFault, PoolSettings, UpstreamTls};

/// `None` where a fault has been reported.
pub fn compile(
    source: &Source,
    model: &UpstreamModel,
    files: &mut Files,
    reused: &mut Reuse<Pool>,
    metrics: &Metrics,
    faults: &mut Vec<Fault>,
) -> Option<Printed<Pool>> {
    let mut print = Print::new("pool");
    print.part(model.name.value.as_bytes()).part(&model.digest);
    let tls = match &model.tls {
        None => None,
        Some(tls) => {
            let ca = tls.ca_file.as_ref().map(|ca| open(source, ca, files.read(&ca.path), faults));
            let client = tls.certificate.as_ref().map(|client| {
                let chain = open(source, &client.chain, files.read(&client.chain.path), faults);
                let key = open(source, &client.key, files.read_secret(&client.key.path), faults);
                chain.zip(key)
            });
            // Absent is not the same as unreadable: the one is allowed, the other ends here.
            let ca = ca.map_or(Some(None), |ca| ca.map(Some))?;
            let client = client.map_or(Some(None), |client| client.map(Some))?;
            for file in ca.iter().chain(client.iter().flat_map(|(chain, key)| [chain, key])) {
                print.part(&file.sha256);
            }
            Some(UpstreamTls {
                server_name: tls.server_name.clone(),
                ca_pem: ca.map(|file| file.bytes.clone()),
                client: client.map(|(chain, key)| (chain.bytes.clone(), key.bytes.clone())),
                verify: tls.verify,
                http2: tls.http2,
            })
        }
    };
    let print = print.finish();
    let made = reused.get_or_make(print, || {
        let settings = PoolSettings {
            name: model.name.value.clone(),
            servers: model.servers.clone(),
            balance: model.balance,
            tls,
            http2_cleartext: model.http2,
            timeouts: model.timeouts,
            retries: model.retries,
            health: model.health.clone(),
        };
        Pool::new(settings, metrics)
    });
    match made {
        Ok(pool) => Some((pool, print)),
        Err(reason) => {
            faults.push(pool_fault(source, model, &reason));
            None
        }
    }
}

/// The MQTT brokers of an upstream, as a pool of their own. `None` where there are none, or a
/// fault has been reported.
pub fn compile_brokers(
    source: &Source,
    model: &UpstreamModel,
    reused: &mut Reuse<Pool>,
    metrics: &Metrics,
    faults: &mut Vec<Fault>,
) -> Option<Printed<Pool>> {
    if model.brokers.is_empty() {
        return None;
    }
    let mut print = Print::new("brokers");
    print.part(model.name.value.as_bytes()).part(&model.digest);
    let print = print.finish();
    let made = reused.get_or_make(print, || {
        let settings = PoolSettings {
            name: format!("{}/mqtt", model.name.value),
            servers: model.brokers.clone(),
            balance: model.balance,
            tls: None,
            http2_cleartext: false,
            timeouts: model.timeouts,
            retries: model.retries,
            // Connecting tells that a broker is there.
            health: HealthSettings { path: None, ..model.health.clone() },
        };
        Pool::new(settings, metrics)
    });
    match made {
        Ok(pool) => Some((pool, print)),
        Err(reason) => {
            faults.push(pool_fault(source, model, &reason));
            None
        }
    }
}

/// Pointed at the file that is to blame, else at the pool's name.
fn pool_fault(source: &Source, model: &UpstreamModel, reason: &PoolFault) -> Fault {
    let tls = model.tls.as_ref();
    let client = tls.and_then(|tls| tls.certificate.as_ref());
    let file = match reason {
        PoolFault::Ca => tls.and_then(|tls| tls.ca_file.as_ref()),
        PoolFault::ClientChain => client.map(|client| &client.chain),
        PoolFault::ClientKey | PoolFault::ClientMismatch => client.map(|client| &client.key),
        _ => None,
    };
    let at = file.map_or(model.name.at, |file| file.at);
    let message = format!("upstream {}: {reason}", quoted(&model.name.value));
    Fault::at(source, at, message).help("see this upstream")
}
