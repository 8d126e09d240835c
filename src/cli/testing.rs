//! An edge that answers what a test tells it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use serde_json::Value;

/// A request as it came in.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Such as `GET /edge/tenants?limit=20`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer, and when it is given.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Lines, each with its end.
    pub headers: String,
    pub body: Vec<u8>,
    /// How much of the request's body is read first; `None`: all of it.
    pub after: Option<usize>,
}

pub fn answer(status: u16, body: impl ToString) -> Answer {
    Answer { status, headers: String::new(), body: body.to_string().into_bytes(), after: None }
}

/// In the API's form of a refusal.
pub fn refusal(status: u16, error: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "error": error, "message": message, "info": "/openapi.json" });
    answer(status, body)
}

pub struct Edge {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Edge {
    /// `answer` sees the header of each request first.
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> Edge {
        Edge::serve(None, answer)
    }

    pub fn start_tls(
        acceptor: SslAcceptor,
        answer: impl Fn(&Asked) -> Answer + Send + 'static,
    ) -> Edge {
        Edge::serve(Some(acceptor), answer)
    }

    fn serve(
        acceptor: Option<SslAcceptor>,
        answer: impl Fn(&Asked) -> Answer + Send + 'static,
    ) -> Edge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let tcp: TcpStream = tcp.unwrap();
                tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                // What a client does wrong ends its connection, and shows in the test.
                let _ = match &acceptor {
                    None => one(tcp, &answer, &seen),
                    Some(acceptor) => match acceptor.accept(tcp) {
                        Ok(tls) => one(tls, &answer, &seen),
                        Err(_) => Ok(()),
                    },
                };
            }
        });
        Edge { address, asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

fn one(
    stream: impl Read + Write,
    answer: &impl Fn(&Asked) -> Answer,
    seen: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut asked = Asked::default();
    let mut line = String::new();
    stream.read_line(&mut line)?;
    asked.line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let given = answer(&asked);
    if given.after != Some(0) {
        if asked.header("expect").is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        asked.body = body(&mut stream, &asked, given.after.unwrap_or(usize::MAX))?;
    }
    // Before the answer: who has it finds its request here.
    seen.lock().unwrap().push(asked);
    let head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n",
        given.status,
        given.body.len(),
        given.headers
    );
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(&given.body)?;
    stream.get_mut().flush()
}

fn body(stream: &mut impl BufRead, asked: &Asked, most: usize) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = asked.header("content-length") {
        stream.take(length.parse().unwrap()).read_to_end(&mut body)?;
        return Ok(body);
    }
    if asked.header("transfer-encoding").is_none() {
        return Ok(body);
    }
    while body.len() < most {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut piece = vec![0; length + 2];
        stream.read_exact(&mut piece)?;
        if length == 0 {
            break;
        }
        body.extend_from_slice(&piece[..length]);
    }
    Ok(body)
}
