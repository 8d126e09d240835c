//! HTTP to the admin API of an edge.
//!
//! The token goes to the one address that the operator named, and nowhere else: redirects are
//! not followed, links of an answer are not fetched, and what is sent to this machine goes
//! through no proxy. Every answer is bounded in size and time.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use ureq::config::ConfigBuilder;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderValue, Method, Request, Response, Uri};
use ureq::tls::TlsConfig;
use ureq::typestate::AgentScope;
use ureq::{Agent, AsSendBody, Body, SendBody, Timeout};

use super::text::{escaped, field, short};

const CONNECT: Duration = Duration::from_secs(5);
/// From the name's look-up to the last byte of the answer.
const WHOLE: Duration = Duration::from_secs(30);
/// Of an upload: the edge takes nothing, or does not answer. It writes what it has taken
/// before it takes more, which may take it 10 seconds a tenant.
const IDLE: Duration = Duration::from_secs(60);
/// Of an upload: for the edge to say that it wants the body. It is sent then in any case.
const CONTINUE: Duration = Duration::from_secs(3);
/// The largest answer: the longest lists of a bulk registration.
const MOST_ANSWER: u64 = 64 * 1024 * 1024;
/// Characters of a refusal that are shown.
const MOST_MESSAGE: usize = 2_000;
/// What the API tells its callers to send, as this command line has it.
const OWN_WORDS: &[(&str, &str)] =
    &[("?force=true", "--force"), ("by POST to …/verification-code", "by `portcullis trust code`")];

/// Where an edge's admin API is: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    scheme: Scheme,
    authority: Authority,
}

/// A secret; shown by no format.
pub struct Token {
    value: HeaderValue,
    file: PathBuf,
}

/// A client of one edge, with one credential.
pub struct Client {
    base: Base,
    token: Option<Token>,
    usual: Agent,
    /// For uploads.
    long: Agent,
}

/// Why there is no answer as asked for. Each is one line that says what to do, in the words of
/// this command line: what the API says of paths, parameters and its description is not for those
/// who do not send the requests themselves.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The edge said no.
    #[error("{line}")]
    Refused { status: u16, line: String },
    /// No answer, and nothing is known about what the edge did.
    #[error("{0}")]
    NoAnswer(String),
    /// The connection broke while a body was being sent.
    #[error("{0}")]
    BrokeOff(String),
}

impl Failure {
    /// The same, with names of the API as a command has them.
    pub fn in_words(self, words: &[(&str, &str)]) -> Failure {
        match self {
            Failure::Refused { status, line } => {
                Failure::Refused { status, line: in_words(&line, words) }
            }
            other => other,
        }
    }
}

fn in_words(text: &str, words: &[(&str, &str)]) -> String {
    words.iter().fold(text.to_owned(), |text, (api, own)| text.replace(api, own))
}

impl Base {
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Base, String> {
        let like = "write it as http://127.0.0.1:9090 or https://edge.example.com:9090";
        let uri: Uri = text.parse().map_err(|_| format!("not a URL: {like}"))?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(format!("no scheme, or no host: {like}"));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(format!("neither http nor https: {like}"));
        }
        if authority.as_str().contains('@') {
            return Err(format!("user names and passwords have no place in it: {like}"));
        }
        if parts.path_and_query.is_some_and(|path| path.as_str() != "/") {
            return Err(format!("a path has no place in it: {like}"));
        }
        Ok(Base { scheme, authority })
    }

    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Host and port, as a `Host` header has them.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// The name or the IP address, without brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }

    /// The scheme's own, where none stands there.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Whether what is sent there stays on this machine.
    pub fn is_loopback(&self) -> bool {
        match self.host().parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.host().eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Token {
    /// `file`: where it was found, to say so where it is refused.
    pub fn new(text: &str, file: PathBuf) -> Option<Token> {
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Token { value, file })
    }
}

