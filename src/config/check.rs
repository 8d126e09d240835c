//! What the text alone can have wrong across its parts: names used and not defined, or
//! defined twice. No file that the configuration names is opened here.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::decode::nearest;
use super::fault::{Fault, Located, Place, Source, printable, quoted};
use super::load::Loaded;
use super::model::ListenerModel;
use super::tenant_model::TenantModel;
use super::token_model::{KeyModel, RotationModel};
use super::upstream_model::UpstreamModel;
use crate::metrics::Protocol;
use crate::names::{ServerName, ServerPattern, TenantId};
use crate::tenant::{ClientCertificateMode, ForeignBearers};
use crate::token::{MAX_LIFESPAN, ROTATION_SLACK, RotationSettings, RotationSettingsFault};
use crate::upstream::Placeholder;

pub fn cross_references(loaded: &Loaded, faults: &mut Vec<Fault>) {
    listeners(loaded, faults);
    rotation_times(loaded, faults);
    admin_tenants(loaded, faults);
    if let Some(keys) = loaded.edge.tokens.as_ref().and_then(|tokens| tokens.signing_keys.as_ref())
    {
        key_ids(&loaded.source, keys, faults);
    }
    brokers(loaded, faults);
    let mut ids = Taken::default();
    let mut names = Taken::default();
    for (source, tenant) in &loaded.tenants {
        ids.claim(source, &tenant.id, "tenant id", &tenant.id.value, faults);
        for name in &tenant.server_names {
            names.claim(source, name, "server name", &tenant.id.value, faults);
        }
        upstream(loaded, source, tenant, faults);
        tokens(loaded, source, tenant, faults);
    }
}

/// The name that `{server_name}` stands for: the tenant's first without a star.
pub fn first_server_name(tenant: &TenantModel) -> Option<&ServerName> {
    tenant.server_names.iter().find_map(|name| match &name.value {
        ServerPattern::Exact(name) => Some(name),
        ServerPattern::Wildcard(_) => None,
    })
}

/// Whether a tenant's token endpoint is on: as it says; else where there is a `tokens`
/// section for it, its own or the edge's.
pub fn tokens_enabled(loaded: &Loaded, tenant: &TenantModel) -> bool {
    match &tenant.tokens {
        Some(tokens) => tokens.enabled.unwrap_or(true),
        None => loaded.edge.tokens.is_some(),
    }
}

/// Whether a tenant's tokens are signed with keys of its own, not the edge's.
pub fn has_own_keys(tenant: &TenantModel) -> bool {
    tenant.tokens.as_ref().is_some_and(|tokens| tokens.signing_keys.is_some())
}

pub fn rotation(loaded: &Loaded) -> Option<&RotationModel> {
    loaded.edge.tokens.as_ref()?.rotation.as_ref()
}

/// Names that are given once, and where.
struct Taken<'l, T>(HashMap<&'l T, (&'l TenantId, &'l Source, Place)>);

impl<T> Default for Taken<'_, T> {
    fn default() -> Self {
        Taken(HashMap::new())
    }
}

impl<'l, T: Eq + Hash + std::fmt::Display> Taken<'l, T> {
    fn claim(
        &mut self,
        source: &'l Source,
        name: &'l Located<T>,
        what: &str,
        tenant: &'l TenantId,
        faults: &mut Vec<Fault>,
    ) {
        let Some((first, other, at)) = self.0.get(&name.value) else {
            self.0.insert(&name.value, (tenant, source, name.at));
            return;
        };
        let place =
            format!("{}:{}:{}", printable(&other.path.to_string_lossy()), at.line, at.column);
        let message = format!("the {what} `{}` is given twice", name.value);
        let help = format!("first given to tenant `{first}` at {place}");
        faults.push(Fault::at(source, name.at, message).help(help));
    }
}

fn listeners(loaded: &Loaded, faults: &mut Vec<Fault>) {
    let source = &loaded.source;
    let mut binds = HashMap::new();
    for listener in &loaded.edge.listeners {
        let bind = &listener.bind;
        // Port 0 asks the system for any free port.
        if bind.value.port() != 0
            && let Some(line) = binds.insert(bind.value, bind.at.line)
        {
            let message = format!("two listeners bind {}", bind.value);
            faults.push(Fault::at(source, bind.at, message).help(format!("see line {line}")));
        }
        if let Some(certificate) = &listener.tenant_by_certificate {
            let at = certificate.chain.at;
            if listener.default_tenant.is_some() {
                let message = "clients without SNI have two ways to a tenant";
                let help = "write `default_tenant` or `tenant_by_certificate`";
                faults.push(Fault::at(source, at, message).help(help));
            }
            if !listener.client_certificates {
                let message = "`tenant_by_certificate` on a listener that asks for no certificate";
                let help = "leave `client_certificates: false` out";
                faults.push(Fault::at(source, at, message).help(help));
            }
        }
        let Some(default) = &listener.default_tenant else { continue };
        let ids = || loaded.tenants.iter().map(|(_, tenant)| tenant.id.value.as_str());
        // Where a tenant is too faulty to be here, the name may be its.
        if loaded.whole && !ids().any(|id| id == default.value.as_str()) {
            faults.push(unknown(source, default.value.as_str(), default.at, "tenant", ids()));
        }
    }
}

