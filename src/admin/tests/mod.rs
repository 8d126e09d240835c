//! The router over a registry of its own, asked as a client would ask it.

mod bulk;
mod certificates;
mod csv;
mod description;
mod devices;
mod edge;
mod matrix;
mod mint;
mod port;
mod revocations;
mod rules;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use boring::sha::sha256;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tempfile::TempDir;

use super::auth::Peer;
use super::keys::{KeyControl, KeyControlFault, KeyInfo};
use super::{Admin, AdminPort, WORKS, routes};
use crate::admin_settings::{AdminSettings, AdminTls, Credential, CredentialSecret, Role};
use crate::clock::Clock;
use crate::config::Compiler;
use crate::gate::Gate;
use crate::listen::{Edge, Generation, TicketKeys};
use crate::metrics::Metrics;
use crate::names::TenantId;
use crate::registry::{Actor, Registry, RegistrySettings};
use crate::token::{Algorithm, KeyState};
use mint::Authority;

/// 2027-01-15T08:00:00Z, when everything minted here is valid.
pub const NOW: i64 = 1_800_000_000;

pub const CONFIG: &str = r#"listeners:
  https:
    - bind: "127.0.0.1:0"
tokens: { lifespan: 1h, signing_keys: [{ kid: k1, file: k1.pem }] }
upstreams:
  platform:
    http: ["127.0.0.1:8080"]
tenants:
  - id: acme
    server_names: [acme.example.com]
    certificate: { chain: server.pem, key: server.key }
    trusted_certificates: [{ file: root.pem }]
    upstream: platform
    tokens: {}
  - id: globex
    server_names: [globex.example.com]
    certificate: { chain: server.pem, key: server.key }
    trusted_certificates: [{ file: root.pem }]
    upstream: platform
"#;

/// Every kind of principal, by its token.
pub const OPERATOR: &str = "operator-token";
pub const VIEWER: &str = "viewer-token";
pub const ACME_OPERATOR: &str = "acme-operator-token";
pub const ACME_VIEWER: &str = "acme-viewer-token";
pub const GLOBEX_OPERATOR: &str = "globex-operator-token";

pub const ACME: &str = "/tenant/tenants/acme";

pub struct World {
    pub directory: TempDir,
    pub clock: Clock,
    pub edge: Arc<Edge>,
    pub keys: Arc<Keys>,
    /// The CA of acme's and globex' configuration.
    pub root: Authority,
    admin: Arc<Admin>,
    router: Router,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{} {:?}", self.status, self.body))
    }

    /// The status, where the answer is an error in the format of the API, or none.
    pub fn refusal(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.status);
        let json = self.json();
        for field in ["error", "message", "info"] {
            assert!(json[field].is_string(), "{field}: {json}");
        }
        assert!(json["error"].as_str().unwrap().contains('/'));
        (self.status, json["message"].as_str().unwrap().to_owned())
    }
}

impl World {
    pub async fn new() -> World {
        World::with(credentials(), CONFIG).await
    }

    pub async fn with(credentials: Vec<Credential>, config: &str) -> World {
        let directory = TempDir::new().unwrap();
        let root = Authority::new("Configured root");
        let (chain, key) = root.server("edge.example.com");
        let write = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("portcullis.yaml", config.as_bytes());
        write("root.pem", root.pem().as_bytes());
        write("server.pem", &chain);
        write("server.key", &key);
        write("k1.pem", &mint::new_key().private_key_to_pem_pkcs8().unwrap());
        let (clock, metrics) = (Clock::manual(NOW), Metrics::new().unwrap());
        let mut compiler = Compiler::new(metrics.clone());
        let compiled = compiler
            .compile(&directory.path().join("portcullis.yaml"))
            .unwrap_or_else(|faults| panic!("{faults}"));
        let path = directory.path().join("registry.db");
        let settings = RegistrySettings::new(format!("sqlite:{}", path.display()));
        let registry = Registry::open(settings, clock.clone(), metrics.clone()).await.unwrap();
        let gate = Gate::new(clock.clone(), metrics.clone(), registry, 100, 100);
        let tickets = TicketKeys::new([7; 32], Duration::from_secs(3600), clock.clone());
        let generation = Generation {
            // Nobody follows the registry here.
            registry_version: u64::MAX,
            number: 1,
            limits: compiled.settings.limits,
            log_requests: false,
            directory: compiled.directory,
        };
        let edge = Arc::new(Edge::new(gate, metrics, tickets, 100, generation));
        let keys = Arc::new(Keys::default());
        let port = AdminPort::new(settings_with(credentials, None), edge.clone(), keys.clone());
        let AdminPort(admin) = port.unwrap();
        let router = routes::router(admin.clone());
        World { directory, clock, edge, keys, root, admin, router }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        self.edge.gate.registry()
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(request("GET", path, Some(token)).body(Body::empty()).unwrap()).await
    }

    pub async fn send(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let request = request(method, path, Some(token))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.ask(request).await
    }

    pub async fn bare(&self, token: &str, method: &str, path: &str) -> Answer {
        self.ask(request(method, path, Some(token)).body(Body::empty()).unwrap()).await
    }