/// The parts of a path below the base, each encoded (RFC 3986 section 3.3).
pub fn path(parts: &[&str]) -> String {
    let mut path = String::new();
    for part in parts {
        path.push('/');
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    path.push(char::from(byte));
                }
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

/// A path, and those parameters that have a value.
pub fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

impl Client {
    pub fn new(base: Base, token: Option<Token>, tls: TlsConfig) -> Client {
        let config = || {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls.clone())
                .timeout_resolve(Some(CONNECT))
                .timeout_connect(Some(CONNECT));
            // ureq's own default is the proxy of the environment.
            if base.is_loopback() { config.proxy(None) } else { config }
        };
        let agent = |config: ConfigBuilder<AgentScope>| Agent::new_with_config(config.build());
        Client {
            usual: agent(config().timeout_global(Some(WHOLE))),
            long: agent(
                config()
                    .timeout_per_read(Some(IDLE))
                    .timeout_per_write(Some(IDLE))
                    .timeout_await_100(Some(CONTINUE)),
            ),
            base,
            token,
        }
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.request(Method::GET, path, ())?;
        self.value(self.ask(&self.usual, request)?)
    }

    /// An answer that is not JSON.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let request = self.request(Method::GET, path, ())?;
        self.bytes(&mut self.ask(&self.usual, request)?)
    }

    /// `POST` or `PUT`, with JSON or without a body. `Null` where the answer has no content.
    pub fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let kind = body.map(|_| "application/json");
        self.send_bytes(method, path, kind, text.as_bytes())
    }

    /// As [`Client::send`], with a body of any type.
    pub fn send_bytes(
        &self,
        method: Method,
        path: &str,
        kind: Option<&'static str>,
        body: &[u8],
    ) -> Result<Value, Failure> {
        let mut request = self.request(method, path, body)?;
        if let Some(kind) = kind {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        self.value(self.ask(&self.usual, request)?)
    }

    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, path, ())?;
        self.value(self.ask(&self.usual, request)?).map(drop)
    }

    /// `POST` of a CSV file of any length, as it is read. An edge that refuses the request by
    /// its header gets nothing of the body.
    pub fn upload(&self, path: &str, csv: &mut dyn Read) -> Result<Value, Failure> {
        let mut request = self.request(Method::POST, path, SendBody::from_reader(csv))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv"));
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        self.value(self.ask(&self.long, request)?)
    }

    fn request<B>(&self, method: Method, path: &str, body: B) -> Result<Request<B>, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.value.clone());
        }
        request.body(body).map_err(|error| Failure::NoAnswer(format!("not a request: {error}")))
    }

    /// An answer of success.
    fn ask(
        &self,
        agent: &Agent,
        request: Request<impl AsSendBody>,
    ) -> Result<Response<Body>, Failure> {
        let mut response = agent.run(request).map_err(|error| self.explain(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(&mut response))
    }

    fn bytes(&self, response: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
        let body = response.body_mut().with_config().limit(MOST_ANSWER).read_to_vec();
        body.map_err(|error| self.explain(error))
    }

    fn value(&self, mut response: Response<Body>) -> Result<Value, Failure> {
        let bytes = self.bytes(&mut response)?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Failure::NoAnswer(format!(
                "{} answers, but not as an admin API: is it the address of another service? \
                 (`--admin URL` names another one)",
                self.base
            ))
        })
    }

    /// The edge's own words, with what to do where they cannot know it.
    fn refusal(&self, response: &mut Response<Body>) -> Failure {
        let status = response.status().as_u16();
        let wait = response.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok());
        let wait = wait.and_then(|wait| wait.parse::<u32>().ok());
        let body = self.bytes(response).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = in_words(&short(&field(&body, "message"), MOST_MESSAGE), OWN_WORDS);
        let mut line = match message.is_empty() {
            false => message,
            true => format!(
                "{} answers with status {status}, and not as an admin API does: is it the address \
                 of another service? (`--admin URL` names another one)",
                self.base
            ),
        };
        if status == 401 {
            let hint = match &self.token {
                Some(token) => format!(
                    " The token in {} is not one of admin.credentials of {}.",
                    token.file.display(),
                    self.base
                ),
                None => " `--token-file FILE` or PORTCULLIS_TOKEN_FILE names the file of a token."
                    .to_owned(),
            };
            line.push_str(&hint);
        }
        if let Some(seconds) = wait {
            line.push_str(&format!(" Try again in {seconds} s."));
        }
        let error = short(&field(&body, "error"), 100);
        if !error.is_empty() {
            line.push_str(&format!(" ({status} {error})"));
        }
        Failure::Refused { status, line }
    }

    fn explain(&self, error: ureq::Error) -> Failure {
        let base = &self.base;
        let other = "`--admin URL` names another admin address";
        let line = match error {
            ureq::Error::HostNotFound => format!("{base}: the host name is not known; {other}"),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                format!("no connection to {base} within {} s; {other}", CONNECT.as_secs())
            }
            ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite) => {
                format!("{base} has been silent for {} s", IDLE.as_secs())
            }
            ureq::Error::Timeout(_) => {
                format!("{base} did not answer within {} s", WHOLE.as_secs())
            }
            ureq::Error::BodyExceedsLimit(most) => {
                format!("the answer of {base} has more than {most} bytes")
            }
            ureq::Error::NativeTls(error) => self.tls_fault(&error.to_string()),
            ureq::Error::Tls(error) => self.tls_fault(error),
            ureq::Error::Io(error) => return self.explain_io(&error),
            ureq::Error::Protocol(error) => format!(
                "{base} does not answer in HTTP ({}); {}",
                escaped(&error.to_string()),
                if base.is_https() { other } else { "does the port take https only?" }
            ),
            error => format!("{base}: {}; {other}", escaped(&error.to_string())),
        };
        Failure::NoAnswer(line)
    }

    fn tls_fault(&self, error: &str) -> String {
        format!(
            "no TLS with {}: {}; `--ca FILE` names the CA of the edge's certificate, \
             `--certificate` and `--key` the client's where the edge wants one",
            self.base,
            escaped(error)
        )
    }

    fn explain_io(&self, error: &io::Error) -> Failure {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof,
        };
        let base = &self.base;
        // With TLS 1.3 the edge refuses a client certificate after the handshake, and whether
        // its alert or the closed connection is seen first, is chance.
        if error.get_ref().is_some_and(|inner| inner.is::<openssl::ssl::Error>()) {
            return Failure::NoAnswer(self.tls_fault(&error.to_string()));
        }
        match error.kind() {
            ConnectionRefused => Failure::NoAnswer(format!(
                "nothing listens at {base}: is the edge running? (`--admin URL` names another \
                 admin address)"
            )),
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => {
                let hint = match base.is_https() {
                    true => {
                        " (where the edge wants a client certificate: `--certificate`, `--key`)"
                    }
                    false => "",
                };
                Failure::BrokeOff(format!("{base} has closed the connection{hint}"))
            }
            _ => Failure::NoAnswer(format!("{base}: {}", escaped(&error.to_string()))),
        }
    }
}
