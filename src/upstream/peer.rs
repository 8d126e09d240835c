//! From settings to Pingora's peers, one a server.

use std::net::SocketAddr;
use std::sync::Arc;

use boring::pkey::PKey;
use boring::sha::Sha256;
use boring::x509::X509;
use pingora_core::protocols::tls::{ALPN, CaType};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::CertKey;

use super::settings::{PoolFault, PoolSettings, UpstreamTls};
use crate::names::ServerName;

/// One peer a server. Cloning one copies a few hundred bytes and the server name; keys and CAs
/// are shared.
pub(super) fn peers(settings: &PoolSettings) -> Result<Vec<HttpPeer>, PoolFault> {
    let tls = match &settings.tls {
        Some(_) if settings.http2_cleartext => return Err(PoolFault::CleartextHttp2OverTls),
        Some(tls) => Some(Material::load(tls)?),
        None => None,
    };
    let alpn = match &settings.tls {
        Some(tls) if tls.http2 => ALPN::H2H1,
        None if settings.http2_cleartext => ALPN::H2,
        _ => ALPN::H1,
    };
    let group_key = group_key(tls.as_ref(), &alpn);
    let timeouts = settings.timeouts;
    let peer = |server: &SocketAddr| {
        let server_name = tls.as_ref().map_or("", |tls| tls.server_name.as_str());
        let mut peer = HttpPeer::new(*server, tls.is_some(), server_name.to_owned());
        if let Some(tls) = &tls {
            peer.options.ca = tls.ca.clone();
            peer.options.verify_cert = tls.verify;
            peer.options.verify_hostname = tls.verify;
            peer.client_cert_key = tls.client.clone();
        }
        peer.group_key = group_key;
        peer.options.alpn = alpn.clone();
        peer.options.max_h2_streams = STREAMS_PER_CONNECTION;
        peer.options.h2_stream_window_size = Some(STREAM_WINDOW);
        peer.options.h2_connection_window_size = Some(CONNECTION_WINDOW);
        peer.options.connection_timeout = Some(timeouts.connect);
        peer.options.total_connection_timeout = Some(timeouts.connect);
        peer.options.read_timeout = Some(timeouts.read);
        peer.options.write_timeout = Some(timeouts.write);
        peer.options.idle_timeout = Some(timeouts.idle);
        peer
    };
    Ok(settings.servers.iter().map(peer).collect())
}

/// The least that RFC 9113 §6.5.2 recommends a server to allow. Pingora's default of 1 would
/// make a connection of its own for each concurrent request.
const STREAMS_PER_CONNECTION: usize = 100;
/// What a server may send ahead on one stream: a device that takes nothing holds as much.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Room for every stream's window, so that devices that take nothing never use up the window
/// that other devices' streams on the same connection need.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_PER_CONNECTION as u32;

struct Material {
    server_name: String,
    ca: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    verify: bool,
}

impl Material {
    fn load(tls: &UpstreamTls) -> Result<Material, PoolFault> {
        // Without a server name Pingora would not verify at all.
        let server_name = ServerName::parse(&tls.server_name).map_err(PoolFault::ServerName)?;
        let ca = match &tls.ca_pem {
            Some(pem) => {
                let stack = X509::stack_from_pem(pem).map_err(|_| PoolFault::Ca)?;
                if stack.is_empty() {
                    return Err(PoolFault::Ca);
                }
                Some(Arc::new(stack.into_boxed_slice()))
            }
            None => None,
        };
        let client = match &tls.client {
            Some((chain, key)) => Some(Arc::new(client_certificate(chain, key)?)),
            None => None,
        };
        let server_name = server_name.as_str().to_owned();
        Ok(Material { server_name, ca, client, verify: tls.verify })
    }
}

fn client_certificate(chain: &[u8], key: &[u8]) -> Result<CertKey, PoolFault> {
    let chain = X509::stack_from_pem(chain).map_err(|_| PoolFault::ClientChain)?;
    let leaf = chain.first().ok_or(PoolFault::ClientChain)?;
    let key = PKey::private_key_from_pem(key).map_err(|_| PoolFault::ClientKey)?;
    let public = leaf.public_key().map_err(|_| PoolFault::ClientChain)?;
    if !public.public_eq(&key) {
        return Err(PoolFault::ClientMismatch);
    }
    Ok(CertKey::new(chain, key))
}