    pub async fn csv(&self, token: &str, method: &str, path: &str, csv: &str) -> Answer {
        let request = request(method, path, Some(token))
            .header("content-type", "text/csv")
            .body(Body::from(csv.to_owned()))
            .unwrap();
        self.ask(request).await
    }

    pub async fn ask(&self, mut request: Request<Body>) -> Answer {
        let address = SocketAddr::from(([192, 0, 2, 1], 4711));
        request.extensions_mut().insert(Peer { address, tls: false, common_name: None });
        let service = TowerToHyperService::new(self.router.clone());
        let response = service.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

pub fn request(method: &str, path: &str, token: Option<&str>) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9090");
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

pub fn settings_with(credentials: Vec<Credential>, tls: Option<AdminTls>) -> AdminSettings {
    let bind = SocketAddr::from(([127, 0, 0, 1], 0));
    AdminSettings { bind, credentials, tls, hosts: vec!["admin.example.com".to_owned()] }
}

pub fn credentials() -> Vec<Credential> {
    let credential = |token: &str, role, tenant: Option<&str>| Credential {
        name: token.trim_end_matches("-token").to_owned(),
        secret: CredentialSecret::Token(sha256(token.as_bytes())),
        role,
        tenant: tenant.map(|tenant| TenantId::parse(tenant).unwrap()),
    };
    vec![
        credential(OPERATOR, Role::Operator, None),
        credential(VIEWER, Role::Viewer, None),
        credential(ACME_OPERATOR, Role::Operator, Some("acme")),
        credential(ACME_VIEWER, Role::Viewer, Some("acme")),
        credential(GLOBEX_OPERATOR, Role::Operator, Some("globex")),
    ]
}

/// Keys without a server behind them.
#[derive(Default)]
pub struct Keys {
    pub rotated: Mutex<Vec<(String, Option<Algorithm>)>>,
    pub deleted: Mutex<HashMap<String, String>>,
}

#[async_trait]
impl KeyControl for Keys {
    fn keys(&self) -> Vec<KeyInfo> {
        let key = |kid: &str, state, published_at| KeyInfo {
            kid: kid.to_owned(),
            algorithm: Algorithm::Es256,
            state,
            published_at: Some(published_at),
            sign_from: Some(published_at + 600),
            retires_at: (state == KeyState::Retired).then_some(NOW + 60),
        };
        vec![
            key("old", KeyState::Retired, NOW - 2_000),
            key("present", KeyState::Signing, NOW - 1_000),
            key("next", KeyState::Published, NOW),
        ]
    }

    async fn rotate(
        &self,
        actor: &Actor,
        algorithm: Option<Algorithm>,
    ) -> Result<(), KeyControlFault> {
        if algorithm == Some(Algorithm::Rs256) {
            return Err(KeyControlFault::AlgorithmNotManaged);
        }
        self.rotated.lock().unwrap().push((actor.name.clone(), algorithm));
        Ok(())
    }

    async fn delete(&self, actor: &Actor, kid: &str, force: bool) -> Result<(), KeyControlFault> {
        match kid {
            "old" => {
                self.deleted.lock().unwrap().insert(kid.to_owned(), actor.name.clone());
                Ok(())
            }
            "present" if !force => Err(KeyControlFault::Signing),
            "present" => Ok(()),
            _ => Err(KeyControlFault::NotFound),
        }
    }
}

#[tokio::test]
async fn probes_need_no_credential_and_no_name() {
    let world = World::new().await;
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        for method in ["GET", "HEAD"] {
            let request = Request::builder().method(method).uri(path).header("host", "probe.local");
            let answer = world.ask(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
            assert_eq!(answer.body, if method == "GET" { body } else { "" });
        }
    }
    world.get(VIEWER, "/edge/tenants").await;
    world.get(VIEWER, "/secret-path-of-somebody").await;
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let metrics = String::from_utf8(world.ask(request).await.body.to_vec()).unwrap();
    let requests =
        |label: &str| format!("portcullis_admin_requests_total{{route=\"{label}\",status=\"");
    assert!(metrics.contains(&requests("tenants")), "{metrics}");
    assert!(metrics.contains(&requests("none")) && !metrics.contains("secret-path"));
    world.edge.start_drain();
    let draining = world.ask(Request::builder().uri("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!((draining.status, &draining.body[..]), (503, &b"draining\n"[..]));
}

#[tokio::test]
async fn work_keeps_its_place_when_its_client_has_gone() {
    let world = World::new().await;
    let (begun, began) = tokio::sync::oneshot::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let admin = world.admin.clone();
    let request = tokio::spawn(async move {
        let work = move || {
            begun.send(()).unwrap();
            // Until the test lets go.
            let _ = ended.recv();
        };
        admin.work(work).await
    });
    began.await.unwrap();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    assert_eq!(world.admin.works.available_permits(), WORKS - 1);
    drop(end);
    let all = world.admin.works.acquire_many(WORKS.try_into().unwrap());
    assert!(tokio::time::timeout(Duration::from_secs(10), all).await.is_ok());
}