fn rotation_times(loaded: &Loaded, faults: &mut Vec<Fault>) {
    let (Some(model), Some(settings)) = (rotation(loaded), rotation_settings(loaded)) else {
        return;
    };
    for fault in settings.check(loaded.edge.registry.max_staleness).err().into_iter().flatten() {
        let help = "see `tokens.rotation` and `registry.max_staleness`";
        let at = match fault {
            RotationSettingsFault::TooManyKeys { .. }
            | RotationSettingsFault::RotatedTooOften { .. } => model.every_at,
            _ => model.publish_for_at,
        };
        faults.push(Fault::at(&loaded.source, at, fault.to_string()).help(help));
    }
}

/// A superseded key stays published for the longest life that a token can have, whatever
/// today's settings say of it.
pub fn rotation_settings(loaded: &Loaded) -> Option<RotationSettings> {
    let model = rotation(loaded)?;
    Some(RotationSettings {
        every: model.every,
        publish_for: model.publish_for,
        algorithms: model.algorithms.clone(),
        retain: Duration::from_secs(MAX_LIFESPAN.into()) + ROTATION_SLACK,
    })
}

fn admin_tenants(loaded: &Loaded, faults: &mut Vec<Fault>) {
    if !loaded.whole {
        return;
    }
    for principal in &loaded.edge.admin.credentials {
        let Some(tenant) = &principal.tenant else { continue };
        let ids = || loaded.tenants.iter().map(|(_, tenant)| tenant.id.value.as_str());
        if !ids().any(|id| id == tenant.value.as_str()) {
            let id = tenant.value.as_str();
            faults.push(unknown(&loaded.source, id, tenant.at, "tenant", ids()));
        }
    }
}

fn upstream(loaded: &Loaded, source: &Source, tenant: &TenantModel, faults: &mut Vec<Fault>) {
    let names = &loaded.edge.upstream_names;
    if !names.contains(&tenant.upstream.value) {
        let names = names.iter().map(String::as_str);
        let name = &tenant.upstream;
        faults.push(unknown(source, &name.value, name.at, "upstream", names));
    }
}

/// MQTT listeners have a broker, and what brokers are told is true.
fn brokers(loaded: &Loaded, faults: &mut Vec<Fault>) {
    let mqtts = |listener: &&ListenerModel| listener.protocol == Protocol::Mqtts;
    if let Some(listener) = loaded.edge.listeners.iter().find(mqtts)
        && loaded.edge.upstreams.len() == loaded.edge.upstream_names.len()
        && loaded.edge.upstreams.iter().all(|upstream| upstream.brokers.is_empty())
    {
        let message = "devices are served by MQTT and no upstream has a broker";
        let help = "add `mqtt: [\"127.0.0.1:1883\"]` to an upstream";
        faults.push(Fault::at(&loaded.source, listener.bind.at, message).help(help));
    }
    let mut first = HashMap::new();
    for (source, tenant) in &loaded.tenants {
        let (model, forward) = (&tenant.mqtt, &tenant.mqtt.forward);
        if forward.uses_token() && !tokens_enabled(loaded, tenant) {
            let message = "the broker is to be told a token, and tokens are off for this tenant";
            let help = "leave `{token}` out, or add `tokens`";
            faults.push(Fault::at(source, model.at, message).help(help));
        }
        if tenant.client_certificate == ClientCertificateMode::Optional && !forward.proves() {
            let message = "a client without a certificate could send this user name itself";
            let help = "add `password: \"{token}\"`, or write `client_certificate: required`";
            faults.push(Fault::at(source, model.user_name_at, message).help(help));
        }
        let name = tenant.upstream.value.as_str();
        let known = |upstream: &&UpstreamModel| upstream.name.value == name;
        let Some(upstream) = loaded.edge.upstreams.iter().find(known) else { continue };
        if model.written && upstream.brokers.is_empty() {
            let message = format!("the upstream {} of this tenant has no broker", quoted(name));
            let help = "add `mqtt: [\"127.0.0.1:1883\"]` to that upstream";
            faults.push(Fault::at(source, model.at, message).help(help));
        }
        apart(source, tenant, &upstream.brokers, &mut first, faults);
    }
}