/// Separates connections that Pingora would take for alike: its reuse hash covers address,
/// scheme, SNI and verify flags, but of the client certificate only the serial numbers, and
/// neither the CAs nor the ALPN. Equal settings make an equal key, so that connections outlive a
/// reload of the configuration.
fn group_key(tls: Option<&Material>, alpn: &ALPN) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(alpn.to_string().as_bytes());
    if let Some(tls) = tls {
        part(tls.server_name.as_bytes());
        part(&[u8::from(tls.verify), u8::from(tls.ca.is_some()), u8::from(tls.client.is_some())]);
        for certificate in tls.ca.iter().flat_map(|stack| stack.iter()) {
            part(&certificate.to_der().unwrap_or_default());
        }
        part(b"client");
        if let Some(client) = &tls.client {
            part(&client.leaf().to_der().unwrap_or_default());
            for certificate in client.intermediates() {
                part(&certificate.to_der().unwrap_or_default());
            }
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = hash.finish();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use pingora_core::upstreams::peer::Peer;

    use super::*;
    use crate::upstream::mint::{Authority, pool_settings};

    fn tls(ca: &Authority, client: Option<&Authority>) -> UpstreamTls {
        UpstreamTls {
            server_name: "Platform.internal".into(),
            ca_pem: Some(ca.pem()),
            client: client.map(|issuer| issuer.issue("edge", 1)),
            verify: true,
            http2: false,
        }
    }

    fn with(tls: UpstreamTls) -> PoolSettings {
        let mut settings = pool_settings(&["127.0.0.1:1".parse().unwrap()]);
        settings.tls = Some(tls);
        settings
    }

    fn reuse_hash(settings: &PoolSettings) -> u64 {
        peers(settings).unwrap()[0].reuse_hash()
    }

    #[test]
    fn connections_are_never_shared_between_tls_identities() {
        let [first, second] = ["CA", "CA"].map(Authority::new);
        let base = tls(&first, Some(&first));
        // Other key and issuer, the same serial number and subject.
        let other_client = tls(&first, Some(&second));
        let mut variants = vec![
            base.clone(),
            tls(&second, Some(&first)),
            other_client,
            tls(&first, None),
            UpstreamTls { ca_pem: None, ..base.clone() },
            UpstreamTls { verify: false, ..base.clone() },
            UpstreamTls { http2: true, ..base.clone() },
            UpstreamTls { server_name: "other.internal".into(), ..base.clone() },
        ];
        let both = [first.pem(), second.pem()].concat();
        variants.push(UpstreamTls { ca_pem: Some(both), ..base.clone() });
        let count = variants.len();
        let hashes: HashSet<u64> = variants.into_iter().map(|tls| reuse_hash(&with(tls))).collect();
        assert_eq!(hashes.len(), count);
        assert_eq!(reuse_hash(&with(base.clone())), reuse_hash(&with(base)));
    }

    #[test]
    fn cleartext_pools_share_connections_unless_their_protocols_differ() {
        let plain = pool_settings(&["127.0.0.1:1".parse().unwrap()]);
        let h2 = PoolSettings { http2_cleartext: true, ..plain.clone() };
        assert_eq!(reuse_hash(&plain), reuse_hash(&plain.clone()));
        assert_ne!(reuse_hash(&plain), reuse_hash(&h2));
    }

    #[test]
    fn settings_reach_the_peer() {
        let ca = Authority::new("CA");
        let settings = with(UpstreamTls { http2: true, ..tls(&ca, Some(&ca)) });
        let peer = peers(&settings).unwrap().remove(0);
        assert_eq!(peer.sni, "platform.internal");
        assert!(peer.is_tls() && peer.options.verify_cert && peer.options.verify_hostname);
        assert_eq!(peer.options.alpn, ALPN::H2H1);
        assert_eq!(peer.options.ca.as_ref().map(|stack| stack.len()), Some(1));
        assert!(peer.get_client_cert_key().is_some());
        assert_eq!(peer.options.total_connection_timeout, Some(settings.timeouts.connect));
        assert_eq!(peer.options.read_timeout, Some(settings.timeouts.read));
        assert_eq!(peer.options.idle_timeout, Some(settings.timeouts.idle));
    }

    #[test]
    fn unusable_material_is_refused_with_its_reason() {
        let ca = Authority::new("CA");
        let good = tls(&ca, Some(&ca));
        let (chain, key) = ca.issue("edge", 1);
        let other_key = ca.issue("edge", 1).1;
        let fault = |tls: UpstreamTls| peers(&with(tls)).err().unwrap();
        for name in ["", "10.0.0.1", "a b"] {
            let tls = UpstreamTls { server_name: name.into(), ..good.clone() };
            assert!(matches!(fault(tls), PoolFault::ServerName(_)), "{name}");
        }
        for pem in [b"".to_vec(), b"x".to_vec(), key.clone()] {
            let tls = UpstreamTls { ca_pem: Some(pem), ..good.clone() };
            assert!(matches!(fault(tls), PoolFault::Ca));
        }
        let client = |chain: &[u8], key: &[u8]| UpstreamTls {
            client: Some((chain.to_vec(), key.to_vec())),
            ..good.clone()
        };
        assert!(matches!(fault(client(&key, &key)), PoolFault::ClientChain));
        assert!(matches!(fault(client(&chain, &chain)), PoolFault::ClientKey));
        assert!(matches!(fault(client(&chain, &other_key)), PoolFault::ClientMismatch));
        let both = PoolSettings { http2_cleartext: true, ..with(good) };
        assert!(matches!(peers(&both), Err(PoolFault::CleartextHttp2OverTls)));
    }

    #[test]
    fn debug_output_holds_no_key() {
        let ca = Authority::new("CA");
        let text = format!("{:?}", with(tls(&ca, Some(&ca))));
        assert!(!text.contains("PRIVATE") && !text.contains("45, 45"), "{text}");
    }
}