/// Tenants that share a broker keep their client ids apart. By address: two upstreams may name
/// one broker. `first`: the tenant that each broker is known from.
fn apart<'l>(
    source: &Source,
    tenant: &'l TenantModel,
    brokers: &[SocketAddr],
    first: &mut HashMap<(IpAddr, u16), &'l TenantModel>,
    faults: &mut Vec<Fault>,
) {
    // Once for each tenant, however many brokers it shares.
    let (mut told, mut told_of_names) = (false, false);
    for broker in brokers {
        // Whoever shares it later is held against the same one.
        let address = (broker.ip().to_canonical(), broker.port());
        let other = *first.entry(address).or_insert(tenant);
        let (ours, theirs) = (&tenant.mqtt.forward.client_id, &other.mqtt.forward.client_id);
        if !std::ptr::eq(tenant, other)
            && !tenant.mqtt.forward.names_tenants()
            && !std::mem::replace(&mut told_of_names, true)
        {
            let message = format!(
                "on the broker {}, which tenant `{}` shares, devices of one name would have one user \
                 name",
                SocketAddr::from(address),
                other.id.value,
            );
            let help =
                "put `{tenant}` into it, such as `\"{tenant}/device_{device}\"`, for each of them";
            faults.push(Fault::at(source, tenant.mqtt.user_name_at, message).help(help));
        }
        let are_apart = ours == theirs && ours.separates(Placeholder::Tenant);
        if told || are_apart || std::ptr::eq(tenant, other) {
            continue;
        }
        told = true;
        let message = format!(
            "tenants `{}` and `{}` share the broker {}, where a client of the one could \
             take over a session of the other",
            other.id.value,
            tenant.id.value,
            SocketAddr::from(address),
        );
        let help = "give both `mqtt: { upstream_client_id: \"{tenant}/{client_id}\" }`, or each a \
                    broker of its own";
        faults.push(Fault::at(source, tenant.mqtt.client_id_at, message).help(help));
    }
}

fn tokens(loaded: &Loaded, source: &Source, tenant: &TenantModel, faults: &mut Vec<Fault>) {
    if let Some(tokens) = tenant.tokens.as_ref().filter(|tokens| tokens.relay)
        && tenant.bearers.foreign == ForeignBearers::Refuse
    {
        let message = "the platform's own tokens would be refused here";
        let help = "with `source: platform` write `foreign: pass`";
        faults.push(Fault::at(source, tokens.at, message).help(help));
    }
    let own_keys = tenant.tokens.as_ref().and_then(|tokens| tokens.signing_keys.as_deref());
    if let Some(keys) = own_keys {
        key_ids(source, keys, faults);
    }
    if !tokens_enabled(loaded, tenant) {
        return;
    }
    let at = tenant.tokens.as_ref().map_or(tenant.at, |tokens| tokens.at);
    let missing = match (own_keys, &loaded.edge.tokens) {
        (Some(own), _) => own.is_empty(),
        (None, Some(edge)) => {
            !edge.rotates && edge.signing_keys.as_ref().is_some_and(Vec::is_empty)
        }
        (None, None) => true,
    };
    let relays = tenant.tokens.as_ref().is_some_and(|tokens| tokens.relay);
    let oauth = tenant.tokens.as_ref().is_some_and(|tokens| tokens.oauth);
    if missing && (!relays || oauth) {
        let message = format!("tenant `{}` issues tokens without a signing key", tenant.id.value);
        let help = "add `signing_keys` here, or `signing_keys` or `rotation` to the edge's `tokens`, \
                    or write `enabled: false`";
        faults.push(Fault::at(source, at, message).help(help));
    }
    if first_server_name(tenant).is_some() {
        return;
    }
    let claims = tenant.tokens.as_ref();
    let claims = claims
        .map(|tokens| (tokens.oauth, [&tokens.issuer, &tokens.audience, &tokens.oauth_issuer]));
    let (oauth, [issuer, audience, oauth_issuer]) = claims.unwrap_or((false, [&None; 3]));
    let oauth_issuer = oauth.then_some((oauth_issuer, "oauth_issuer"));
    for (claim, name) in
        [(issuer, "issuer"), (audience, "audience")].into_iter().chain(oauth_issuer)
    {
        let placeholder = claim.as_ref().is_none_or(|claim| claim.value.contains("{server_name}"));
        if placeholder {
            let at = claim.as_ref().map_or(at, |claim| claim.at);
            let message = format!("the {name} needs a server name without `*`, and there is none");
            let help = format!("write `{name}: …` without a placeholder, or add a server name");
            faults.push(Fault::at(source, at, message).help(help));
        }
    }
}

fn key_ids(source: &Source, keys: &[KeyModel], faults: &mut Vec<Fault>) {
    let mut seen = HashMap::new();
    for key in keys {
        if let Some(line) = seen.insert(&key.kid.value, key.kid.at.line) {
            let message = format!("the key id {} is given twice", quoted(&key.kid.value));
            let help = format!("see line {line}: a new key gets a new id");
            faults.push(Fault::at(source, key.kid.at, message).help(help));
        }
    }
}

fn unknown<'n>(
    source: &Source,
    name: &str,
    at: Place,
    what: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) -> Fault {
    let help = match nearest(name, known.clone()) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => match known.take(5).map(quoted).collect::<Vec<_>>() {
            some if some.is_empty() => format!("no {what} is configured"),
            some => format!("configured: {}", some.join(", ")),
        },
    };
    Fault::at(source, at, format!("unknown {what} {}", quoted(name))).help(help)
}
